"""The messages of the pools' stratum dialect: one JSON object a line. No I/O.

Both sides of a connection are built from these: ``stratum_miner`` and ``stratum_pool``.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec

from quantus_miner.model import MAX, LiveJob, Pow

ALGO: Final = Pow.POSEIDON2.value
OK: Final = "OK"
KEEPALIVED: Final = "KEEPALIVED"
EXTRANONCE_BYTES: Final = 4
MAX_ID: Final = 128
"""Characters of a job's or a session's id."""
MAX_REASON: Final = 200
"""Characters of a peer's words that are kept."""

ROUNDING: Final = 1_000_000
"""A stated difficulty may differ from that of the target by 1, and by one part in so many besides: six digits."""

NO_REASON: Final = "no reason given"
SESSION_LOST: Final = re.compile(
    r"unauthenticated|unauthori[sz]ed|not (authenticated|authori[sz]ed|logged in|subscribed)|log ?in (first|required)"
    r"|unknown miner|\b(invalid|unknown|expired|no|no such) session"
    r"|session( id)?( is| has)? (not found|invalid|unknown|expired|lost|closed)"
)
"""What a refusal says, in lower case, if the pool no longer knows our login."""

STALE_CODE: Final = 21
"""Error code with which pools say that a job is no longer known."""
STALE: Final = re.compile(
    r"stale|(invalid|unknown|no such) job|unknown\b.*\bjob|job( id)? not found|(?<!session )(?<!login )\bexpired"
)
"""What a refusal says, in lower case, if the share came too late. Sessions expire too, which is another matter."""

NULL: Final = msgspec.Raw(b"null")
Message = TypeVar("Message", bound=msgspec.Struct)


class BreachError(Exception):
    """The peer broke the protocol; ``str()`` says how, in one line."""


class BadJobError(ValueError):
    """A job that must not be mined; ``str()`` says why, in one line."""


class JobBody(msgspec.Struct):
    """A job on the wire. Hex: ``mining_hash`` 32 bytes, ``extranonce`` 4, ``target`` 64, big-endian.

    ``difficulty``: a number, or a string that holds one; it may be rounded, or missing.
    """

    job_id: str
    mining_hash: str
    extranonce: str
    target: str
    difficulty: msgspec.Raw = NULL
    algo: str | None = None


class LoginParams(msgspec.Struct, rename={"password": "pass"}):
    """``login``: ``<wallet>.<worker>``."""

    login: str
    agent: str = ""
    password: str = "x"  # noqa: S105 - what everybody sends


class SubmitParams(msgspec.Struct):
    """A share. ``id``: the session's. Hex: ``nonce`` and its hash ``result`` 64 bytes each, big-endian."""

    id: str
    job_id: str
    nonce: str
    result: str


class JobParams(msgspec.Struct):
    """``clean_jobs``: whether shares of earlier jobs are stale from now on."""

    job: msgspec.Raw = NULL
    clean_jobs: bool = True


class LoginResult(msgspec.Struct):
    """``id``: the session's, for all later requests. ``job``: may be null; then the first comes as a notification."""

    id: str
    status: str
    job: msgspec.Raw = NULL


class StatusResult(msgspec.Struct):
    """What a pool says of a share or a keepalive."""

    status: str


class ErrorBody(msgspec.Struct):
    """Why a pool refuses."""

    message: str
    code: Any = None


class FromPool(msgspec.Struct):
    """A reply (``id``, with ``result`` or ``error``), a keepalive's (maybe without ``id``), or a notification."""

    id: int | str | None = None
    method: str | None = None
    params: msgspec.Raw = NULL
    result: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class FromMiner(msgspec.Struct):
    """A request."""

    method: str
    id: int | str | None = None
    params: msgspec.Raw = NULL


def decode(data: bytes | msgspec.Raw, kind: type[Message]) -> Message:
    """A message. Raises BreachError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise BreachError(f"a malformed message: {legible(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BreachError("a line that is not JSON") from None


def encode(message: dict[str, Any]) -> bytes:
    """A line, with its end."""
    return msgspec.json.encode(message) + b"\n"


def parse_job(data: msgspec.Raw) -> LiveJob:
    """A job that is fit to be mined. Raises BadJobError, also if target and difficulty disagree."""
    try:
        body = decode(data, JobBody)
    except BreachError as error:
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
        raise BadJobError(
            f"its target is that of difficulty {difficulty:.6g}, not that of the difficulty in it, {stated:.6g}"
        )
    # Large difficulties have a target in common: then the one in the job is what the pool means.
    if stated is not None and MAX // stated == target:
        difficulty = stated
    return LiveJob(body.job_id, header, difficulty, extranonce, None if MAX // difficulty == target else target)


def _stated_difficulty(data: msgspec.Raw) -> int | None:
    """The difficulty in a job, without its fraction: of an integer, a float, or a string that holds one of them.

    None if there is none. Raises BadJobError if it is not from 1 to 2^512 - 1.
    """
    text = bytes(data).decode(errors="replace")
    if text == "null":
        return None
    match = re.fullmatch(r'("?)([0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?)\1', text)
    # Exact: a Decimal from a text has all of its digits.
    number = Decimal(match[2]) if match else Decimal(0)
    if not 1 <= number <= MAX:
        raise BadJobError(f"its difficulty is {legible(text[:40])}, not a number from 1 to 2^512 - 1")
    return int(number)


def job_body(job: LiveJob) -> dict[str, Any]:
    """A job as pools send it."""
    return {
        "algo": ALGO,
        "difficulty": job.difficulty,
        "extranonce": job.prefix.hex(),
        "job_id": job.id,
        "mining_hash": job.header.hex(),
        "target": f"{job.limit + 1:0128x}",
    }


def from_hex(text: str, size: int) -> bytes | None:
    """Exactly ``size`` bytes; None for anything else."""
    # bytes.fromhex alone would let white space pass.
    return bytes.fromhex(text) if re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text) else None


def parse_error(error: msgspec.Raw) -> tuple[str, Any] | None:
    """A pool's words for a refusal, and its code if it gives one; None if ``error`` is null.

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
    """Whether a refusal says that the share came too late, not that it was wrong."""
    return (type(code) is int and code == STALE_CODE) or STALE.search(reason.lower()) is not None


def is_session_lost(reason: str) -> bool:
    """Whether a refusal says that the pool no longer knows our login, so that only another login helps."""
    return SESSION_LOST.search(reason.lower()) is not None


def legible(text: str) -> str:
    """A peer's words, fit for one line of a log."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_REASON]).strip()
