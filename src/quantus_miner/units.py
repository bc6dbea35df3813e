"""Numbers and addresses as people read them."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NODE_PORT: Final = 9833
"""Port of a node, if none is given."""


PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")


def hash_rate(hashes_per_second: float) -> str:
    """Return a hash rate with three significant digits and an SI prefix, such as ``1.23 MH/s``."""
    return hash_rates((hashes_per_second,))


def hash_rates(rates: Iterable[float | None]) -> str:
    """Return hash rates in the unit that suits the largest, such as ``3.26 3.25 n/a MH/s``. None is ``n/a``."""
    known = list(rates)
    power = _power(max((rate for rate in known if rate is not None), default=0.0))
    return f"{' '.join(_three_digits(rate, power) for rate in known)} {PREFIXES[power]}H/s"


def _power(value: float) -> int:
    """Return the power of 1000 after division by which ``value`` has at most three digits before the point."""
    power = 0
    while value >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return power


def _three_digits(rate: float | None, power: int) -> str:
    if rate is None:
        return "n/a"
    value = rate / 1000**power
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def difficulty(value: int) -> str:
    """Return a difficulty as people write it, such as ``512``, ``12.3k`` or ``1.0G``; from 1000 Q on, ``1.3e154``."""
    if value < 1000:
        return str(value)
    scaled, power = value / 1000, 1
    while scaled >= 999.95 and power < len(PREFIXES) - 1:
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:.1f}{PREFIXES[power]}" if scaled < 999.95 else f"{value:.1e}".replace("+", "")


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
    """Return a duration, rounded down, such as ``119 s``, ``119 min``, ``2 h 14 min`` or ``3 days 4 h``."""
    if seconds < 120:
        return f"{int(seconds)} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


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
