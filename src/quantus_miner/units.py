"""Numbers as people read them."""

from __future__ import annotations


def hash_rate(hashes_per_second: float) -> str:
    """``1.23 MH/s``: three significant digits and an SI prefix."""
    value = hashes_per_second
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            break
        value /= 1000
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {prefix}H/s"
