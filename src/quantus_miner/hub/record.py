"""The record of commands: who asked for what, when. Lines of JSON in the state folder, which are only ever appended."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner.errors import MinerError
from quantus_miner.host import files
from quantus_miner.wire.commands import MAX_LISTED, CommandEntry

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "commands.jsonl"
MAX_BYTES: Final = 1_000_000
"""Bytes of the file. Then it becomes ``commands.jsonl.1``, in place of the last one of that name."""


class Record:
    """The commands given to the rigs of a hub. ``folder``: for its files."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._older = folder / f"{FILE}.1"
        self._last: deque[CommandEntry] = deque(maxlen=MAX_LISTED)

    def load(self) -> None:
        """Read the last commands of earlier runs. Lines that a crash has cut are left out."""
        self._last.clear()
        for path in (self._older, self._path):
            try:
                lines = files.read(path, 2 * MAX_BYTES).splitlines()
            except OSError:
                continue
            for line in lines[-MAX_LISTED:]:
                try:
                    self._last.append(msgspec.json.decode(line, type=CommandEntry))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue

    def last(self) -> list[CommandEntry]:
        """Return the last commands, the newest last."""
        return list(self._last)

    def add(self, entry: CommandEntry) -> None:
        """List a command. ``write`` puts it on the disk."""
        self._last.append(entry)

    def write(self, entry: CommandEntry) -> None:
        """Append a command to the file. Raises MinerError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                self._path.replace(self._older)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise MinerError(f"cannot write {self._path}: {error.strerror}") from None
