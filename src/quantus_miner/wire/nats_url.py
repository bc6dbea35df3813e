"""The URL of the NATS servers that a hub uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from quantus_miner import units

PORT: Final = 4222
MAX_SERVERS: Final = 16
FORM: Final = (
    "tls://HOST[:PORT][,HOST[:PORT]…], with SEED@ or USER:PASSWORD@ before the first host if the hub does not log in "
    "with its own key, and ?pin=SHA-256 of the servers' certificate in 64 hex digits at the end unless the system "
    "trusts it"
)

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class NatsUrl:
    """The servers of a cluster, and how to log in. ``pin``: SHA-256 of the DER form of their certificate.

    Without ``pin``, the system's authorities decide. ``seed``: a private key of NATS. Without it and without ``user``,
    the hub has a key of its own.
    """

    servers: tuple[Address, ...]
    pin: bytes | None = None
    seed: str = ""
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        """Return it without the credentials."""
        return f"tls://{format_servers(self.servers)}"


def parse_nats_url(text: str) -> NatsUrl:
    """Return the servers that ``text`` names. Raises ValueError that says what is allowed, without a secret."""
    pin_form = r"(?:[0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}"
    match = re.fullmatch(rf"tls://(?:([^@/?#]+)@)?([^@/?#]+)/?(?:\?pin=({pin_form}))?", text.strip())
    if match is None:
        raise ValueError(FORM)
    user, colon, password = (match[1] or "").partition(":")
    seed = "" if colon else user
    if seed and not re.fullmatch(r"SU[A-Z2-7]{56}", seed):
        raise ValueError(FORM)
    servers, pin = parse_servers(match[2]), match[3]
    return NatsUrl(servers, bytes.fromhex(pin.replace(":", "")) if pin else None, seed, user if colon else "", password)


def parse_servers(text: str) -> tuple[Address, ...]:
    """Return hosts and ports of ``host[:port],…``. Without a port, it is PORT. Raises ValueError."""
    servers = tuple(dict.fromkeys(_parse_server(part) for part in text.split(",")))
    if len(servers) > MAX_SERVERS:
        raise ValueError(f"at most {MAX_SERVERS} servers")
    return servers


def format_servers(servers: tuple[Address, ...]) -> str:
    """Return ``host:port,…``."""
    return ",".join(units.endpoint(*server) for server in servers)


def _parse_server(text: str) -> Address:
    try:
        return units.parse_endpoint(text if re.search(r"[^:\]]:[0-9]+$|\]:[0-9]+$", text) else f"{text}:{PORT}")
    except ValueError:
        raise ValueError(f"HOST:PORT, such as 192.168.1.10:{PORT} or [::1]:{PORT}") from None
