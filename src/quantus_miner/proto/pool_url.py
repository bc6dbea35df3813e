"""Where a pool is, as operators write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from quantus_miner import units

SCHEMES: Final = {"stratum+tcp": False, "stratum+ssl": True, "quic": True}
"""Ways to speak to a pool, and whether TLS is in them."""
ALLOWED: Final = (
    "stratum+tcp://HOST:PORT, stratum+ssl://HOST:PORT or quic://HOST:PORT; "
    "the last two also with ?pin=SHA-256 of the certificate in 64 hex digits, or ?insecure=1"
)


@dataclass(frozen=True, slots=True)
class PoolUrl:
    """``pin``: SHA-256 of the certificate's DER form that alone is taken. ``insecure``: any certificate is taken."""

    scheme: str
    host: str
    port: int
    pin: bytes | None = None
    insecure: bool = False

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return SCHEMES[self.scheme]

    def __str__(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{units.endpoint(self.host, self.port)}"


def parse_pool_url(text: str) -> PoolUrl:
    """Raises ValueError, one line that says what is allowed."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(ALLOWED) from None
    if parts.scheme not in SCHEMES or not port or "@" in parts.netloc or parts.fragment or parts.path not in ("", "/"):
        raise ValueError(ALLOWED)
    # A name or an address, IPv6 with its zone included; nothing that could disturb a log line.
    if not host or not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", host):
        raise ValueError(ALLOWED)
    if not parts.query:
        return PoolUrl(parts.scheme, host, port)
    if not SCHEMES[parts.scheme]:
        raise ValueError(f"{parts.scheme} has no certificate, so no ?pin= and no ?insecure=; allowed: {ALLOWED}")
    if parts.query == "insecure=1":
        return PoolUrl(parts.scheme, host, port, insecure=True)
    pin = re.fullmatch(r"pin=((?:[0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2})", parts.query)
    if not pin:
        raise ValueError(ALLOWED)
    return PoolUrl(parts.scheme, host, port, pin=bytes.fromhex(pin[1].replace(":", "")))
