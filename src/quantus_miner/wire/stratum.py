"""Messages of the stratum dialect that Quantus pools speak: one JSON object on each line. No I/O.

``stratum_miner`` and ``stratum_pool``, the two sides of a connection, are built on them.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec

from quantus_miner.errors import legible
from quantus_miner.model import MAX, LiveJob, Pow
from quantus_miner.wire.core import RemoteProtocolError

ALGO: Final = Pow.POSEIDON2.value
OK: Final = "OK"
KEEPALIVED: Final = "KEEPALIVED"
EXTRANONCE_BYTES: Final = 4
MAX_ID: Final = 128
"""Most characters in the id of a job or a session."""

ROUNDING: Final = 1_000_000
"""A stated difficulty may differ from the target's by 1 plus one part in this many: pools round to six digits."""

NO_REASON: Final = "no reason given"
SESSION_LOST: Final = re.compile(
    r"unauthenticated|unauthori[sz]ed|not (authenticated|authori[sz]ed|logged in|subscribed)|log ?in (first|required)"
    r"|unknown miner|\b(invalid|unknown|expired|no|no such) session"
    r"|session( id)?( is| has)? (not found|invalid|unknown|expired|lost|closed)"
)
"""Matches a refusal, in lower case, that says that the pool no longer knows our login."""

STALE_CODE: Final = 21
"""The error code for a job that the pool no longer knows."""
STALE: Final = re.compile(
    r"stale|(invalid|unknown|no such) job|unknown\b.*\bjob|job( id)? not found|(?<!session )(?<!login )\bexpired"
)
"""Matches a refusal, in lower case, of a share that came too late. An expired session or login is something else."""

NULL: Final = msgspec.Raw(b"null")
Message = TypeVar("Message", bound=msgspec.Struct)


class BadJobError(ValueError):
    """A job must not be mined. ``str()`` says why, in one line."""


class JobBody(msgspec.Struct):
    """A job as it is sent. In hex, big-endian: ``mining_hash`` (32 bytes), ``extranonce`` (4) and ``target`` (64).

    ``difficulty`` is a number or a string that holds one. It may be rounded or missing.
    """

    job_id: str
    mining_hash: str
    extranonce: str
    target: str
    difficulty: msgspec.Raw = NULL
    algo: str | None = None


class LoginParams(msgspec.Struct, rename={"password": "pass"}):
    """Parameters of a login. ``login``: ``<wallet>.<worker>``."""

    login: str
    agent: str = ""
    password: str = "x"  # noqa: S105 - what everybody sends


class SubmitParams(msgspec.Struct):
    """A share. ``id``: the session's. ``nonce`` and its hash ``result``: 64 bytes each in hex, big-endian."""

    id: str
    job_id: str
    nonce: str
    result: str


class JobParams(msgspec.Struct):
    """Parameters of a job. ``clean_jobs``: shares of earlier jobs are stale from now on."""

    job: msgspec.Raw = NULL
    clean_jobs: bool = True


class LoginResult(msgspec.Struct):
    """An accepted login. ``id``: the session's, for later requests. ``job``: null if the first one follows later."""

    id: str
    status: str
    job: msgspec.Raw = NULL


class StatusResult(msgspec.Struct):
    """A pool's answer to a share or a keepalive."""

    status: str


class ErrorBody(msgspec.Struct):
    """Why a pool refuses a request."""

    message: str
    code: Any = None


class FromPool(msgspec.Struct):
    """A reply (with ``result`` or ``error``; some pools leave out a keepalive's ``id``) or a notification."""

    id: int | str | None = None
    method: str | None = None
    params: msgspec.Raw = NULL
    result: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class FromMiner(msgspec.Struct):
    """A miner's request."""

    method: str
    id: int | str | None = None
    params: msgspec.Raw = NULL


def decode(data: bytes | msgspec.Raw, kind: type[Message]) -> Message:
    """Return the message in a line or a field. Raises RemoteProtocolError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a malformed message: {legible(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("a line that is not JSON") from None


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line, with its line end."""
    return msgspec.json.encode(message) + b"\n"


def parse_job(data: msgspec.Raw) -> LiveJob:
    """Return a job that can be mined. Raises BadJobError, also if target and difficulty disagree."""
    try:
        body = decode(data, JobBody)
    except RemoteProtocolError as error:
        raise BadJobError(str(error)) from None
    if body.algo not in (None, ALGO):
        raise BadJobError(f"its algo is {legible(str(body.algo))}, not {ALGO}")
    if not 1 <= len(body.job_id) <= MAX_ID or not body.job_id.isprintable():
        raise BadJobError(f"its job_id is not 1 to {MAX_ID} printable characters")
    header = from_hex(body.mining_hash, 32)
    extranonce = from_hex(body.extranonce, EXTRANONCE_BYTES)
    target = int.from_bytes(from_hex(body.target, 64) or b"")
    if header is None or extranonce is None or not target:
        raise BadJobError("mining_hash, extranonce and target must be 64, 8 and 128 hex digits, the target not 0")
    stated = _stated_difficulty(body.difficulty)
    difficulty = MAX // target
    if stated is not None and abs(difficulty - stated) > 1 + difficulty // ROUNDING:
        raise BadJobError(f"its target is that of difficulty {difficulty:.6g}, but it states difficulty {stated:.6g}")
    # Several large difficulties share one target. The pool means the stated one.
    if stated is not None and MAX // stated == target:
        difficulty = stated
    exact = None if MAX // difficulty == target else target - 1  # in a message, a valid hash is below the target
    return LiveJob(body.job_id, header, difficulty, extranonce, exact)


def _stated_difficulty(data: msgspec.Raw) -> int | None:
    """Return the integer part of the difficulty in a job: an integer, a float, or a string that holds either.

    None if there is none. Raises BadJobError if it is not from 1 to 2^512 - 1.
    """
    text = bytes(data).decode(errors="replace")
    if text == "null":
        return None
    match = re.fullmatch(r'("?)([0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?)\1', text)
    # A Decimal made from text is exact.
    number = Decimal(match[2]) if match else Decimal(0)
    if not 1 <= number <= MAX:
        raise BadJobError(f"its difficulty is {legible(text[:40])}, not a number from 1 to 2^512 - 1")
    return int(number)


def job_body(job: LiveJob) -> dict[str, Any]:
    """Return a job as pools send it."""
    return {
        "algo": ALGO,
        "difficulty": job.difficulty,
        "extranonce": job.prefix.hex(),
        "job_id": job.id,
        "mining_hash": job.header.hex(),
        "target": f"{job.target + 1:0128x}",
    }


def from_hex(text: str, size: int) -> bytes | None:
    """Return exactly ``size`` bytes, or None for anything else."""
    # bytes.fromhex alone would accept white space.
    return bytes.fromhex(text) if re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text) else None


def parse_error(error: msgspec.Raw) -> tuple[str, Any] | None:
    """Return a pool's reason for a refusal, and its code if it gives one. None if ``error`` is null.

    An error is an object, or an array of code and message as in Bitcoin's stratum.
    """
    text = bytes(error)
    if text == b"null":
        return None
    code: Any = None
    try:
        body = msgspec.json.decode(error, type=ErrorBody | list[Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = text.decode(errors="replace")
    else:
        if isinstance(body, ErrorBody):
            message, code = body.message, body.code
        elif len(body) > 1 and isinstance(body[1], str):
            code, message = body[:2]
        else:
            message = text.decode(errors="replace")
    return legible(message) or NO_REASON, code


def is_stale(reason: str, code: object = None) -> bool:
    """Return True if a refusal means that the share came too late, not that it was invalid."""
    return (type(code) is int and code == STALE_CODE) or STALE.search(reason.lower()) is not None


def is_session_lost(reason: str) -> bool:
    """Return True if a refusal says that the pool no longer knows our login, so that only another login helps."""
    return SESSION_LOST.search(reason.lower()) is not None
