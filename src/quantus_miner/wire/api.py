"""Bodies of the HTTP job API: bytes to jobs, results to bytes. No I/O."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from quantus_miner.model import MAX, Job, NonceRange, Pow, Solution, Status, target_from_difficulty
from quantus_miner.pow.order import fastest_order, positions_from

MAX_BODY: Final = 65_536
"""Bytes of the largest accepted request body."""
MIN_PLAUSIBLE_THRESHOLD: Final = 2**400
"""A distance_threshold below this, but not 0, is implausible: no search would ever find such a distance."""
MAX_JOB_ID: Final = 128
"""Characters of the longest accepted job id."""

FIELDS: Final = ("job_id", "mining_hash", "distance_threshold", "difficulty", "nonce_start", "nonce_end")


class InvalidRequestError(Exception):
    """A request is not accepted. ``job_id``: as far as it could be read. ``message``: that of the contract."""

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.message = message


class MineResponse(msgspec.Struct, omit_defaults=True):
    """Reply of /mine and /cancel. ``status``: accepted, cancelled, not_found or error."""

    status: str
    job_id: str
    message: str | None = None


class MiningResult(msgspec.Struct):
    """Reply of /result. ``nonce``: hex without leading zeros; ``work``: the same as 128 hex digits."""

    status: str
    job_id: str
    nonce: str | None
    work: str | None
    hash_count: int
    elapsed_time: float


def parse_mine(body: bytes, random_start: int) -> Job:
    """Return the job that the body of a POST /mine describes.

    ``random_start``, 0 .. MAX: where the search begins if the body gives no range. Raises InvalidRequestError.
    """
    fields = _fields(body)
    try:
        return _job(fields, random_start)
    except ValueError as error:
        raise InvalidRequestError((fields["job_id"] or "")[:MAX_JOB_ID], str(error)) from None


def is_implausible(job: Job) -> bool:
    """Return True if the distance_threshold is probably a difficulty, as nodes of a former test network sent it."""
    return job.pow is Pow.SHA3 and 0 < job.target < MIN_PLAUSIBLE_THRESHOLD


def encode_result(job_id: str, status: Status, solution: Solution | None, hashes: int, elapsed: float) -> bytes:
    """Return the MiningResult of a known job. ``elapsed``: seconds."""
    nonce = None if solution is None else f"{solution.nonce:x}"
    work = None if solution is None else f"{solution.nonce:0128x}"
    return encode(MiningResult(status, job_id, nonce, work, hashes, float(elapsed)))


def encode_unknown_result(job_id: str) -> bytes:
    """Return the MiningResult of a job that is not known."""
    return encode(MiningResult("not_found", job_id, None, None, 0, 0.0))


def encode_reply(status: str, job_id: str, message: str | None = None) -> bytes:
    """Return the reply of /mine and /cancel, and of errors elsewhere."""
    return encode(MineResponse(status, job_id, message))


def encode(reply: object) -> bytes:
    r"""Return the JSON of a reply, with all escaped as \uXXXX that could steer a terminal: ids are the client's."""
    text = msgspec.json.encode(reply).decode()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(c) for c in text)
    return text.encode()


def _escape(character: str) -> str:
    """Return one or, beyond the Basic Multilingual Plane, two JSON escapes."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


def _job(fields: dict[str, str | None], random_start: int) -> Job:
    """Build the job. Raises ValueError with the contract's message. The order of the checks is part of the contract."""
    job_id = fields["job_id"] or ""
    if not job_id:
        raise ValueError("job_id cannot be empty")
    if len(job_id) > MAX_JOB_ID:
        raise ValueError(f"job_id must be at most {MAX_JOB_ID} characters")
    header = bytes.fromhex(_hex("mining_hash", 64, fields["mining_hash"] or ""))
    pow_, target = _target(fields["distance_threshold"], fields["difficulty"])
    asked = _range(fields["nonce_start"], fields["nonce_end"])
    if asked is not None:
        return Job(job_id, pow_, header, target, (asked,))
    order = fastest_order(pow_)
    return Job(job_id, pow_, header, target, positions_from(order, b"", random_start), order)


def _fields(body: bytes) -> dict[str, str | None]:
    """Return the known fields, None for those that are missing or null. Unknown ones are ignored."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequestError("", "request body must be valid JSON") from None
    if not isinstance(document, dict):
        raise InvalidRequestError("", "request body must be a JSON object")
    fields = {name: document.get(name) for name in FIELDS}
    job_id = fields["job_id"] if isinstance(fields["job_id"], str) else ""
    for name, value in fields.items():
        if value is not None and not isinstance(value, str):
            raise InvalidRequestError(job_id[:MAX_JOB_ID], f"{name} must be a string")
    return fields


def _hex(name: str, digits: int, text: str) -> str:
    if len(text) != digits:
        raise ValueError(f"{name} must be {digits} hex characters")
    return _checked_hex(name, text)


def _checked_hex(name: str, text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]+", text):
        raise ValueError(f"{name} must be valid hex")
    return text


def _target(threshold: str | None, difficulty: str | None) -> tuple[Pow, int]:
    """Return the proof of work and the target."""
    if (threshold is None) == (difficulty is None):
        raise ValueError("exactly one of distance_threshold and difficulty must be given")
    if threshold is not None:
        return Pow.SHA3, _decimal("distance_threshold", threshold)
    value = _decimal("difficulty", difficulty or "")
    if value == 0:
        raise ValueError("difficulty must not be zero")
    return Pow.POSEIDON2, target_from_difficulty(value)


def _decimal(name: str, text: str) -> int:
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0")
        # 155 digits hold every 512-bit number; int() of many more takes long.
        if len(digits) <= 155 and (value := int(digits or "0")) <= MAX:
            return value
    raise ValueError(f"{name} must be a valid decimal number")


def _range(start: str | None, end: str | None) -> NonceRange | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise ValueError("nonce_start and nonce_end must be given together")
    for name, text in (("nonce_start", start), ("nonce_end", end)):
        if len(text) != 128:
            raise ValueError(f"{name} must be 128 hex characters")
    first, last = int(_checked_hex("nonce_start", start), 16), int(_checked_hex("nonce_end", end), 16)
    if first > last:
        raise ValueError("nonce_start must be <= nonce_end")
    return NonceRange(first, last)
