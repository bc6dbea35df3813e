"""What one metric is, and its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One metric. ``kind``: gauge or counter."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


Counts = dict[tuple[str, ...], float]
"""Samples by label values, which are in the table's order."""
Values = Mapping[tuple[str, ...], float | None]
"""The same; None: the value is unknown and has no sample."""
