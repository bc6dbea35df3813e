"""Settings that change while parts run."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.errors import MinerError, SettingError
from quantus_miner.parts import supervisor as module

from .toys import SETTINGS_NOW, WAIT_S, Toy, lifetime, supervised

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.parts.supervisor import Supervisor
    from quantus_miner.settings import Settings

pytestmark = pytest.mark.usefixtures("quick_restarts")


class Source:
    """Where the settings come from; ``now`` is what they are, or the error that they cause."""

    def __init__(self) -> None:
        self.now: Settings | Exception = SETTINGS_NOW
        self.asked = threading.Semaphore(0)
        self.hold: threading.Event | None = None

    def __call__(self) -> Settings:
        now, hold = self.now, self.hold
        self.asked.release()
        if hold is not None:
            assert hold.wait(WAIT_S)
        if isinstance(now, Exception):
            raise now
        return now

    def set(self, **values: Any) -> None:
        self.now = replace(SETTINGS_NOW, **values)


class Lines(logging.Handler):
    """Log lines to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.grown = asyncio.Event()
        logging.getLogger("miner").addHandler(self)
        logging.getLogger("miner").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.grown.set()

    async def wait(self, text: str, count: int = 1) -> str:
        while len(found := [line for line in self.lines if text in line]) < count:
            self.grown.clear()
            await self.grown.wait()
        return found[count - 1]


def reloading(work: Callable[[Supervisor, Source, Toy, Toy, Lines], Any]) -> None:
    async def main() -> None:
        source, lines = Source(), Lines()
        toy, other = Toy(), Toy("The other")
        other.settings = frozenset(("pool", "wallet", "api_token"))  # type: ignore[misc]
        supervisor = supervised([toy, other], source)
        try:
            await lifetime(supervisor, lambda: work(supervisor, source, toy, other, lines))
        finally:
            logging.getLogger("miner").removeHandler(lines)

    asyncio.run(main())


def test_a_part_applies_what_concerns_it_and_nothing_else() -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        source.set(workers=3, api_token="s3cret")  # noqa: S106 - a test's
        supervisor.reload()
        assert await lines.wait("Reloaded") == "Reloaded: workers, api_token"
        assert toy.applied == [(None, 3)]
        assert "apply" in other.done
        source.set(workers=4, api_token="s3cret")  # noqa: S106
        supervisor.reload()
        assert await lines.wait("Reloaded", 2) == "Reloaded: workers"
        assert toy.applied == [(None, 3), (3, 4)]
        assert other.done.count("apply") == 1
        assert "s3cret" not in "".join(lines.lines)

    reloading(work)


def test_wrong_settings_change_nothing_and_are_one_line() -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        source.now = SettingError("--workers: 'x' is not allowed")
        supervisor.reload()
        line = await lines.wait("Reloaded")
        assert line == "Reloaded no settings: --workers: 'x' is not allowed"
        assert not toy.applied
        source.set(workers=2)
        supervisor.reload()
        await lines.wait("Reloaded: workers")
        assert toy.applied == [(None, 2)]

    reloading(work)


def test_what_applies_at_a_restart_is_said_and_left() -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        source.set(port=1, log_format="json", workers=2)
        supervisor.reload()
        await lines.wait("Reloaded: workers")
        assert await lines.wait("Restart") == "Restart the miner to apply: port, log_format"
        source.set(workers=2)
        supervisor.reload()
        await lines.wait("Reloaded: no setting has changed")

    reloading(work)


@pytest.mark.parametrize("raising", [RuntimeError("boom"), MinerError("no such engine")])
def test_a_part_that_cannot_apply_settings_stops_no_other_and_tries_again_next_time(raising: Exception) -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        toy.raising = raising
        toy.faults["apply"] = 1
        source.set(workers=3, wallet="w")
        supervisor.reload()
        assert await lines.wait("Reloaded") == "Reloaded: wallet"
        if isinstance(raising, MinerError):
            assert "The toy cannot apply workers and keeps its old settings: no such engine" in lines.lines
        else:
            assert "The toy has failed to apply workers" in lines.lines
        supervisor.reload()
        assert await lines.wait("Reloaded", 2) == "Reloaded: workers"
        assert toy.applied == [(None, 3), (None, 3)]

    reloading(work)


def test_settings_that_were_never_applied_are_not_reloaded_when_they_are_taken_back() -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        toy.faults["apply"] = 1
        source.set(workers=3)
        supervisor.reload()
        await lines.wait("The toy has failed to apply workers")
        source.set()
        supervisor.reload()
        assert await lines.wait("Reloaded") == "Reloaded: no setting has changed"
        assert toy.applied == [(None, 3)]

    reloading(work)


def test_a_part_that_hangs_as_it_applies_settings_does_not_keep_others_from_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "APPLY_S", 0.0)

    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        goes_on = asyncio.Event()

        async def apply(old: Settings, new: Settings) -> None:
            toy.applied.append((old.workers, new.workers))
            await goes_on.wait()

        toy.apply = apply  # type: ignore[method-assign]
        source.set(workers=1, wallet="w")
        supervisor.reload()
        assert await lines.wait("Reloaded") == "Reloaded: wallet"
        await lines.wait("The toy is still applying workers")
        source.set(workers=2, wallet="x")
        supervisor.reload()
        assert await lines.wait("Reloaded", 2) == "Reloaded: wallet"
        await lines.wait("The toy is still applying workers", 2)
        assert toy.applied == [(None, 1)]
        goes_on.set()
        await lines.wait("Reloaded: workers", 2)
        assert toy.applied == [(None, 1), (1, 2)]

    reloading(work)


def test_a_second_reload_during_the_first_is_not_lost() -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        source.hold = hold = threading.Event()
        source.set(workers=1)
        supervisor.reload()
        await asyncio.to_thread(source.asked.acquire)
        # It has read the settings, and is slow.
        source.hold = None
        source.set(workers=2)
        supervisor.reload()
        hold.set()
        await lines.wait("Reloaded: workers", 2)
        assert toy.applied == [(None, 1), (1, 2)]

    reloading(work)


def test_a_part_that_is_down_starts_with_the_new_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(supervisor: Supervisor, source: Source, toy: Toy, other: Toy, lines: Lines) -> None:
        started: list[int | None] = []
        again = asyncio.Event()

        async def start(settings: Settings) -> None:
            await again.wait()
            started.append(settings.workers)

        await toy.until("run")
        toy.start = start  # type: ignore[method-assign]
        supervisor._parts[0].applied = None
        source.set(workers=5)
        supervisor.reload()
        await lines.wait("Reloaded: workers")
        assert not toy.applied
        again.set()
        await supervisor._start_part(supervisor._parts[0])
        assert started == [5]

    reloading(work)
