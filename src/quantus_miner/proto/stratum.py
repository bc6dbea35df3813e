"""The messages of the pools' stratum dialect: one JSON object a line. No I/O.

Both sides of a connection are built from these: ``stratum_miner`` and ``stratum_pool``.
"""

from __future__ import annotations

import re
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

NO_REASON: Final = "no reason given"
SESSION_LOST: Final = (
    *("unauthenticated", "unauthorized", "unauthorised", "not authenticated", "not authorized", "not authorised"),
    *("not logged in", "login first", "log in first", "login required", "not subscribed", "session", "unknown miner"),
)
"""Words of a refusal which say that the pool no longer knows our login."""

NULL: Final = msgspec.Raw(b"null")
Message = TypeVar("Message", bound=msgspec.Struct)


class BreachError(Exception):
    """The peer broke the protocol; ``str()`` says how, in one line."""


class BadJobError(ValueError):
    """A job that must not be mined; ``str()`` says why, in one line."""


class JobBody(msgspec.Struct):
    """A job on the wire. Hex: ``mining_hash`` 32 bytes, ``extranonce`` 4, ``target`` 64, big-endian."""

    job_id: str
    mining_hash: str
    extranonce: str
    difficulty: int
    target: str
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
    code: int = -1


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
    """A job that is fit to be mined. Raises BadJobError, also where target and difficulty disagree."""
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
    target = from_hex(body.target, 64)
    if header is None or extranonce is None or target is None:
        raise BadJobError("mining_hash, extranonce and target have to be 64, 8 and 128 hex digits")
    if not 1 <= body.difficulty <= MAX:
        raise BadJobError("its difficulty is not from 1 to 2^512 - 1")
    if int.from_bytes(target) != MAX // body.difficulty:
        raise BadJobError(f"its target is not that of difficulty {body.difficulty}")
    return LiveJob(body.job_id, header, body.difficulty, extranonce)


def job_body(job: LiveJob) -> dict[str, Any]:
    """A job as pools send it."""
    return {
        "algo": ALGO,
        "difficulty": job.difficulty,
        "extranonce": job.prefix.hex(),
        "job_id": job.id,
        "mining_hash": job.header.hex(),
        "target": f"{MAX // job.difficulty:0128x}",
    }


def from_hex(text: str, size: int) -> bytes | None:
    """Exactly ``size`` bytes; None for anything else."""
    # bytes.fromhex alone would let white space pass.
    return bytes.fromhex(text) if re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text) else None


def error_message(error: msgspec.Raw) -> str | None:
    """A pool's words for a refusal; None where ``error`` is null."""
    text = bytes(error)
    if text == b"null":
        return None
    try:
        message = decode(error, ErrorBody).message
    except BreachError:
        message = text.decode(errors="replace")
    return legible(message) or NO_REASON


def is_stale(reason: str) -> bool:
    """Whether a refusal says that the share came too late, not that it was wrong."""
    return any(words in reason.lower() for words in ("stale", "invalid job id"))


def is_session_lost(reason: str) -> bool:
    """Whether a refusal says that the pool no longer knows our login, so that only another login helps."""
    return any(words in reason.lower() for words in SESSION_LOST)


def legible(text: str) -> str:
    """A peer's words, fit for one line of a log."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_REASON]).strip()
