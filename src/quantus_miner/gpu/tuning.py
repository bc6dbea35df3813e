"""How many blocks a multiprocessor gets in a launch: measured by ``bench --tune``, kept in the state folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from quantus_miner.host import files

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device

BLOCKS: Final = 8
"""Used if nothing was measured."""
CANDIDATES: Final = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256)
"""From few threads with many nonces each to many with few."""


def load(state_dir: Path, engine: str, device: Device) -> int:
    """Return the number measured for this device and driver version, or BLOCKS if there is none."""
    blocks = _load(state_dir).get(_key(engine, device))
    return blocks if type(blocks) is int and blocks in CANDIDATES else BLOCKS


def save(state_dir: Path, engine: str, device: Device, blocks: int) -> None:
    """Keep ``blocks`` for this device and driver version. Raises OSError."""
    table = {**_load(state_dir), _key(engine, device): blocks}
    files.replace(_path(state_dir), json.dumps(table, indent=1))


def _load(state_dir: Path) -> dict[str, int]:
    try:
        table = json.loads(files.read(_path(state_dir), 100_000))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _key(engine: str, device: Device) -> str:
    return f"{engine}: {device.name}, {device.driver}"


def _path(state_dir: Path) -> Path:
    return state_dir / "gpu" / "tuning.json"
