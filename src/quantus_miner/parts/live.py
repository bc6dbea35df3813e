"""The live sources: nodes and pools."""

from __future__ import annotations

import logging
import re
import socket
from typing import TYPE_CHECKING, Final

from quantus_miner.parts.part import Part
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire.address import address_warning, compose_login

if TYPE_CHECKING:
    from quantus_miner.settings import Settings
    from quantus_miner.sources.link import Link
    from quantus_miner.wire.pool_url import PoolUrl

log = logging.getLogger("miner")

PRIORITIES: Final = {"live": (1, 0), "equal": (0, 0), "http": (0, 1)}
"""Priority of the jobs of live sources and of those of the job API, by the setting ``priority``."""


class Live(Part):
    """Mines for nodes and pools."""

    name = "The live source"
    settings = frozenset(
        ("node_addr", "auth_token", "tls_cert_sha256", "pool", "wallet", "worker_name", "exit_on_refusal", "priority")
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
            self._links(settings),
            priority=PRIORITIES[settings.priority][0],
            exit_on_refusal=settings.exit_on_refusal == "on",
        )

    def _links(self, settings: Settings) -> list[Link]:
        return create_links(settings)


def create_links(settings: Settings) -> list[Link]:
    """Return the node and the pools in the order of preference."""
    links: list[Link] = []
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
