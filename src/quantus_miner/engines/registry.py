"""Makes engines by name, tested on known vectors before they are given work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantus_miner.engines.autotune import fastest_kernels
from quantus_miner.engines.cpu import CpuEngine, baseline_kernels, fast_kernels
from quantus_miner.engines.selftest import self_test
from quantus_miner.engines.throttled import ThrottledEngine
from quantus_miner.errors import EngineUnavailableError, SettingError

if TYPE_CHECKING:
    from quantus_miner.engines.base import Engine
    from quantus_miner.settings import Settings


def create_engines(settings: Settings, workers: int) -> list[Engine]:
    """The engines that ``settings.engine`` names; the CPU engines share ``workers`` threads evenly.

    Raises EngineUnavailableError where one cannot run here or fails its self test, SettingError where there are
    more CPU engines than workers or the kernel is unknown.
    """
    names = settings.engine
    cpu_names = [name for name in names if name.startswith("cpu-")]
    if len(cpu_names) > workers:
        raise SettingError(f"--engine: {len(cpu_names)} CPU engines need {len(cpu_names)} workers, there are {workers}")
    shares = {name: len(range(turn, workers, len(cpu_names))) for turn, name in enumerate(cpu_names)}
    return [_create(name, settings, shares.get(name, 0)) for name in names]


def unavailable_reason(name: str) -> str | None:
    """Why the engine called ``name`` cannot run on this machine; None where it can."""
    return "this version has no GPU kernels" if name.startswith("gpu-") else None


def _create(name: str, settings: Settings, workers: int) -> Engine:
    if reason := unavailable_reason(name):
        raise EngineUnavailableError(f"engine '{name}' is not available: {reason}; use cpu-fast or cpu-baseline")
    if name == "cpu-baseline":
        return _tested(CpuEngine(name, workers, baseline_kernels()))
    if settings.kernel is None:
        kernels = fastest_kernels(settings.state_dir / "kernels.json")
    else:
        kernels = fast_kernels(settings.kernel)
    fast = _tested(CpuEngine(name, workers, kernels))
    if name == "cpu-fast":
        return fast
    return ThrottledEngine(
        name,
        fast,
        solved_blocks=settings.manip_solved_blocks,
        base_delay_ns=settings.manip_base_delay_ns,
        step_batch=settings.manip_step_batch,
        throttle_cap=settings.manip_throttle_cap,
        state_file=settings.state_dir / "solved-blocks",
    )


def _tested(engine: CpuEngine) -> CpuEngine:
    self_test(engine)
    return engine
