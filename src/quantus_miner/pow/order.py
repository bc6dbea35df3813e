"""Nonce orders: which nonce is at which position of a search.

In a walk, step after step changes the low half of the nonce, eight elements of 4 bytes, such that the first external
layer of the permutation turns the change into just two elements. So ten of the twelve S-boxes after it are computed
once for each walk. With u = (17, -11, 3, -4), M4 u = (0, 0, 0, 35); the step (u, -u) becomes 35 in element 3 and -35 in
element 7.
"""

from __future__ import annotations

from typing import Final

from quantus_miner.model import NonceRange, Order, Pow

STEP_BITS: Final = 27
"""A walk has 2^27 steps: 17 times as much still fits in an element."""
STEP: Final = (17, -11, 3, -4, -17, 11, -3, 4)
"""What a step adds to each element; those that go down begin at 2^32 - 1."""
HALF_BITS: Final = 256


def nonce_at(order: Order, position: int) -> int:
    """Return the nonce at ``position``. Every nonce is at one position at most.

    Walks: position ``2^27 w + k`` is step k of walk w; w is the nonce's high half, so that a range of walks keeps a
    prefix. Element 0 of the low half is 17 k and tells k, the high half tells w: no nonce comes twice.

    Raises ValueError unless 0 <= position < 2^512 (counting) or 2^283 (walks).
    """
    if not 0 <= position <= last_position(order):
        raise ValueError(f"a position in {order} order must be from 0 to {last_position(order):#x}")
    if order is Order.COUNTING:
        return position
    walk, k = position >> STEP_BITS, position & (2**STEP_BITS - 1)
    low = b"".join((factor * k + (2**32 - 1 if factor < 0 else 0)).to_bytes(4, "little") for factor in STEP)
    return walk << HALF_BITS | int.from_bytes(low)


def fastest_order(pow: Pow) -> Order:  # noqa: A002 - the field's word
    """Return the fastest nonce order for ``pow``."""
    return Order.WALK if pow is Pow.POSEIDON2 else Order.COUNTING


def last_position(order: Order) -> int:
    """Return the largest position of ``order``."""
    return (1 << _position_bits(order)) - 1


def positions_from(order: Order, prefix: bytes, start: int) -> tuple[NonceRange, ...]:
    """Return all positions whose nonces begin with ``prefix`` (0 to 31 bytes), starting at one chosen by ``start``.

    With a random ``start``, two miners that search the same header do not repeat each other's nonces.
    """
    size = 1 << (_position_bits(order) - 8 * len(prefix))
    first = int.from_bytes(prefix) * size
    here, last = first + start % size, first + size - 1
    return (NonceRange(here, last), NonceRange(first, here - 1)) if here > first else (NonceRange(first, last),)


def _position_bits(order: Order) -> int:
    return 512 if order is Order.COUNTING else HALF_BITS + STEP_BITS
