"""CPU engines: a native kernel for each proof of work."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from quantus_miner import native
from quantus_miner.backends.autotune import fastest_kernels
from quantus_miner.backends.base import EngineStatus
from quantus_miner.errors import EngineUnavailableError, SettingError
from quantus_miner.model import Job, Pow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantus_miner.backends.backend import EngineOptions, Resources
    from quantus_miner.backends.base import Control


class CpuEngine:
    """Searches on ``workers`` threads with one kernel for each proof of work.

    ``fits(options)`` returns True if the options ask for these kernels.
    """

    def __init__(
        self,
        name: str,
        workers: int,
        kernels: Mapping[Pow, native.Kernel],
        fits: Callable[[EngineOptions], bool] = lambda _: False,
    ) -> None:
        self.name = name
        self.workers = workers
        self._kernels = kernels
        self._fits = fits

    def status(self) -> EngineStatus:
        """See Engine.status."""
        return EngineStatus()

    def kernel(self, pow: Pow) -> str | None:  # noqa: A002 - the field's word
        """Return the name of the kernel for ``pow``."""
        return self._kernels[pow].name

    def search(self, job: Job, start: int, count: int, control: Control) -> native.Outcome:
        """See Engine.search."""
        return native.search(self._kernels[job.pow], native.prepare(job), start, count, control.native)

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        """See Engine.adapt. Another kernel needs another engine."""
        return partial(setattr, self, "workers", workers) if self._fits(options) else None

    def close(self) -> None:
        """See Engine.close."""


def create_fast(name: str, options: EngineOptions, resources: Resources) -> CpuEngine:
    """Return an engine with the fastest kernels, or the one that the options name. See Backend."""
    if options.kernel is None:
        kernels = fastest_kernels(options.state_dir / "kernels.json")
    else:
        kernels = fast_kernels(options.kernel)
    return CpuEngine(name, resources.workers, kernels, lambda other: other.kernel == options.kernel)


def create_baseline(name: str, _: EngineOptions, resources: Resources) -> CpuEngine:
    """Return an engine with the baseline kernels. See Backend."""
    return CpuEngine(name, resources.workers, baseline_kernels(), lambda _: True)


def baseline_kernels() -> dict[Pow, native.Kernel]:
    """Return the reference kernel of each proof of work: every nonce in full, nothing shared between nonces."""
    return {pow_: native.find_kernel(pow_, "baseline") for pow_ in Pow}


def fast_kernels(name: str | None) -> dict[Pow, native.Kernel]:
    """Return the fastest kernel of each proof of work, or the one called ``name`` if the proof of work has it.

    Raises SettingError if no kernel has that name, EngineUnavailableError if this processor cannot run it.
    """
    named = [kernel for kernel in native.kernels() if kernel.name == name]
    if name is not None and not named:
        known = sorted({kernel.name for kernel in native.kernels()})
        raise SettingError(f"--kernel: there is no kernel {name!r}; allowed: {', '.join(known)}")
    if any(not kernel.supported for kernel in named):
        raise EngineUnavailableError(f"kernel {name!r} is not available: this processor cannot run it; leave it unset")
    chosen = {pow_: native.find_kernel(pow_, None) for pow_ in Pow}
    return chosen | {kernel.pow: kernel for kernel in named}
