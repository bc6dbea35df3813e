"""Block headers: the hash to mine, and the seal that holds the nonce.

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
"""SCALE writes a count up to 63 as one byte. Only the count that includes the seal may need two."""

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
"""Names of the 32-byte fields, in JSON and here."""
_ENVELOPES: Final = ("result", "block", "header")
"""Keys of a JSON-RPC reply, a block and a header, from the outside in. Each may be missing."""
_NEEDED: Final = f"{', '.join(_HASHES)}, number and digest.logs"


@dataclass(frozen=True, slots=True)
class Header:
    """A block header without its seal. ``digest_logs``: SCALE-encoded, in order, at most 109 bytes in all.

    Raises ValueError if a hash is not 32 bytes, the number is not from 0 to 2^32 - 1, or the digest is too large.
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
                raise ValueError(f"{shown} must have 32 bytes, got {size}")
        # bool is an int to Python, not to a chain.
        if type(self.number) is not int or not 0 <= self.number <= MAX_NUMBER:
            raise ValueError(f"number must be a whole number from 0 to {MAX_NUMBER}")
        if not all(self.digest_logs):
            raise ValueError("digest_logs has an empty log; a log must have at least one byte")
        if len(self.digest_logs) > MAX_LOGS:
            raise ValueError(f"digest_logs has {len(self.digest_logs)} logs without the seal; allowed: {MAX_LOGS}")
        size = 1 + sum(map(len, self.digest_logs))
        if size > DIGEST_BYTES:
            raise ValueError(f"the digest has {size} bytes without the seal; allowed: {DIGEST_BYTES}")

    def hash_elements(self, seal: bytes = b"") -> list[int]:
        """Return the field elements to hash: 17 for hashes and number, 28 for the digest, with ``seal`` if given."""
        logs = [*self.digest_logs, seal] if seal else self.digest_logs
        digest = _compact(len(logs)) + b"".join(logs)
        return [
            *_hash_to_elements(self.parent_hash),
            self.number,
            *_hash_to_elements(self.state_root),
            *_hash_to_elements(self.extrinsics_root),
            *_hash_to_elements(self.zk_tree_root),
            *bytes_to_elements(digest[:DIGEST_BYTES].ljust(DIGEST_BYTES, b"\0")),
        ]

    def mining_hash(self) -> bytes:
        """Return the 32 bytes that miners get: the Poseidon2 hash of the header without its seal."""
        return sponge(self.hash_elements(), squeezes=1)


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A header and the nonce (0 .. 2^512 - 1) that seals it."""

    header: Header
    nonce: int

    @property
    def mining_hash(self) -> bytes:
        """Return the 32 bytes that were mined."""
        return self.header.mining_hash()

    @property
    def hash(self) -> bytes:
        """Return the 32 bytes that name the block on the chain: the hash of the header with its seal.

        Bytes of the digest beyond DIGEST_BYTES are not hashed, as on the chain.
        """
        seal = _SEAL + _ENGINE + _COMPACT_64 + self.nonce.to_bytes(_NONCE_BYTES)
        return sponge(self.header.hash_elements(seal), squeezes=1)

    @classmethod
    def parse(cls, text: str | bytes) -> SealedBlock:
        """Parse a JSON document that holds a header, alone or as nodes and explorers wrap it.

        That is a reply to ``chain_getHeader`` or ``chain_getBlock``, with or without its JSON-RPC envelope, or an
        object with the header under ``header``. A header has ``parentHash``, ``stateRoot``, ``extrinsicsRoot``,
        ``zkTreeRoot`` (32 bytes in hex), ``number`` (an integer, or a string in decimal or in hex with ``0x``) and
        ``digest.logs`` or ``digest_logs`` (a list of hex strings, the seal last). Hex may begin with ``0x``; other keys
        are ignored. Raises ValueError, one line that says what is wrong, also if a ``hash``, ``mining_hash`` or
        ``nonce`` in the document is not that of the header.
        """
        layers = [_object(_load(text), "the block")]
        if isinstance(error := layers[0].get("error"), dict):
            message = str(error.get("message"))[:200]
            raise ValueError(f"the node's reply is an error: {message!r}")  # noqa: TRY004 - no type is wrong
        for name in _ENVELOPES:
            if name in layers[-1]:
                layers.append(_object(layers[-1][name], name))
        header, nonce = _unseal(layers[-1])
        block = cls(header, int.from_bytes(nonce))
        actual = {"hash": block.hash, "mining_hash": block.mining_hash, "nonce": nonce}
        for layer in layers:
            for name, value in actual.items():
                _compare(layer, name, value)
        return block


def _compact(count: int) -> bytes:
    """Return a count below 2^14 in SCALE's compact form."""
    return bytes([4 * count]) if count <= MAX_LOGS else (4 * count + 1).to_bytes(2, "little")


def _hash_to_elements(value: bytes) -> list[int]:
    """Return 32 bytes as four little-endian integers of 8 bytes. The permutation reduces them mod P."""
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
        unknown = "; the node knows no such block" if value is None and name == "result" else ""
        raise ValueError(f"{name} must be a JSON object{unknown}")  # noqa: TRY004 - the contract is ValueError
    return value


def _unseal(fields: dict[str, Any]) -> tuple[Header, bytes]:
    """Return the header without its seal, and the 64 bytes of the nonce."""
    for name in (*_HASHES, "number"):
        if name not in fields:
            raise ValueError(f"the header has no {name}; it must have {_NEEDED}")
    logs = _logs(fields)
    seals = [log for log in logs if log.startswith(_SEAL)]
    if len(seals) != 1:
        raise ValueError(f"the digest has {len(seals)} seals; a sealed block must have exactly one")
    if not logs[-1].startswith(_SEAL):
        raise ValueError("the seal must be the last log of the digest")
    hashes = {name: _hex(fields[shown], shown) for shown, name in _HASHES.items()}
    return Header(number=_number(fields["number"]), digest_logs=tuple(logs[:-1]), **hashes), _nonce(seals[0])


def _logs(fields: dict[str, Any]) -> list[bytes]:
    name, texts = "digest_logs", fields.get("digest_logs")
    if "digest_logs" not in fields:
        name, digest = "digest.logs", fields.get("digest")
        if not isinstance(digest, dict) or "logs" not in digest:
            raise ValueError(f"the header has no digest.logs; it must have {_NEEDED}")
        texts = digest["logs"]
    if not isinstance(texts, list):
        raise ValueError(f"{name} must be a list of hex strings")  # noqa: TRY004 - as above
    return [_hex(text, f"{name}[{i}]") for i, text in enumerate(texts)]


def _number(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a number in a string as an integer, anything else unchanged. ``Header`` checks the result."""
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,16}", value, re.ASCII):
        return int(value, 16 if value.startswith("0x") else 10)
    return value


def _nonce(seal: bytes) -> bytes:
    if not seal.startswith(_SEAL + _ENGINE):
        raise ValueError("the seal is from another consensus engine; allowed: 'pow_'")
    prefix = _SEAL + _ENGINE + _COMPACT_64
    if not seal.startswith(prefix) or len(seal) != len(prefix) + _NONCE_BYTES:
        raise ValueError(f"the seal must hold the {_NONCE_BYTES}-byte nonce")
    return seal.removeprefix(prefix)


def _hex(value: object, name: str) -> bytes:
    digits = value.removeprefix("0x") if isinstance(value, str) else ""
    # bytes.fromhex alone would accept white space.
    if not isinstance(value, str) or len(digits) % 2 or not re.fullmatch(r"[0-9a-fA-F]*", digits):
        raise ValueError(f"{name} must be a string of hex digits, two for each byte")
    return bytes.fromhex(digits)


def _compare(stated: dict[str, Any], name: str, actual: bytes) -> None:
    if name in stated and _hex(stated[name], name) != actual:
        raise ValueError(f"{name} is not that of the header, which is {actual.hex()}")
