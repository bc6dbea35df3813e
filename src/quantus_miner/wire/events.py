"""The messages of /events besides the status and the points of the history, and the reply of /doctor."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["solution", "share", "source", "device", "pause", "job", "settings"]


class EventMessage(msgspec.Struct):
    """Something that happened at ``time``, in seconds since 1970.

    ``about``: the source, device or job. ``what``: what happened to it, such as ``accepted`` or ``lost``. ``reason``:
    why; may be empty.
    """

    time: float
    kind: Kind
    about: str
    what: str
    reason: str = ""


class LogMessage(msgspec.Struct):
    """New lines of the log."""

    lines: list[str]


class FindingMessage(msgspec.Struct):
    """A finding of ``doctor``. ``advice``: what to do, in one or more lines; empty if there is nothing to do."""

    verdict: Literal["ok", "note", "wrong"]
    about: str
    found: str
    advice: str


class DoctorReply(msgspec.Struct):
    """What the service finds at itself. ``time``: when, in seconds since 1970."""

    time: float
    findings: list[FindingMessage]
