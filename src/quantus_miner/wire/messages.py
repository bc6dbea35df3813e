"""Messages of the node protocol, as strict as the node's own parser. No I/O.

A message is one JSON object with one entry, whose name is its kind. As in the node's parser, its value is an object
(unknown fields are ignored, known ones may not repeat) or an array of all fields in order.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final

from quantus_miner.wire import frames
from quantus_miner.wire.core import RemoteProtocolError

MAX_TOKEN: Final = 512
"""Bytes of the longest token."""
STATUSES: Final = ("completed", "failed", "cancelled")
U64: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Ready:
    """The miner's first message, with its credentials."""

    token: str

    optional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _check(_is_text(self.token), "token")


@dataclass(frozen=True, slots=True)
class NewJob:
    """The only message that a node sends. Only the types are checked here; the job itself may still be invalid."""

    job_id: str
    mining_hash: str
    difficulty: str

    optional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for name in ("job_id", "mining_hash", "difficulty"):
            _check(_is_text(getattr(self, name)), name)


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job went.

    ``nonce``: hex without leading zeros. ``work``: the same in 128 digits. ``elapsed_time``: seconds.
    """

    status: str
    job_id: str
    nonce: str | None
    work: str | None
    hash_count: int
    elapsed_time: float

    optional: ClassVar[frozenset[str]] = frozenset({"nonce", "work"})

    def __post_init__(self) -> None:
        _check(self.status in STATUSES, "status")
        _check(_is_text(self.job_id), "job_id")
        _check(self.nonce is None or _is_text(self.nonce), "nonce")
        _check(self.work is None or _is_text(self.work), "work")
        _check(type(self.hash_count) is int and 0 <= self.hash_count <= U64, "hash_count")
        _check(type(self.elapsed_time) in (int, float) and _finite(self.elapsed_time), "elapsed_time")


Message = Ready | NewJob | JobResult
KINDS: Final[dict[str, type[Message]]] = {kind.__name__: kind for kind in (Ready, NewJob, JobResult)}


def encode(message: Message) -> bytes:
    """Return a message as a frame. Raises ValueError if it is too large for one or holds text that is not Unicode."""
    return frames.encode({type(message).__name__: asdict(message)})


def decode(body: bytes) -> Message:
    """Return the message in the JSON of a frame. Raises RemoteProtocolError if the node's parser would refuse it."""
    document = frames.decode(body)
    # Objects are tuples and arrays are lists; both may be empty.
    if not isinstance(document, tuple) or len(document) != 1:
        raise RemoteProtocolError("a frame that is not a message")
    name, value = document[0]
    if name not in KINDS:
        raise RemoteProtocolError("a message of an unknown kind")
    kind = KINDS[name]
    try:
        return kind(*_values(kind, value))
    except ValueError as error:
        raise RemoteProtocolError(f"{name}: {error}") from None


def _values(kind: type[Message], value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    names = [field.name for field in fields(kind)]
    if isinstance(value, list):
        _check(len(value) == len(names), "the array")
        return value
    _check(isinstance(value, tuple), "the value")
    given = [entry for entry in value if entry[0] in names]
    found = dict(given)
    for name in names:
        _check([entry[0] for entry in given].count(name) == 1 or (name in kind.optional and name not in found), name)
    return [found.get(name) for name in names]


def _check(valid: bool, what: str) -> None:
    if not valid:
        raise ValueError(f"{what} is missing or not valid")


def _is_text(value: object) -> bool:
    # Half of a surrogate pair is not Unicode, though Python's JSON parser accepts it.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond every float
        return False


def parse_token(text: str) -> str:
    """Return the token in a setting or file. Raises ValueError, whose text says what is allowed."""
    token = text.strip()
    try:
        size = len(token.encode())
        if 1 <= size <= MAX_TOKEN and len(encode(Ready(token))) <= frames.MAX_FRAME:
            return token
    except ValueError:
        pass
    raise ValueError(f"1 to {MAX_TOKEN} bytes of text, few enough control characters to fit into one frame")


def parse_fingerprint(text: str) -> bytes:
    """Return the 32 bytes of a certificate's SHA-256. Raises ValueError, whose text says what is allowed."""
    digits = "".join(text.replace(":", "").split())
    try:
        if digits.isascii() and len(digits) == 64:
            return bytes.fromhex(digits)
    except ValueError:
        pass
    raise ValueError("64 hex digits, colons and white space between them allowed")
