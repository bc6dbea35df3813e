"""The parts that keep and watch: the store, the log, the monitor with those who watch through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner import logs
from quantus_miner.parts.part import Part

if TYPE_CHECKING:
    from quantus_miner.parts.part import Components
    from quantus_miner.settings import Settings
from quantus_miner.heartbeat import Heartbeat

CLOSE_S: Final = 1.0
"""Seconds that the store gets to write what is left, on a slow disk."""


class Log(Part):
    """What the log shows."""

    name = "The log"
    settings = frozenset(("log",))

    def tick(self) -> None:
        """Say what was left out."""
        logs.tick()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - the filter is set as a whole
        """Show what the new filter lets pass."""
        logs.set_filter(new.log)


class StateFolder(Part):
    """The store of jobs and finds, and the history of what live sources took."""

    name = "The store"
    vital = True
    settings = frozenset(("history_days",))

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        components.monitor.subscribe("history", on_event=components.store.on_event)

    async def start(self, settings: Settings) -> None:  # noqa: ARG002 - it is made from them
        """Begin to read what was kept."""
        self.components.store.begin()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - one setting
        """Keep finds for a longer or shorter time."""
        self.components.store.keep_history(new.history_days)

    async def stop(self) -> None:
        """Write what is left."""
        self.components.store.close(CLOSE_S)


class Watch(Part):
    """The monitor's tick."""

    name = "The monitor"

    def tick(self) -> None:
        """Tell all who watch how the miner is."""
        self.components.monitor.tick()


class SignsOfLife(Part):
    """What the service manager is told."""

    name = "The heartbeat"

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        self._heartbeat = Heartbeat(components.notifier)
        components.monitor.subscribe("heartbeat", on_snapshot=self._heartbeat.on_snapshot)

    async def start(self, settings: Settings) -> None:  # noqa: ARG002 - of none
        """Say that the service is ready."""
        self._heartbeat.ready(self.components.monitor.look())

    async def stop(self) -> None:
        """Say that it ends."""
        self._heartbeat.stopping()
