"""The orders of nonces: none comes twice, none leaves its range, and a walk does to the hash what it promises."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantus_miner.model import MAX, Order
from quantus_miner.pow import poseidon2
from quantus_miner.pow.order import STEP_BITS, last_position, nonce_at, positions_from

LAST = last_position(Order.WALK)
STEPS = 2**STEP_BITS
walk_positions = st.integers(0, LAST)


def position_of(nonce: int) -> int | None:
    """Where ``nonce`` stands in walks; None: nowhere. Element 0 is 17 k, the high half the walk."""
    k, rest = divmod(int.from_bytes((nonce >> 224 & 2**32 - 1).to_bytes(4), "little"), 17)
    position = (nonce >> 256 << STEP_BITS) + k
    return position if rest == 0 and k < STEPS and nonce_at(Order.WALK, position) == nonce else None


@given(walk_positions)
@example(0)
@example(STEPS - 1)
@example(STEPS)
@example(LAST)
def test_a_nonce_of_a_walk_tells_its_position_so_none_comes_twice(position: int) -> None:
    nonce = nonce_at(Order.WALK, position)
    assert 0 < nonce <= MAX
    assert position_of(nonce) == position
    assert nonce >> 256 == position >> STEP_BITS


@given(st.integers(0, MAX))
def test_counting_is_what_it_says(position: int) -> None:
    assert nonce_at(Order.COUNTING, position) == position


@pytest.mark.parametrize(("order", "position"), [(o, p) for o in Order for p in (-1, last_position(o) + 1)])
def test_a_position_that_is_not_there_is_refused(order: Order, position: int) -> None:
    with pytest.raises(ValueError, match=r"a position in .* order must be from 0 to 0x"):
        nonce_at(order, position)


@given(st.integers(0, 2**256 - 1), st.integers(0, STEPS - 1), st.integers(0, STEPS - 1))
@example(0, 0, STEPS - 1)
def test_in_a_walk_two_elements_vary_before_the_first_s_boxes(walk: int, one: int, other: int) -> None:
    def first_layer(k: int) -> list[int]:
        block = (nonce_at(Order.WALK, walk * STEPS + k) & (2**256 - 1)).to_bytes(32)
        return poseidon2._external_layer(
            [*(int.from_bytes(block[i : i + 4], "little") for i in range(0, 32, 4)), 0, 0, 0, 0]
        )

    change = [(b - a) % poseidon2.P for a, b in zip(first_layer(one), first_layer(other), strict=True)]
    up, down = 35 * (other - one) % poseidon2.P, 35 * (one - other) % poseidon2.P
    assert change == [0, 0, 0, up, 0, 0, 0, down, 0, 0, 0, 0]


@given(st.sampled_from(Order), st.binary(max_size=31), st.integers(0, MAX))
@example(Order.WALK, b"", 0)
@example(Order.COUNTING, b"", MAX)
@example(Order.WALK, bytes(4), LAST)
def test_an_open_search_goes_round_all_nonces_of_its_prefix(order: Order, prefix: bytes, start: int) -> None:
    ranges = positions_from(order, prefix, start)
    assert sum(piece.size for piece in ranges) == (last_position(order) + 1) >> 8 * len(prefix)
    ordered = sorted(ranges, key=lambda piece: piece.start)
    assert all(one.end < other.start for one, other in itertools.pairwise(ordered))
    assert ranges[0].start == ordered[0].start + start % sum(piece.size for piece in ranges)
    for piece in ranges:
        for position in (piece.start, piece.end):
            assert nonce_at(order, position).to_bytes(64).startswith(prefix)
