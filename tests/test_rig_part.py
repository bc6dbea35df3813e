"""What a rig does with the orders of its hub, which may be hostile. The miner, its sources and its files are real."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.backends.cpu import CpuEngine, baseline_kernels
from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.errors import MinerError
from quantus_miner.host.notify import Notifier
from quantus_miner.mining.miner import Miner
from quantus_miner.monitor import Monitor
from quantus_miner.parts.rig import FILE, GAP_S, MIN_UPTIME_S, REFUSES, LiveOfRig
from quantus_miner.settings import load
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.store.writer import Store
from quantus_miner.wire.fleet import Orders

from .hub import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from quantus_miner.settings import Settings

HUB = f"tls://rig.SU{'A' * 56}.{'ab' * 32}@127.0.0.1:9"
POOL = "stratum+tcp://pool.example:3333"


class Rig:
    """The live sources of a rig. The test is the hub, and the clock of the part is its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> None:
        self.clock, self.uptime = Clock(), Clock()
        monkeypatch.setattr(time, "monotonic", self.clock)
        self.folder = folder
        self.miner = Miner([CpuEngine("cpu-baseline", 1, baseline_kernels())], chunk_s=0.05)
        live = LiveSource(MinerSearcher(self.miner), (), priority=1)
        monitor = Monitor(
            self.miner.stats, sources=live.stats, store_ok=lambda: True, effective_cpus=1, clock=self.uptime
        )
        store = Store(folder, history_days=1)
        components: Any = SimpleNamespace(
            miner=self.miner, live=live, monitor=monitor, store=store, notifier=Notifier(environ)
        )
        self.part = LiveOfRig(components)

    def settings(self, **flags: str) -> Settings:
        return load({"hub": HUB, "state_dir": str(self.folder), **flags}, {}, None)

    async def told(self, orders: Orders) -> tuple[str, str]:
        """What the rig reports after these orders: the id of those that are done, and what it refuses."""
        self.part._on_orders(orders)
        self.clock.now += GAP_S
        self.part.tick()
        if self.part._obeying is not None:
            await self.part._obeying
        status = self.part._status()
        return status.done, status.refused

    def sources(self) -> list[str]:
        return [link.name for link in self.part.components.live.stats()]


@contextlib.asynccontextmanager
async def rig_at(folder: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> AsyncIterator[Rig]:
    rig = Rig(folder, monkeypatch, **environ)
    await rig.part.start(rig.settings())
    yield rig
    await rig.part.stop()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_only_a_service_that_has_run_for_a_while_restarts_and_only_for_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with rig_at(tmp_path, monkeypatch) as rig:
            assert await rig.told(Orders("1", restarts=7, reloads=7)) == ("1", "")  # of an earlier process
            no_service = "it is not a service of systemd, which would start it again"
            assert await rig.told(Orders("2", restarts=8)) == ("2", no_service)
        async with rig_at(tmp_path, monkeypatch, NOTIFY_SOCKET="/nowhere") as rig:
            await rig.told(Orders())
            assert await rig.told(Orders("1", restarts=1)) == ("1", "it was started less than 60 s ago")
            rig.uptime.now += MIN_UPTIME_S
            assert await rig.told(Orders("2", restarts=0)) == ("2", "")  # the hub has lost its state
            assert not rig.part._restart.is_set()
            await rig.told(Orders("3", restarts=1))
            with pytest.raises(MinerError, match=r"^the hub has asked for a restart$"):
                await rig.part.run()

    run(test)


def test_the_newest_orders_count_and_changes_have_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with rig_at(tmp_path, monkeypatch) as rig:
            await rig.told(Orders())
            assert await rig.told(Orders("1", paused=True)) == ("1", "")
            assert [pause.reason for pause in rig.miner.stats().pauses] == ["hub"]
            for number in range(100):  # a hub that cannot decide
                rig.part._on_orders(Orders(str(number), paused=number % 2 == 0))
                rig.part.tick()
            assert rig.part._status().done == "1"
            assert await rig.told(Orders("99")) == ("99", "")
            assert rig.miner.stats().pauses == ()

    run(test)


def test_pools_that_cannot_be_used_are_refused_and_others_outlive_the_rig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with rig_at(tmp_path, monkeypatch) as rig:
            for pools, wallet in ((["ftp://x"], DEV_WALLET), ([POOL], "a b"), ([POOL], ""), ([f"{POOL}\x1b"], "w")):
                done, refused = await rig.told(Orders(f"{pools}{wallet}"[:32], pools=pools, wallet=wallet))
                assert done
                assert refused.startswith("the pools that it sets cannot be used: ")
                assert refused.isprintable()
            assert rig.sources() == ["hub tls://127.0.0.1:9"]
            assert await rig.told(Orders("1", pools=[POOL], wallet=DEV_WALLET)) == ("1", "")
            assert rig.sources()[1:] == [f"pool {POOL}"]
        async with rig_at(tmp_path, monkeypatch) as rig:
            assert rig.sources()[1:] == [f"pool {POOL}"]
            # Another hub has nothing to do with it.
            other = rig.settings(hub=HUB.replace("ab" * 32, "cd" * 32))
            await rig.part.apply(rig.settings(), other)
            assert rig.sources()[1:] == []
        async with rig_at(tmp_path, monkeypatch) as rig:
            assert await rig.told(Orders()) == ("", "")
            assert (rig.sources()[1:], (tmp_path / FILE).exists()) == ([], False)
        (tmp_path / FILE).write_text("{")
        async with rig_at(tmp_path, monkeypatch) as rig:
            assert rig.sources()[1:] == []

    run(test)


def test_a_rig_that_refuses_says_so_and_forgets_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with rig_at(tmp_path, monkeypatch) as rig:
            orders = Orders("1", paused=True, pools=[POOL], wallet=DEV_WALLET)
            assert await rig.told(orders) == ("1", "")
            on, off = rig.settings(pool=POOL, wallet="own"), rig.settings(pool=POOL, wallet="own", hub_control="off")
            await rig.part.apply(on, off)
            assert (rig.miner.stats().pauses, rig.sources()[1:]) == ((), [f"pool {POOL}"])
            assert await rig.told(orders) == ("1", REFUSES)
            assert rig.miner.stats().pauses == ()
            await rig.part.apply(off, on)
            assert await rig.told(orders) == ("1", "")
            assert rig.miner.stats().paused

    run(test)
