"""The base class of the service's parts, and the objects that they share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.base import Engine
    from quantus_miner.host.notify import Notifier
    from quantus_miner.hub.cluster import SharedOutbox
    from quantus_miner.hub.control import Control
    from quantus_miner.hub.door import Door
    from quantus_miner.hub.lease import Lease
    from quantus_miner.hub.rigs import Rigs
    from quantus_miner.hub.work import Hub
    from quantus_miner.jobs import Jobs
    from quantus_miner.mining.miner import Miner
    from quantus_miner.monitor import Monitor
    from quantus_miner.settings import Settings
    from quantus_miner.sources.live import LiveSource
    from quantus_miner.store.writer import Store
    from quantus_miner.web.job_api import JobApi
    from quantus_miner.web.routes import Access, Routes


@dataclass(slots=True)
class Components:
    """The objects that the parts share. The service makes them before it starts any part."""

    store: Store
    live: LiveSource
    notifier: Notifier
    monitor: Monitor
    routes: Routes
    """The calls of the API's port."""
    access: Access
    """Who may make them."""
    connections: dict[str, int] = field(default_factory=dict, kw_only=True)
    """How many connections each port can hold, by the name of its setting. Empty until the first port starts."""


@dataclass(slots=True)
class MinerComponents(Components):
    """Those of a miner."""

    engines: list[Engine]
    on_job_solved: list[Callable[[], None]]
    """Called, from any thread, for every job that the miner solves."""
    miner: Miner
    jobs: Jobs
    api: JobApi
    rig_routes: Routes
    """The calls of --rig-port."""


@dataclass(slots=True)
class HubComponents(Components):
    """Those of a hub."""

    hub: Hub
    door: Door
    rigs: Rigs
    control: Control
    lease: Lease
    """Who leads, if there is a cluster of hubs."""
    outbox: SharedOutbox
    """What they share."""


class Part:
    """One part of the service. All methods are called on the event loop.

    Any method may raise. A part that fails is stopped and later started again, or ends the service if it is ``vital``.
    """

    name: ClassVar[str]
    """The subject of its log lines, such as ``The job API``."""
    vital: ClassVar[bool] = False
    """True if the service ends when this part fails."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Names of the settings whose changes it applies while it runs."""
    stop_s: ClassVar[float] = 0.0
    """Seconds that it may take to stop, if that is more than the supervisor's STOP_S."""

    def __init__(self, components: Components) -> None:
        self.components = components

    async def start(self, settings: Settings) -> None:
        """Prepare to run. Raises MinerError if that is impossible on this machine or with these settings."""

    async def run(self) -> None:
        """Do the continuous work of the part until cancelled, which happens after ``stop``.

        A MinerError that it raises ends the service.
        """
        await asyncio.Event().wait()

    def tick(self) -> None:
        """Do what is due once a second."""

    async def apply(self, old: Settings, new: Settings) -> None:
        """Change from ``old`` to ``new``, which differ in at least one of ``settings``.

        Raises MinerError if that is impossible. The part then continues with ``old``.
        """

    async def stop(self) -> None:
        """Stop, also after a failure in ``start`` or ``run``. See ``stop_s``."""


class MinerPart(Part):
    """A part that only a miner has."""

    components: MinerComponents

    def __init__(self, components: MinerComponents) -> None:
        super().__init__(components)


class HubPart(Part):
    """A part that only a hub has."""

    components: HubComponents

    def __init__(self, components: HubComponents) -> None:
        super().__init__(components)
