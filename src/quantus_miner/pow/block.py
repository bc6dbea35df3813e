"""Block headers: the hash that is mined, and the seal that holds the nonce.

Digest logs are SCALE-encoded, as the node stores them. A seal is byte 5, the engine id ``pow_``, a compact length and
the 64-byte nonce.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from quantus_miner.pow.poseidon2 import bytes_to_elements, sponge

MAX_NUMBER: Final = 2**32 - 1
DIGEST_BYTES: Final = 110
"""Size of the window in which the digest without its seal is hashed."""
MAX_LOGS: Final = 63
"""SCALE writes a count up to 63 as one byte."""

_SEAL: Final = b"\x05"
_ENGINE: Final = b"pow_"
_COMPACT_64: Final = b"\x01\x01"
_NONCE_BYTES: Final = 64

_HASHES: Final = {
    "parentHash": "parent_hash",
    "stateRoot": "state_root",
    "extrinsicsRoot": "extrinsics_root",
    "zkTreeRoot": "zk_tree_root",
}
"""Names of the 32-byte fields: in JSON, here."""


@dataclass(frozen=True, slots=True)
class Header:
    """A block header without its seal. ``digest_logs``: SCALE-encoded, in order, at most 109 bytes in all.

    Raises ValueError where a hash is not 32 bytes, the number is not from 0 to 2^32 - 1, or the digest is too large.
    """

    parent_hash: bytes
    number: int
    state_root: bytes
    extrinsics_root: bytes
    zk_tree_root: bytes
    digest_logs: tuple[bytes, ...]

    def __post_init__(self) -> None:
        for shown, name in _HASHES.items():
            size = len(getattr(self, name))
            if size != 32:
                raise ValueError(f"{shown} has {size} bytes; it has to have 32")
        # bool is an int to Python, not to a chain.
        if type(self.number) is not int or not 0 <= self.number <= MAX_NUMBER:
            raise ValueError(f"number has to be a whole number from 0 to {MAX_NUMBER}")
        if not all(self.digest_logs):
            raise ValueError("digest_logs has an empty log; a log has at least one byte")
        if len(self.digest_logs) > MAX_LOGS:
            raise ValueError(f"digest_logs has {len(self.digest_logs)} logs without the seal; allowed: {MAX_LOGS}")
        size = 1 + sum(map(len, self.digest_logs))
        if size > DIGEST_BYTES:
            raise ValueError(f"the digest has {size} bytes without the seal; allowed: {DIGEST_BYTES}")

    def hash_elements(self) -> list[int]:
        """The field elements that are hashed: 17 for hashes and number, 28 for the digest."""
        digest = bytes([4 * len(self.digest_logs)]) + b"".join(self.digest_logs)
        return [
            *_hash_to_elements(self.parent_hash),
            self.number,
            *_hash_to_elements(self.state_root),
            *_hash_to_elements(self.extrinsics_root),
            *_hash_to_elements(self.zk_tree_root),
            *bytes_to_elements(digest.ljust(DIGEST_BYTES, b"\0")),
        ]

    def mining_hash(self) -> bytes:
        """The 32 bytes that miners are given: the Poseidon2 hash of the header without its seal."""
        return sponge(self.hash_elements(), squeezes=1)


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A header and the nonce (0 .. 2^512 - 1) that seals it."""

    header: Header
    nonce: int

    @property
    def mining_hash(self) -> bytes:
        """The 32 bytes that were mined."""
        return self.header.mining_hash()

    @classmethod
    def parse(cls, text: str | bytes) -> SealedBlock:
        """Reads a JSON document: a header, or an object with a header under ``header``.

        A header has ``parentHash``, ``stateRoot``, ``extrinsicsRoot``, ``zkTreeRoot`` (32 bytes in hex), ``number``
        and ``digest_logs`` (a list of hex strings, the seal last); other keys are ignored. Raises ValueError, one line
        that names what is wrong, also where a ``mining_hash`` or ``nonce`` beside these is not that of the header.
        """
        document = _object(_load(text), "the block")
        fields = _object(document.get("header", document), "header")
        header, nonce = _unseal(fields)
        mining_hash = header.mining_hash()
        for stated in (document, fields):
            _compare(stated, "mining_hash", mining_hash)
            _compare(stated, "nonce", nonce)
        return cls(header, int.from_bytes(nonce))


def _hash_to_elements(value: bytes) -> list[int]:
    """32 bytes as 4 x 8 bytes little-endian; the permutation takes them mod P."""
    return [int.from_bytes(value[start : start + 8], "little") for start in range(0, 32, 8)]


def _load(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the block is nested too deeply; allowed: an object with a header") from None
    except ValueError as error:
        raise ValueError(f"the block is not valid JSON: {error}") from None


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} has to be a JSON object")  # noqa: TRY004 - the contract is ValueError for any text
    return value


def _unseal(fields: dict[str, Any]) -> tuple[Header, bytes]:
    """The header without its seal, and the 64 bytes of the nonce."""
    for name in (*_HASHES, "number", "digest_logs"):
        if name not in fields:
            raise ValueError(f"the header has no {name}; it needs {', '.join(_HASHES)}, number and digest_logs")
    texts = fields["digest_logs"]
    if not isinstance(texts, list):
        raise ValueError("digest_logs has to be a list of hex strings")  # noqa: TRY004 - as above
    logs = [_hex(text, f"digest_logs[{i}]") for i, text in enumerate(texts)]
    seals = [log for log in logs if log.startswith(_SEAL)]
    if len(seals) != 1:
        raise ValueError(f"the digest has {len(seals)} seals; a sealed block has exactly one")
    if not logs[-1].startswith(_SEAL):
        raise ValueError("the seal is not the last log of the digest; it has to be")
    hashes = {name: _hex(fields[shown], shown) for shown, name in _HASHES.items()}
    return Header(number=fields["number"], digest_logs=tuple(logs[:-1]), **hashes), _nonce(seals[0])


def _nonce(seal: bytes) -> bytes:
    if not seal.startswith(_SEAL + _ENGINE):
        raise ValueError("the seal is of another engine; allowed: 'pow_'")
    prefix = _SEAL + _ENGINE + _COMPACT_64
    if not seal.startswith(prefix) or len(seal) != len(prefix) + _NONCE_BYTES:
        raise ValueError(f"the seal does not hold {_NONCE_BYTES} bytes; it has to hold the {_NONCE_BYTES}-byte nonce")
    return seal.removeprefix(prefix)


def _hex(value: object, name: str) -> bytes:
    # bytes.fromhex alone would let white space pass.
    if not isinstance(value, str) or len(value) % 2 or not re.fullmatch(r"[0-9a-fA-F]*", value):
        raise ValueError(f"{name} has to be a string of hex digits, two a byte, without 0x")
    return bytes.fromhex(value)


def _compare(stated: dict[str, Any], name: str, actual: bytes) -> None:
    if name in stated and _hex(stated[name], name) != actual:
        raise ValueError(f"{name} is not that of the header, which is {actual.hex()}")
