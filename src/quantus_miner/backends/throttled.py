"""An engine that slows down with every solved job, to lower the difficulty of a test network."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from quantus_miner.backends import cpu
from quantus_miner.backends.backend import Resources
from quantus_miner.backends.selftest import self_test
from quantus_miner.host import files
from quantus_miner.native import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantus_miner.backends.backend import EngineOptions
    from quantus_miner.backends.base import Control, EngineStatus
    from quantus_miner.model import Job, Pow

log = logging.getLogger("miner.throttle")

STATE_FILE: Final = "solved-blocks"


class ThrottledEngine:
    """Makes each worker sleep ``min(solved_blocks, throttle_cap) * base_delay_ns`` after every ``step_batch`` nonces.

    ``solved_blocks`` starts at the given number, or at the count of the last run in the state file, and grows by one
    for each solved job. ``throttle_cap`` 0: no cap.
    """

    def __init__(
        self,
        name: str,
        inner: cpu.CpuEngine,
        *,
        solved_blocks: int | None,
        base_delay_ns: int,
        step_batch: int,
        throttle_cap: int,
        state_file: Path,
    ) -> None:
        self.name = name
        self._inner = inner
        self._given = solved_blocks
        self._base_delay_ns = base_delay_ns
        self._step_batch = step_batch
        self._throttle_cap = throttle_cap
        self._state_file = state_file
        self._lock = threading.Lock()
        self._closed = False
        self._sleepers = threading.Lock()  # never held while a file is written, unlike _lock
        self._sleeping: set[Control] = set()
        self._thread = threading.local()
        self.solved_blocks = self._load() if solved_blocks is None else solved_blocks

    @property
    def workers(self) -> int:
        """See Engine.workers."""
        return self._inner.workers

    @property
    def delay(self) -> float:
        """Seconds of one sleep."""
        counted = min(self.solved_blocks, self._throttle_cap) if self._throttle_cap else self.solved_blocks
        return counted * self._base_delay_ns / 1e9

    def status(self) -> EngineStatus:
        """See Engine.status."""
        return self._inner.status()

    def kernel(self, pow: Pow) -> str | None:  # noqa: A002 - the field's word
        """Return the name of the kernel for ``pow``."""
        return self._inner.kernel(pow)

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        """See Engine.search. A batch may span slices. A hit is returned before the sleep that follows its batch."""
        tested = 0
        while tested < count:
            due: int = min(getattr(self._thread, "due", self._step_batch), self._step_batch)
            if due == 0:
                self._thread.due = due = self._step_batch
                if self._sleep(control):
                    break
            batch = min(due, count - tested)
            outcome = self._inner.search(job, start + tested, batch, control)
            tested += outcome.tested
            self._thread.due = due - outcome.tested
            if outcome.nonce is not None or outcome.tested < batch:
                return Outcome(tested, outcome.nonce)
        return Outcome(tested, None)

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        """See Engine.adapt. The count continues unless the options give another one."""
        if options.state_dir / STATE_FILE != self._state_file:
            return None
        inner = self._inner
        change_inner = inner.adapt(options, workers)
        if change_inner is None:
            inner = cpu.create_fast(self.name, options, Resources(workers, None, lambda _: None))
            self_test(inner)

        def change() -> None:
            if change_inner is not None:
                change_inner()
            self._inner = inner
            self._base_delay_ns = options.manip_base_delay_ns
            self._step_batch = options.manip_step_batch
            self._throttle_cap = options.manip_throttle_cap
            with self._lock:
                given, self._given = self._given, options.manip_solved_blocks
                if self._given is not None and self._given != given:
                    self.solved_blocks = self._given
            with self._sleepers:
                for control in self._sleeping:
                    control.stop()  # under the old settings the sleep could last for hours

        return change

    def close(self) -> None:
        """See Engine.close. Solved jobs are no longer counted."""
        self._closed = True

    def on_job_solved(self) -> None:
        """Count one more solved job, which makes sleeps longer, also after a restart."""
        with self._lock:
            if self._closed:  # another engine counts now
                return
            self.solved_blocks += 1
            try:
                files.replace(self._state_file, f"{self.solved_blocks}\n")
            except OSError as error:
                log.warning("Cannot keep the count of solved blocks in %s: %s", self._state_file, error)

    def _sleep(self, control: Control) -> bool:
        with self._sleepers:
            self._sleeping.add(control)
        try:
            return control.sleep(self.delay)
        finally:
            with self._sleepers:
                self._sleeping.discard(control)

    def _load(self) -> int:
        try:
            text = files.read(self._state_file, 100).decode("ascii").strip()
        except FileNotFoundError:
            return 0
        except (OSError, UnicodeDecodeError) as error:
            log.warning("Cannot read the count of solved blocks from %s: %s; starting at 0", self._state_file, error)
            return 0
        if not (text.isdigit() and len(text) <= 30):
            log.warning("The count of solved blocks in %s is damaged; starting at 0", self._state_file)
            return 0
        return int(text)


def create(name: str, options: EngineOptions, resources: Resources) -> ThrottledEngine:
    """Return an engine that throttles the fastest kernels. See Backend."""
    engine = ThrottledEngine(
        name,
        cpu.create_fast(name, options, resources),
        solved_blocks=options.manip_solved_blocks,
        base_delay_ns=options.manip_base_delay_ns,
        step_batch=options.manip_step_batch,
        throttle_cap=options.manip_throttle_cap,
        state_file=options.state_dir / STATE_FILE,
    )
    resources.subscribe(engine.on_job_solved)
    return engine
