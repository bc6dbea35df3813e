"""Wallet addresses of Quantus, and the login by which a pool knows a worker."""

from __future__ import annotations

import hashlib
import re
from typing import Final

NETWORK_PREFIX: Final = 189
"""Network prefix of Quantus in the SS58 registry. Its addresses begin with ``qz``."""
ACCOUNT_BYTES: Final = 32
CHECKSUM_BYTES: Final = 2
MAX_WALLET: Final = 128
MAX_WORKER: Final = 64

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_CONTEXT: Final = b"SS58PRE"


def address_warning(wallet: str) -> str | None:
    """Return one line that says what is wrong with ``wallet`` as an address of Quantus, None if it is valid.

    SS58: base58 of network prefix, 32-byte account and the first two bytes of blake2b-512 over "SS58PRE" and these.
    """
    data = _base58_decode(wallet)
    if data is None:
        return "the wallet is not a Quantus address: it contains characters that are not valid base58"
    # A first byte from 64 to 127 begins the two-byte form; this is how its bits make up the prefix.
    if len(data) > 1 and 64 <= data[0] < 128:
        prefix, size = (data[0] & 0x3F) << 2 | data[1] >> 6 | (data[1] & 0x3F) << 8, 2
    else:
        prefix, size = data[0] if data else 0, 1
    if len(data) != size + ACCOUNT_BYTES + CHECKSUM_BYTES:
        return "the wallet is not a Quantus address: it has the wrong length"
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if hashlib.blake2b(_CONTEXT + body).digest()[:CHECKSUM_BYTES] != checksum:
        return "the wallet is not a Quantus address: its checksum does not match (a mistyped character?)"
    if prefix != NETWORK_PREFIX:
        return f"the wallet is an address of network {prefix}, not of Quantus (network {NETWORK_PREFIX})"
    return None


def parse_wallet(text: str) -> str:
    """Return ``text`` if it is allowed as a wallet in a login. Raises ValueError that says what is allowed."""
    if not re.fullmatch(rf"[A-Za-z0-9_:-]{{1,{MAX_WALLET}}}", text):
        raise ValueError(f"a wallet must be 1 to {MAX_WALLET} letters, digits, '_', '-' and ':'")
    return text


def parse_worker(text: str) -> str:
    """Return ``text`` if it is allowed as a worker name in a login. Raises ValueError that says what is allowed."""
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_WORKER}}}", text):
        raise ValueError(f"a worker name must be 1 to {MAX_WORKER} letters, digits, '_' and '-'")
    return text


def compose_login(wallet: str, worker: str) -> str:
    """Return ``<wallet>.<worker>``. Raises ValueError as ``parse_wallet`` and ``parse_worker`` do."""
    return f"{parse_wallet(wallet)}.{parse_worker(worker)}"


def _base58_decode(text: str) -> bytes | None:
    """Decode base58 with Bitcoin's alphabet. None for other characters. Texts longer than any address are cut."""
    text = text[:MAX_WALLET]
    number = 0
    for character in text:
        digit = _ALPHABET.find(character)
        if digit < 0:
            return None
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)
