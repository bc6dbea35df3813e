"""Parts of a service that do nothing but what a test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from quantus_miner.host.notify import Notifier
from quantus_miner.parts.part import Part
from quantus_miner.parts.supervisor import Supervisor
from quantus_miner.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable


WAIT_S = 30.0
SETTINGS_NOW = load({}, {"HOME": "/nowhere"}, None)


class Toy(Part):
    """Notes what is done with it; raises ``raising`` in the phases of ``faults``, as often as these say."""

    settings = frozenset(("workers", "log"))

    def __init__(self, name: str = "The toy", *, vital: bool = False, raising: Exception | None = None) -> None:
        self.name = name  # type: ignore[misc]  # of the class otherwise
        self.vital = vital  # type: ignore[misc]
        self.raising = raising or RuntimeError("boom")
        self.faults: dict[str, int] = {}
        self.done: list[str] = []
        self.seen = asyncio.Event()
        self.applied: list[tuple[int | None, int | None]] = []

    def note(self, phase: str) -> None:
        self.done.append(phase)
        self.seen.set()
        if self.faults.get(phase, 0):
            self.faults[phase] -= 1
            raise self.raising

    async def start(self, settings: Settings) -> None:
        self.note("start")

    async def run(self) -> None:
        self.note("run")
        await super().run()

    def tick(self) -> None:
        self.note("tick")

    async def apply(self, old: Settings, new: Settings) -> None:
        self.applied.append((old.workers, new.workers))
        self.note("apply")

    async def stop(self) -> None:
        self.note("stop")

    async def until(self, *phases: str) -> None:
        """Wait until it has done all of them, in this order among others."""
        while True:
            left = list(phases)
            for phase in self.done:
                if left and phase == left[0]:
                    left.pop(0)
            if not left:
                return
            self.seen.clear()
            await self.seen.wait()


def supervised(parts: list[Toy], load: Callable[[], Settings] = lambda: SETTINGS_NOW) -> Supervisor:
    return Supervisor(parts, SETTINGS_NOW, load, Notifier({}))


async def lifetime(supervisor: Supervisor, what: Callable[[], Any]) -> None:
    """Start all, do ``what``, stop all."""
    running = asyncio.create_task(supervisor.run())
    try:
        doing = asyncio.create_task(what())
        await asyncio.wait((running, doing), timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            doing.cancel()
        else:
            await doing
        supervisor.end()
        await running
    finally:
        await supervisor.stop()
