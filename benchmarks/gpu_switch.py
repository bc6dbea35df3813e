"""How fast a GPU's worker is on a new job, and what it costs the host: on a card, or on one that only keeps time."""

from __future__ import annotations

import random
import secrets
import statistics
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from quantus_miner import units
from quantus_miner.backends import gpu as gpu_engine
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.gpu.device import Device, Readout
from quantus_miner.gpu.tuning import BLOCKS
from quantus_miner.mining.miner import Miner
from quantus_miner.model import Job, Order, Pow
from quantus_miner.pow.order import positions_from
from quantus_miner.settings import load

if TYPE_CHECKING:
    from quantus_miner.gpu.device import Launcher
    from quantus_miner.mining.search import Search

RATE: Final = 1e9
"""Nonces a second of the simulated device."""


class SimulatedLauncher:
    """A launch takes count / RATE after the one before it, and finds nothing."""

    multiprocessors = 128

    def __init__(self) -> None:
        self.free = self.idle = 0.0
        """When the last launch ends, of perf_counter; seconds without one."""
        self._queued: deque[tuple[float, float]] = deque()

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        """See Launcher."""
        del order, words, top_target, first, blocks
        seconds = count / RATE
        begin = max(time.perf_counter(), self.free)
        self.idle += begin - self.free
        self.free = begin + seconds
        self._queued.append((self.free, seconds))

    def collect(self) -> Readout:
        """See Launcher."""
        end, seconds = self._queued.popleft()
        time.sleep(max(0.0, end - time.perf_counter()))
        return Readout(seconds, 0, ())

    def close(self) -> None:
        """See Launcher."""


class WatchedLauncher:
    """Passes everything on to another launcher, and notes when it is called."""

    def __init__(self, inner: Launcher) -> None:
        self.inner = inner
        self.words: tuple[int, ...] = ()
        self.called = 0.0
        """When the last launch was called; perf_counter."""
        self.cpu = 0.0
        """The calling thread's CPU time at that moment."""
        self.changed = threading.Condition()

    @property
    def multiprocessors(self) -> int:
        """See Launcher."""
        return self.inner.multiprocessors

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        """See Launcher."""
        self.inner.launch(order, words, top_target, first, count, blocks)
        with self.changed:
            self.words, self.called, self.cpu = words, time.perf_counter(), time.thread_time()
            self.changed.notify_all()

    def collect(self) -> Readout:
        """See Launcher."""
        return self.inner.collect()

    def close(self) -> None:
        """See Launcher."""
        self.inner.close()

    def wait_for_other(self, words: tuple[int, ...]) -> float:
        """When the first launch of other words than these was called."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.words != words, 10), "the new job was not launched"
            return self.called


def run(switches: int, seconds: float) -> None:
    """Prints the figures of ``measure`` for a simulated device."""
    simulated = SimulatedLauncher()
    launcher = WatchedLauncher(simulated)

    def open_device() -> Launcher:
        return launcher

    engine = GpuEngine("gpu-cuda", Device(0, "simulated", "gpu", None, ""), open_device, language="cuda", blocks=BLOCKS)
    with patch.object(gpu_engine, "self_test"):  # which a device that finds nothing cannot pass
        engine.open()
    simulated.free = time.perf_counter()
    print(f"simulated card, {units.hash_rate(RATE)}")
    measure(engine, launcher, switches, seconds)


def measure(engine: GpuEngine, launcher: WatchedLauncher, switches: int, seconds: float) -> None:
    """Prints the host's part in ``seconds``, and the time from a job's replacement to the new job's first launch."""
    miner = Miner([engine], chunk_s=load({}, {}, None).progress_chunk_ms / 1e3)
    miner.start()
    live = _submit(miner, None)
    time.sleep(1.0)  # for launches and slices of full size
    _cost(launcher, seconds)

    rng, times, waits = random.Random(0), [], []  # noqa: S311 - not for secrets
    for _ in range(switches):
        time.sleep(rng.uniform(0.15, 0.25))  # at any moment of a launch
        old, began = launcher.words, time.perf_counter()
        if isinstance(launcher.inner, SimulatedLauncher):
            waits.append(1e3 * (launcher.inner.free - began))
        live = _submit(miner, live)
        times.append(1e3 * (launcher.wait_for_other(old) - began))
    miner.cancel(live)
    assert miner.close(10)
    _show(f"{switches} switches: replaced to first launch of the new job", times)
    if waits:
        _show("  of that, launches of the old job in flight", waits)


def _submit(miner: Miner, replaces: Search | None) -> Search:
    order = Order.WALK
    ranges = positions_from(order, b"", secrets.randbits(256))
    job = Job(secrets.token_hex(4), Pow.POSEIDON2, secrets.token_bytes(32), 0, ranges, order)
    return miner.submit(job, lambda _: None, replaces=replaces)


def _cost(launcher: WatchedLauncher, seconds: float) -> None:
    """What the worker's thread and a simulated device do in ``seconds`` of one job, from launch to launch."""
    marks = []
    for wait in (0.0, seconds):
        time.sleep(wait)
        with launcher.changed:
            idle = launcher.inner.idle if isinstance(launcher.inner, SimulatedLauncher) else 0.0
            marks.append((launcher.called, launcher.cpu, idle))
    called, cpu, idle = (after - before for before, after in zip(*marks, strict=True))
    print(f"{called:.1f} s of one job")
    print(f"{'  CPU of its worker (wanted < 5 % of a core)':60} {100 * cpu / called:8.2f} %")
    if isinstance(launcher.inner, SimulatedLauncher):
        print(f"{'  card without work':60} {100 * idle / called:8.2f} %")


def _show(name: str, times: list[float]) -> None:
    cuts = statistics.quantiles(times, n=100)
    print(f"{name:60} p50 {cuts[49]:6.1f} ms   p99 {cuts[98]:6.1f} ms   max {max(times):6.1f} ms")
