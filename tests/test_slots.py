"""No two rigs ever search the same nonces of a header, however they come and go."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.hub.slots import MAX_HEADERS, Slots


class Fleet:
    """Rigs that go on with what they had when they left, and what each of their lives searches by header and slot."""

    def __init__(self, size: int) -> None:
        self.slots = Slots(size)
        self.lives: dict[str, int] = {}
        self.count = 0
        self.header = b""
        self.searched: dict[tuple[bytes, int], set[int]] = defaultdict(set)

    def begin(self, header: bytes) -> None:
        self.header = header
        before = {rig: self.slots.slot(rig) for rig in self.lives}
        changed = self.slots.begin(header)
        assert changed == [rig for rig in self.lives if self.slots.slot(rig) != before[rig]]
        for rig in self.lives:
            self._search(rig)

    def join(self, rig: str) -> None:
        self.count += 1
        self.lives.pop(rig, None)
        self.lives[rig] = self.count
        assert self.slots.join(rig) == self.slots.slot(rig)
        self._search(rig)

    def leave(self, rig: str) -> None:
        self.lives.pop(rig, None)
        self.slots.leave(rig)
        assert self.slots.slot(rig) is None

    def _search(self, rig: str) -> None:
        slot = self.slots.slot(rig)
        if slot is not None and self.header:
            self.searched[self.header, slot].add(self.lives[rig])

    def check(self) -> None:
        assert all(len(lives) == 1 for lives in self.searched.values())
        here = [slot for rig in self.lives if (slot := self.slots.slot(rig)) is not None]
        assert len(set(here)) == len(here)


@given(st.data())
def test_any_order_of_events(data: st.DataObject) -> None:
    fleet = Fleet(data.draw(st.integers(1, 6)))
    for event, number in data.draw(st.lists(st.tuples(st.sampled_from("jlb"), st.integers(0, 5)), max_size=60)):
        match event:
            case "j":
                fleet.join(f"rig{number}")
            case "l":
                fleet.leave(f"rig{number}")
            case _:
                fleet.begin(bytes([number]))
        fleet.check()


@pytest.mark.parametrize("size", [300, 1000, 256**3])
def test_hundreds_of_rigs_that_come_and_go(size: int) -> None:
    rng, fleet = random.Random(size), Fleet(size)
    for step in range(20_000):
        if step % 200 == 0:
            # Mostly new headers; sometimes the pool goes back to a recent one.
            number = step // 200
            fleet.begin(max(0, number - rng.choice((0, 0, 0, 1, 2, 5))).to_bytes(4))
        rig = f"rig{rng.randrange(500)}"
        (fleet.join if rng.random() < 0.6 else fleet.leave)(rig)
    fleet.check()
    assert len(fleet.lives) > 250
    if size > 1000:
        assert all(fleet.slots.slot(rig) is not None for rig in fleet.lives)


def test_a_freed_slot_is_not_used_before_the_next_header() -> None:
    slots = Slots(2)
    slots.begin(b"a")
    assert (slots.join("x"), slots.join("y"), slots.join("z")) == (0, 1, None)
    slots.leave("x")
    assert slots.join("x") is None
    assert sorted(slots.begin(b"b")) == ["z"]
    assert (slots.slot("y"), slots.slot("z"), slots.slot("x")) == (1, 0, None)


def test_what_is_remembered_is_bounded() -> None:
    slots = Slots(10)
    slots.join("x")
    for number in range(100):
        slots.begin(bytes([number]))
    assert (len(slots._used), slots.slot("x")) == (MAX_HEADERS, 0)
