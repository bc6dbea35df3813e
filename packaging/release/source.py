"""The commit that is released: its version, its time, and whether it may be released at all."""

from __future__ import annotations

import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent


class ReleaseError(Exception):
    """Why nothing is released. The message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A commit. ``epoch``: its time in seconds since 1970. ``tagged``: False for a rehearsal."""

    version: str
    commit: str
    epoch: int
    tagged: bool


def git(*arguments: str) -> str:
    """Return what git prints for the checkout. Raises ReleaseError."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def version() -> str:
    """Return the version in ``pyproject.toml``, the only place that has it."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return found


def read() -> Source:
    """Return the commit that is checked out.

    Raises ReleaseError if there are changes that are not committed, if a tag and the version do not match, or if the
    changelog does not have the version.
    """
    if changed := git("status", "--porcelain").splitlines():
        raise ReleaseError(
            f"the working tree has changes: {changed[0].strip()}, {len(changed)} in all; commit them first"
        )
    number, commit = version(), git("rev-parse", "HEAD")
    tag = f"v{number}"
    tags = [name for name in git("tag", "--points-at", "HEAD").splitlines() if re.match(r"v\d", name)]
    if tags not in ([], [tag]):
        raise ReleaseError(f"HEAD is tagged {', '.join(tags)}, but pyproject.toml says {number}; make them the same")
    if not tags and git("tag", "--list", tag):
        raise ReleaseError(f"{tag} is another commit than HEAD; check it out, or raise the version in pyproject.toml")
    heading = re.search(
        rf"^## \[{re.escape(number)}\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    if not heading:
        raise ReleaseError(f"CHANGELOG.md has no section '## [{number}] - DATE'; add it")
    if tags and not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[1]):
        raise ReleaseError(
            f"CHANGELOG.md dates {number} '{heading[1]}', but it is tagged; write the date and tag again"
        )
    return Source(number, commit, int(git("log", "-1", "--format=%ct")), bool(tags))
