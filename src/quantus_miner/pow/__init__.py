"""Both proofs of work in plain Python: the reference that confirms every hit and that kernels are tested against."""

from __future__ import annotations

from quantus_miner.model import MAX, Pow
from quantus_miner.pow import poseidon2, sha3

__all__ = ["evaluate", "is_valid"]


def evaluate(pow: Pow, header: bytes, nonce: int) -> int:  # noqa: A002 - the field's word
    """Return the hash (qpow-poseidon2) or distance (qpow-sha3) of ``nonce``, 0 .. 2^512 - 1. Smaller is better.

    Raises ValueError unless ``header`` has 32 bytes and ``nonce`` is from 0 to 2^512 - 1.
    """
    if len(header) != 32:
        raise ValueError(f"a header must have 32 bytes, got {len(header)}")
    if not 0 <= nonce <= MAX:
        raise ValueError("a nonce must be from 0 to 2^512 - 1")
    return poseidon2.hash512(header, nonce) if pow is Pow.POSEIDON2 else sha3.distance(header, nonce)


def is_valid(pow: Pow, header: bytes, nonce: int, target: int) -> bool:  # noqa: A002 - the field's word
    """Return True if the chain accepts ``nonce``: it is not zero and its value is at most ``target``.

    Raises ValueError as ``evaluate`` does.
    """
    value = evaluate(pow, header, nonce)
    return nonce != 0 and value <= target
