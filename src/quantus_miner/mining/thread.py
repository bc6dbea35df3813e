"""The thread of a worker."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import DeviceLostError, DevicePausedError, describe
from quantus_miner.events import DeviceChanged
from quantus_miner.host import cpus
from quantus_miner.mining.confirm import confirm
from quantus_miner.native import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantus_miner.mining.miner import Miner
    from quantus_miner.mining.worker import Worker

log = logging.getLogger("miner")

PAUSE_S: Final = 1.0
"""Seconds between two attempts to use a device that pauses."""


class WorkerThread(threading.Thread):
    """Searches slices of ``miner`` for ``worker`` until the worker must end.

    ``publish``: called when the worker's device is lost or comes back. It must not raise.
    """

    def __init__(self, miner: Miner, worker: Worker, publish: Callable[[DeviceChanged], None]) -> None:
        super().__init__(name=f"miner-{worker.index}", daemon=True)
        self._miner = miner
        self._worker = worker
        self._engine = worker.engine
        self._publish = publish
        self._pinned: frozenset[int] | None = None

    def run(self) -> None:
        """See Thread.run."""
        try:
            self._search_slices()
        except BaseException as error:  # of any kind: a worker whose thread has ended must not seem alive
            self.fail(error)
        self._miner.on_thread_end(self._worker)

    def fail(self, error: BaseException) -> None:
        """Retire the worker because of ``error``."""
        worker = self._worker
        log.error(
            "Worker %d of engine %s failed and is retired",
            worker.index,
            self._engine.name,
            exc_info=error,
            extra=self._fields,
        )
        self._miner.retire(worker)
        self._tell(up=False, reason=describe(error))

    def _search_slices(self) -> None:
        miner, worker = self._miner, self._worker
        cpus.yield_priority()
        if worker.device is None:
            cpus.take_long_turns()
        anywhere = cpus.own_affinity()
        self._pin(worker.affinity, anywhere)
        while (taken := miner.next_slice(worker)) is not None:
            search, start, count = taken
            self._pin(worker.affinity, anywhere)
            try:
                outcome = self._engine.search(search.job, start, count, worker.control)
                solution = None if outcome.nonce is None else confirm(self._engine, search.job, outcome.nonce)
            except DeviceLostError as error:
                miner.finish_slice(worker, search, start, count, Outcome(worker.control.hashes, None), None)
                self._sit_out(error)
                continue
            except DevicePausedError:
                miner.finish_slice(worker, search, start, count, Outcome(worker.control.hashes, None), None)
                miner.wait(worker, PAUSE_S)
                continue
            if worker.lost:
                self._come_back()
            miner.finish_slice(worker, search, start, count, outcome, solution)

    def _pin(self, wanted: frozenset[int] | None, anywhere: frozenset[int]) -> None:
        if wanted == self._pinned:
            return
        self._pinned = wanted
        if not cpus.pin_thread(wanted or anywhere) and wanted:
            log.warning("Cannot keep worker %d on CPUs %s; it runs on any", self._worker.index, sorted(wanted))

    def _sit_out(self, error: DeviceLostError) -> None:
        """Wait with a lost device until it is time for the next attempt, which comes with the next slice."""
        worker = self._worker
        if not worker.lost:
            worker.lost = True
            log.error(
                "Worker %d of engine %s has lost its device: %s",
                worker.index,
                self._engine.name,
                error,
                extra=self._fields,
            )
            self._tell(up=False, reason=str(error))
        wait_s = worker.backoff.wait_s(0)
        log.debug("Worker %d: %s; next try in %g s", worker.index, error, wait_s, extra=self._fields)
        self._miner.wait(worker, wait_s)

    def _come_back(self) -> None:
        worker = self._worker
        worker.lost = False
        worker.backoff.reset()
        log.info("Worker %d of engine %s has its device back", worker.index, self._engine.name, extra=self._fields)
        self._tell(up=True)

    @property
    def _fields(self) -> Mapping[str, str]:
        device = self._worker.device
        return {} if device is None else {"device": device.id}

    def _tell(self, *, up: bool, reason: str = "") -> None:
        device = self._worker.device
        if device is not None:
            self._publish(DeviceChanged(device.id, self._engine.name, up, reason))
