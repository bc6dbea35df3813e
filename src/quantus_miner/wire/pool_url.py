"""URLs of pools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from quantus_miner import units

SCHEMES: Final = {"stratum+tcp": False, "stratum+ssl": True, "quic": True}
"""Schemes of pool URLs. True: with TLS."""
ALLOWED: Final = (
    "stratum+tcp://HOST:PORT, stratum+ssl://HOST:PORT or quic://HOST:PORT; "
    "the last two with ?pin=SHA-256 of the certificate in 64 hex digits, or ?insecure=1, one of which quic needs"
)
NEEDS_PIN: Final = (
    "?pin=SHA-256 of the pool's certificate in 64 hex digits, because without it the login would go to any server "
    "that answers; or ?insecure=1, which accepts that: the log then names the certificate's SHA-256"
)
TLS_SCHEMES: Final = ("ssl", "tls", "stratums", "stratum+tls", "stratum+tcps", "https")
"""Other programs' names for stratum+ssl."""


@dataclass(frozen=True, slots=True)
class PoolUrl:
    """A pool. ``pin``: SHA-256 of the DER form of the only certificate accepted. ``insecure``: accept any."""

    scheme: str
    host: str
    port: int
    pin: bytes | None = None
    insecure: bool = False

    @property
    def tls(self) -> bool:
        """Return True if the connection is encrypted."""
        return SCHEMES[self.scheme]

    def __str__(self) -> str:
        """Return scheme, host and port."""
        return f"{self.scheme}://{units.endpoint(self.host, self.port)}"


def parse_pool_urls(text: str) -> tuple[PoolUrl, ...]:
    """Return the pools of a comma-separated list, each only once: using a failed pool again would be of no use.

    Raises ValueError that says what is allowed.
    """
    return tuple(dict.fromkeys(parse_pool_url(part.strip()) for part in text.split(",")))


def parse_pool_url(text: str) -> PoolUrl:
    """Return the pool that ``text`` names.

    Raises ValueError, one line that says what is allowed and, if only the scheme is missing or wrong, what to write.
    """
    text = text.strip()
    scheme, _, rest = text.rpartition("://")
    if scheme.lower() in SCHEMES:
        return _parse(text)
    meant = "stratum+ssl" if "?" in rest or scheme.lower() in TLS_SCHEMES else "stratum+tcp"
    try:
        url = _parse(f"{meant}://{rest}")
    except ValueError:
        raise ValueError(ALLOWED) from None
    query = f"?pin={url.pin.hex()}" if url.pin else "?insecure=1" if url.insecure else ""
    raise ValueError(f"{ALLOWED}; write {url}{query}")


def _parse(text: str) -> PoolUrl:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(ALLOWED) from None
    if parts.scheme not in SCHEMES or not port or "@" in parts.netloc or parts.fragment or parts.path not in ("", "/"):
        raise ValueError(ALLOWED)
    # A name or an address, including the zone of IPv6. Nothing else may reach a log line.
    if not host or not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", host):
        raise ValueError(ALLOWED)
    if not parts.query:
        if parts.scheme == "quic":
            raise ValueError(f"{PoolUrl(parts.scheme, host, port)}{NEEDS_PIN}")
        return PoolUrl(parts.scheme, host, port)
    if not SCHEMES[parts.scheme]:
        raise ValueError(f"{parts.scheme} has no certificate, so no ?pin= and no ?insecure=; allowed: {ALLOWED}")
    if parts.query == "insecure=1":
        return PoolUrl(parts.scheme, host, port, insecure=True)
    pin = re.fullmatch(r"pin=((?:[0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2})", parts.query)
    if not pin:
        raise ValueError(ALLOWED)
    return PoolUrl(parts.scheme, host, port, pin=bytes.fromhex(pin[1].replace(":", "")))
