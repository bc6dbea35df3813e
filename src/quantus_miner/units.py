"""Numbers and addresses as people read them."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NODE_PORT: Final = 9833
"""Port of a node, if none is given."""


def hash_rate(hashes_per_second: float) -> str:
    """Return a hash rate with three significant digits and an SI prefix, such as ``1.23 MH/s``."""
    value = hashes_per_second
    prefixes = iter(("", "k", "M", "G", "T"))
    prefix = next(prefixes)
    while value >= 999.5 and (larger := next(prefixes, None)):
        value, prefix = value / 1000, larger
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {prefix}H/s"


def endpoint(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, or of ``host`` alone. Raises ValueError that says what is allowed."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{1,5}))?", text)
    port = int(match[3] or NODE_PORT) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise ValueError(f"HOST:PORT, such as 127.0.0.1:{NODE_PORT} or [::1]:{NODE_PORT}")
    return match[1] or match[2], port


def duration(seconds: float) -> str:
    """Return a duration, rounded down, such as ``119 s``, ``119 min``, ``47 h`` or ``3 days``."""
    if seconds < 120:
        return f"{int(seconds)} s"
    if seconds < 7_200:
        return f"{int(seconds // 60)} min"
    return f"{int(seconds // 3_600)} h" if seconds < 172_800 else f"{int(seconds // 86_400)} days"


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers; it raises ValueError that says what is allowed."""
    allowed = f"a whole number from {low} to {high}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise ValueError(allowed)
        return int(text)

    return parse


def choice(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of ``choices``; it raises ValueError that says what is allowed."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def parse_address(text: str) -> str:
    """Return an IP address in its usual form. Raises ValueError that says what is allowed."""
    try:
        # The zone of an IPv6 address may be anything to ipaddress, but not to a socket.
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError  # noqa: TRY301 - said below
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError("an IP address, such as 127.0.0.1, 0.0.0.0 or ::1") from None
