"""What the tests of GPU engines share: jobs, searches, and a launcher that is watched."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import native
from quantus_miner.backends.base import Control
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import drivers
from quantus_miner.model import Job, NonceRange, Order, Pow, Status, target_from_difficulty
from quantus_miner.pow.order import last_position, nonce_at
from quantus_miner.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantus_miner.gpu.device import Device, Launcher, Readout
    from quantus_miner.mining.miner import Miner
    from quantus_miner.native import Outcome


HEADER = bytes(range(32))
WAIT_S = 60.0
SCALAR = native.find_kernel(Pow.POSEIDON2, "scalar")
each_order = pytest.mark.parametrize("order", Order)


def a_job(order: Order, difficulty: int, header: bytes = HEADER) -> Job:
    target = target_from_difficulty(difficulty)
    return Job(f"{order} {difficulty}", Pow.POSEIDON2, header, target, (NonceRange(0, last_position(order)),), order)


def hits_of(job: Job, start: int, count: int) -> list[int]:
    """The positions of all valid nonces, by a kernel of the CPU."""
    prepared, found, end = native.prepare(job), [], start + count
    while start < end:
        outcome = native.search(SCALAR, prepared, start, end - start, native.NativeControl())
        start += outcome.tested
        if outcome.nonce is not None:
            found.append(start - 1)
    return found


def search(engine: GpuEngine, job: Job, start: int, count: int, control: Control | None = None) -> Outcome:
    control = control or Control()
    control.reset()
    outcome = engine.search(job, start, count, control)
    assert control.hashes == outcome.tested
    return outcome


def search_all(engine: GpuEngine, job: Job, start: int, count: int) -> list[int]:
    """The positions of all hits, each search going on behind the hit of the last one."""
    found, end = [], start + count
    while start < end:
        outcome = search(engine, job, start, end - start)
        start += outcome.tested
        if outcome.nonce is not None:
            assert outcome.nonce == nonce_at(job.order, start - 1)
            found.append(start - 1)
        else:
            assert start == end
    return found


def exhaust(miner: Miner, count: int) -> int:
    """Has the miner search ``count`` nonces that are not valid; how many it says it tested."""
    ended = threading.Event()
    job = Job("a", Pow.POSEIDON2, HEADER, 0, (NonceRange(0, count - 1),), Order.WALK)
    found = miner.submit(job, lambda _: ended.set())
    assert ended.wait(WAIT_S)
    assert found.status is Status.FAILED
    return miner.hashes(found)


def settings(tmp_path: Path, engine: str, **flags: str) -> Any:
    return load({"state_dir": str(tmp_path), "engine": engine, **flags}, {}, None)


class Watched:
    """A real launcher; writes down (words, first, count) of each launch, and fails or lies where it is told to."""

    def __init__(self, inner: Launcher) -> None:
        self.inner = inner
        self.launches: list[tuple[Order, tuple[int, ...], int, int]] = []
        self.most_in_flight = self.in_flight = 0
        self.fail_at: int | None = None  # number of the launch that fails
        self.lie: Callable[[Readout], Readout] = lambda readout: readout
        self.closed = False

    @property
    def multiprocessors(self) -> int:
        return self.inner.multiprocessors

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        if len(self.launches) == self.fail_at:
            raise DeviceLostError("unplugged")
        self.launches.append((order, words, first, count))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.inner.launch(order, words, top_target, first, count, blocks)

    def collect(self) -> Readout:
        self.in_flight -= 1
        return self.lie(self.inner.collect())

    def close(self) -> None:
        self.closed = True
        self.inner.close()


def engine_on(cpu: Device, open_device: Callable[[], Launcher], **options: Any) -> GpuEngine:
    """An engine that is not open yet."""
    return GpuEngine("gpu-opencl", cpu, open_device, language="opencl", blocks=1, **options)


def open_watched(cpu: Device, folder: Path, opened: list[Watched]) -> Watched:
    opened.append(Watched(drivers.load("opencl").open_device(cpu, folder)))
    return opened[-1]
