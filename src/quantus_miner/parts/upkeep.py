"""Parts for the log, the store, the monitor and the heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner import logs
from quantus_miner.parts.part import Part

if TYPE_CHECKING:
    from quantus_miner.parts.part import Components
    from quantus_miner.settings import Settings
from quantus_miner.heartbeat import Heartbeat

CLOSE_S: Final = 1.0
"""Seconds that the store may take to write the rest on a slow disk."""


class Log(Part):
    """The filter of the log, and its report of dropped lines."""

    name = "The log"
    settings = frozenset(("log",))

    def tick(self) -> None:
        """Report log lines that were dropped."""
        logs.tick()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - the filter is set as a whole
        """Set the new filter."""
        logs.set_filter(new.log)


class StateFolder(Part):
    """The store of jobs and finds, with the history of live solutions."""

    name = "The store"
    vital = True
    settings = frozenset(("history_days",))

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        components.monitor.subscribe("history", on_event=components.store.on_event)

    async def start(self, settings: Settings) -> None:  # noqa: ARG002 - it is made from them
        """Begin to read the jobs of earlier runs."""
        self.components.store.begin()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - one setting
        """Set how long finds are kept."""
        self.components.store.keep_history(new.history_days)

    async def stop(self) -> None:
        """Write the rest and close the store."""
        self.components.store.close(CLOSE_S)


class Watch(Part):
    """The monitor's tick."""

    name = "The monitor"

    def tick(self) -> None:
        """Pass a snapshot to the subscribers."""
        self.components.monitor.tick()


class SignsOfLife(Part):
    """The reports to the service manager."""

    name = "The heartbeat"

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        self._heartbeat = Heartbeat(components.notifier)
        components.monitor.subscribe("heartbeat", on_snapshot=self._heartbeat.on_snapshot)

    async def start(self, settings: Settings) -> None:  # noqa: ARG002 - of none
        """Report that the service is ready."""
        self._heartbeat.ready(self.components.monitor.look())

    async def stop(self) -> None:
        """Report that the service is stopping."""
        self._heartbeat.stopping()
