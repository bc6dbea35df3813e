"""The live sources: a hub, nodes and pools."""

from __future__ import annotations

import logging
import re
import socket
from typing import TYPE_CHECKING, Final

from quantus_miner import __version__
from quantus_miner.parts.part import Part
from quantus_miner.sources.hub import HubLink
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire.address import address_warning, compose_login
from quantus_miner.wire.fleet import StatusMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.monitor import Snapshot
    from quantus_miner.settings import Settings
    from quantus_miner.sources.link import Link
    from quantus_miner.wire.fleet import HubUrl
    from quantus_miner.wire.pool_url import PoolUrl

log = logging.getLogger("miner")

PRIORITIES: Final = {"live": (1, 0), "equal": (0, 0), "http": (0, 1)}
"""Priority of the jobs of live sources and of those of the job API, by the setting ``priority``."""


class Live(Part):
    """Mines for a hub, nodes and pools."""

    name = "The live source"
    settings = frozenset(
        (
            "node_addr",
            "auth_token",
            "tls_cert_sha256",
            "pool",
            "wallet",
            "worker_name",
            "exit_on_refusal",
            "hub",
            "priority",
        )
    )

    async def start(self, settings: Settings) -> None:
        """Make the links that ``settings`` name."""
        self._use(settings)

    async def run(self) -> None:
        """Mine for the links. Raises LinkRefusedError if all refuse us and ``exit_on_refusal`` is set."""
        await self.components.live.run()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - links know what they are made from
        """Change to the links that ``new`` names. Links that both have stay connected."""
        self._use(new)

    def _use(self, settings: Settings) -> None:
        self.components.live.set_links(
            create_links(settings, self._hub_link),
            priority=PRIORITIES[settings.priority][0],
            exit_on_refusal=settings.exit_on_refusal == "on",
        )

    def _hub_link(self, url: HubUrl) -> Link:
        return HubLink(url, self.components.store, lambda: rig_status(self.components.monitor.look()))


def rig_status(snapshot: Snapshot) -> StatusMessage:
    """Return what a hub is told of a rig."""
    miner, readings = snapshot.miner, snapshot.readings.values()
    temperatures = [reading.temperature for reading in readings if reading.temperature is not None]
    power = [reading.power for reading in readings if reading.power is not None]
    return StatusMessage(
        version=__version__,
        uptime_s=snapshot.uptime_s,
        hash_rate=snapshot.rates.current if snapshot.rates else 0.0,
        hashes=miner.hashes if miner else 0,
        solutions=sum(miner.solved_by_engine.values()) if miner else 0,
        workers=len(miner.workers) if miner else 0,
        temperature=max(temperatures, default=None),
        power=sum(power) if power else None,
    )


def create_links(settings: Settings, hub_link: Callable[[HubUrl], Link]) -> list[Link]:
    """Return the live sources in the order of preference: the hub, the node, then the pools as given."""
    links: list[Link] = [] if settings.hub is None else [hub_link(settings.hub)]
    if settings.node_addr is not None and settings.auth_token is not None:
        links.append(NodeLink(*settings.node_addr, settings.auth_token, settings.tls_cert_sha256))
    if settings.pool is not None and settings.wallet is not None:
        if warning := address_warning(settings.wallet):
            log.warning("--wallet: %s", warning)
        login = compose_login(settings.wallet, settings.worker_name or _worker_name())
        links += [_pool_link(url, login) for url in settings.pool]
    return links


def count_links(settings: Settings) -> int:
    """Return how many live sources ``settings`` name."""
    return (settings.hub is not None) + (settings.node_addr is not None) + len(settings.pool or ())


def _worker_name() -> str:
    """Return the host's name, with characters that a worker's name cannot have replaced."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:64] or "miner"


def _pool_link(url: PoolUrl, login: str) -> Link:
    if url.scheme == "quic":
        return NodeLink(url.host, url.port, login, url.pin, kind="pool")
    return PoolLink(url, login)
