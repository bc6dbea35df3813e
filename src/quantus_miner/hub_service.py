"""The hub: create its parts from the settings and run them until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quantus_miner.host import cpus
from quantus_miner.host.notify import Notifier
from quantus_miner.hub.cluster import SharedOutbox, boot_time
from quantus_miner.hub.control import Control
from quantus_miner.hub.door import Door
from quantus_miner.hub.lease import Lease
from quantus_miner.hub.rigs import Rigs
from quantus_miner.hub.roster import Roster
from quantus_miner.hub.work import Hub
from quantus_miner.monitor import Monitor
from quantus_miner.parts.cluster import Cluster
from quantus_miner.parts.door import StratumDoor
from quantus_miner.parts.hub_page import HubPage
from quantus_miner.parts.live import Live
from quantus_miner.parts.part import HubComponents
from quantus_miner.parts.rigs import RigServer
from quantus_miner.parts.upkeep import Log, SignsOfLife, StateFolder, Watch
from quantus_miner.parts.web import Exporter, HubServer
from quantus_miner.service import prepare, serve, tell_settings
from quantus_miner.sources.live import LiveSource
from quantus_miner.store.writer import Store
from quantus_miner.web.hub_api import HubApi
from quantus_miner.web.routes import Access, Routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.events import Event
    from quantus_miner.host.signals import Signals
    from quantus_miner.parts.part import Part
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

PARTS: Final[list[type[Part]]] = [
    Log,
    StateFolder,
    Live,
    Exporter,
    StratumDoor,
    RigServer,
    HubServer,
    HubPage,
    Cluster,
    Watch,
    SignsOfLife,
]
"""The parts in the order in which they start. They stop in reverse order."""


def run(settings: Settings, signals: Signals, load: Callable[[], Settings]) -> None:
    """Run the hub until SIGTERM or SIGINT. Raises MinerError if it cannot start or cannot continue.

    ``load``: called after SIGHUP to read the settings again. It raises MinerError if they are wrong.
    """
    prepare()
    log.info("Starting hub...")
    tell_settings(settings, "hub")

    def handlers(_: HubComponents) -> dict[int, Callable[[], object]]:
        return dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), lambda: log.warning("A hub has nothing to pause"))

    asyncio.run(serve(settings, signals, load, lambda: _connect(settings), PARTS, handlers))


def _connect(settings: Settings) -> HubComponents:
    """Create the objects that the parts share and connect them. Nothing is started."""
    store = Store(settings.state_dir, history_days=settings.history_days)
    lease, outbox = Lease(f"{socket.gethostname()}-{secrets.token_hex(8)}"), SharedOutbox()
    hub = Hub(store) if settings.nats is None else Hub(outbox, leads=lambda: lease.leads(boot_time()))
    door = Door(
        hub,
        share_time=settings.stratum_share_time,
        difficulty=settings.stratum_difficulty,
        wallet=settings.wallet,
    )

    rigs = Rigs(hub, door.hasher)

    def publish(event: Event) -> None:
        monitor.publish(event)

    live = LiveSource(hub, (), priority=0, publish=publish)
    monitor = Monitor(
        lambda: None,
        sources=live.stats,
        hub=lambda: replace(door.stats(), rigs=rigs.stats(), leads=hub.leads()),
        store_ok=lambda: store.ok,
        effective_cpus=cpus.detect().count,
    )
    monitor.subscribe("outbox", on_event=hub.outbox.on_event)
    monitor.subscribe("rigs", on_event=rigs.on_event)
    control = Control(Roster(settings.state_dir).folder, rigs)
    routes, access = Routes(), Access(settings.api_token)
    HubApi(monitor.look, control.command, control.record.last, routes, access, settings.state_dir)
    notifier = Notifier(os.environ)
    return HubComponents(store, live, notifier, monitor, routes, access, hub, door, rigs, control, lease, outbox)
