"""The tags of a hub's rigs, in a file of the state folder beside that of the rigs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from quantus_miner.errors import MinerError
from quantus_miner.hub.json_file import JsonFile
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
        kind = dict[str, Annotated[list[str], Meta(max_length=MAX_TAGS)]]
        self._file: JsonFile[dict[str, list[str]]] = JsonFile(
            folder / TAGS, kind, MAX_BYTES, "tag the rigs again", _check
        )

    def load(self) -> dict[str, list[str]]:
        """Return the tags by the rig's name. Raises MinerError if the file cannot be read."""
        return self._file.load() or {}

    def stamp(self) -> int:
        """Return a number that changes with the file, 0 if there is none."""
        return self._file.stamp()

    def set(self, name: str, tags: Sequence[str]) -> None:
        """Give a rig these tags in place of its earlier ones. Raises MinerError."""
        if len(tags) > MAX_TAGS:
            raise MinerError(f"a rig has at most {MAX_TAGS} tags, got {len(tags)}")
        known = self.load()
        changed = {key: value for key, value in known.items() if key != name} | ({name: list(tags)} if tags else {})
        if changed != known:
            self._file.write(changed)


def _check(tags: dict[str, list[str]]) -> None:
    for name, each in tags.items():
        parse_rig_name(name)
        for tag in each:
            parse_tag(tag)
