"""The tags of a hub's rigs, in a file of the state folder beside that of the rigs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from quantus_miner.errors import MinerError
from quantus_miner.host import files
from quantus_miner.wire.commands import parse_tag
from quantus_miner.wire.fleet import parse_rig_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TAGS: Final = "tags.json"
MAX_TAGS: Final = 8
"""Tags of one rig."""
MAX_BYTES: Final = 60_000_000


class Tags:
    """The tags of each rig. ``folder``: that of the roster."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TAGS

    def load(self) -> dict[str, list[str]]:
        """Return the tags by the rig's name. Raises MinerError if the file cannot be read."""
        try:
            tags = msgspec.json.decode(
                files.read(self._path, MAX_BYTES),
                type=dict[str, Annotated[list[str], Meta(max_length=MAX_TAGS)]],
            )
            for name, each in tags.items():
                parse_rig_name(name)
                for tag in each:
                    parse_tag(tag)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise MinerError(f"cannot read {self._path}: {error.strerror}") from None
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            raise MinerError(f"cannot read {self._path}: {error}; remove it and tag the rigs again") from None
        return tags

    def stamp(self) -> int:
        """Return a number that changes with the file, 0 if there is none."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0

    def set(self, name: str, tags: Sequence[str]) -> None:
        """Give a rig these tags in place of its earlier ones. Raises MinerError."""
        if len(tags) > MAX_TAGS:
            raise MinerError(f"a rig has at most {MAX_TAGS} tags, got {len(tags)}")
        known = self.load()
        changed = {key: value for key, value in known.items() if key != name} | ({name: list(tags)} if tags else {})
        if changed == known:
            return
        try:
            files.replace(self._path, msgspec.json.format(msgspec.json.encode(changed)), 0o600)
        except OSError as error:
            raise MinerError(f"cannot write {self._path}: {error.strerror}") from None
