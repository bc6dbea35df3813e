"""The messages with which a person commands the rigs of a hub: POST /command, and what GET /commands lists."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from quantus_miner.wire.fleet import MAX_NAME, MAX_POOLS, PoolText

Action = Literal["pause", "resume", "set-pools", "reload", "restart", "clear"]
"""``clear``: forget what was said for a target, so that what was said for its tag or for all counts again."""

ALL: Final = "all"
"""The target that stands for all rigs."""
TAG: Final = "tag:"
"""How a target begins that stands for all rigs with a tag."""
MAX_TARGETS: Final = 1_000
"""Targets of one command."""
MAX_LISTED: Final = 200
"""Commands that are listed, and exceptions in a reply."""

NAME: Final = rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}"
"""What a tag may be, and the name of a rig."""

Target = Annotated[str, Meta(pattern=f"^({TAG})?{NAME}$")]


class CommandRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A command. ``targets``: ``all``, ``tag:NAME``, or names of rigs. ``by``: who gives it, for the record.

    ``pools``, ``wallet``: of ``set-pools``; without pools, each rig uses its own again.
    """

    action: Action
    targets: Annotated[list[Target], Meta(min_length=1, max_length=MAX_TARGETS)]
    by: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    pools: Annotated[list[PoolText], Meta(max_length=MAX_POOLS)] = []
    wallet: Annotated[str, Meta(max_length=128)] = ""


class CommandReply(msgspec.Struct):
    """What a command has done. ``rigs``: how many it is for; ``offline``: how many of them hear of it later.

    ``exceptions``: rigs that do something else, because of what was said for them or for one of their tags.
    """

    status: Literal["ok"]
    rigs: int
    offline: int
    exceptions: list[str]


class CommandEntry(msgspec.Struct):
    """A command in the record. ``time``: seconds since 1970. ``by``: who gave it, and from where."""

    time: float
    by: str
    what: str
    target: str
    result: str


class CommandList(msgspec.Struct):
    """The last commands, the newest last."""

    commands: list[CommandEntry]


def parse_tag(text: str) -> str:
    """Return ``text`` if a rig may have this tag. Raises ValueError that says what is allowed."""
    if not re.fullmatch(NAME, text):
        raise ValueError(f"a tag must be 1 to {MAX_NAME} letters, digits, '_' and '-'")
    return text


def parse_target(text: str) -> str:
    """Return ``text`` if it is a target. Raises ValueError that says what is allowed."""
    if not re.fullmatch(f"({TAG})?{NAME}", text):
        raise ValueError(f"{ALL}, {TAG}NAME for all rigs with a tag, or the name of a rig")
    return text
