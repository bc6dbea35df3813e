"""The hub's solutions on their way up to the node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quantus_miner import pow as reference
from quantus_miner.hub import outbox as outbox_module
from quantus_miner.model import Pow, Solution
from quantus_miner.store.rows import Sent, StoredSolution

from .hub import HEADER, OTHER_HEADER, hub_at, run, until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def a_solution(header: bytes = HEADER, nonce: int = 1) -> Solution:
    return Solution(nonce, reference.evaluate(Pow.POSEIDON2, header, nonce))


def test_a_solution_waits_for_its_header_and_is_sent_once_also_after_restarts(tmp_path: Path) -> None:
    async def test() -> None:
        solution = a_solution()
        async with hub_at(tmp_path) as fixture:
            fixture.give(header=OTHER_HEADER, difficulty=1)
            saved = fixture.hub.solve(HEADER, solution.nonce)
            assert saved is not None
            await asyncio.wrap_future(saved)
            assert fixture.door.stats().solutions_waiting == 1
        async with hub_at(tmp_path) as fixture:
            fixture.give("2", difficulty=1)
            assert await fixture.next_sent() == solution
            # It is known: whoever brings it again gets the same answer.
            assert fixture.hub.solve(HEADER, solution.nonce) is not None
            fixture.give("3", difficulty=1)
            fixture.hub.tick()
            assert fixture.sent.empty()
        async with hub_at(tmp_path) as fixture:
            fixture.give(difficulty=1)
            again = fixture.hub.solve(HEADER, solution.nonce)
            assert again is not None
            await asyncio.wrap_future(again)
            fixture.hub.tick()
            assert fixture.sent.empty()
            assert fixture.door.stats().solutions_waiting == 0
            # After an hour it is forgotten.
            fixture.clock.now += outbox_module.KEEP_S
            fixture.hub.tick()
            assert not fixture.hub.outbox._entries
        async with hub_at(tmp_path) as fixture:
            assert fixture.store.outbox == []

    run(test)


def test_a_node_that_wants_no_more_for_now_gets_the_next_one_later(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give(difficulty=1)
            offered: list[int] = []
            fixture.takes = lambda solution: offered.append(solution.nonce) or len(offered) != 2  # type: ignore[func-returns-value]
            for nonce in (1, 2, 3):
                saved = fixture.hub.solve(HEADER, nonce)
                assert saved is not None
                await asyncio.wrap_future(saved)
            await until(lambda: len(offered) == 2)
            fixture.hub.tick()
            assert (offered, fixture.hub.outbox.waiting) == ([1, 2], 2)
            fixture.clock.now += outbox_module.RETRY_S
            fixture.hub.tick()
            assert (offered, fixture.hub.outbox.waiting) == ([1, 2, 2, 3], 0)
            # Those of a header that does not come back are given up, at once if one of them was sent.
            fixture.hub.solve(OTHER_HEADER, 5)
            saved = fixture.hub.solve(HEADER, 4)
            assert saved is not None
            fixture.takes = lambda _: False
            await asyncio.wrap_future(saved)
            fixture.give("2", bytes(32))
            assert fixture.hub.outbox.waiting == 1
            fixture.clock.now += outbox_module.EXPIRY_S
            fixture.hub.tick()
            assert (fixture.hub.outbox.waiting, fixture.hub.outbox.expired) == (0, 1)

    run(test)


def test_the_second_check_has_the_last_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            assert fixture.hub.solve(HEADER, 1) is None
            assert fixture.hub.solve(OTHER_HEADER, 0) is None

    run(test)
    assert caplog.text.count("whose second check failed") == 2


def test_the_outbox_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_SOLUTIONS", 3)

    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            for nonce in range(1, 6):
                fixture.hub.solve(HEADER, nonce)
            assert [nonce for _, nonce in fixture.hub.outbox._entries] == [3, 4, 5]
            await until(lambda: all(entry.saved.done() for entry in fixture.hub.outbox._entries.values()))

    run(test)


def test_a_solution_that_was_perhaps_sent_waits_until_the_node_would_have_it(tmp_path: Path) -> None:
    async def test() -> None:
        solution = a_solution()
        async with hub_at(tmp_path) as fixture:
            # The hub is killed after it has stored that it is about to send it.
            fixture.hub.leads = lambda: False
            fixture.give(difficulty=1)
            saved = fixture.hub.solve(HEADER, solution.nonce)
            assert saved is not None
            await asyncio.wrap_future(saved)
            assert [stored.sent for stored in fixture.store._outbox.values()] == [Sent.PERHAPS]
        async with hub_at(tmp_path) as fixture:
            fixture.give(difficulty=1)
            fixture.clock.now += outbox_module.DOUBT_S - 1
            fixture.hub.tick()
            # The time counts anew for a header that comes back.
            fixture.give(header=OTHER_HEADER, difficulty=1)
            fixture.give(difficulty=1)
            fixture.clock.now += outbox_module.DOUBT_S - 1
            fixture.hub.tick()
            assert fixture.sent.empty()
            fixture.clock.now += 1
            fixture.hub.tick()
            assert await fixture.next_sent() == solution

    run(test)


def test_a_solution_that_was_perhaps_sent_is_forgotten_without_a_word_if_the_node_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.hub.outbox.restore([StoredSolution(HEADER, a_solution(), Sent.PERHAPS)])
            fixture.give(header=OTHER_HEADER, difficulty=1)
            fixture.clock.now += outbox_module.EXPIRY_S
            fixture.hub.tick()
            assert fixture.sent.empty()
            assert (fixture.hub.outbox.waiting, fixture.hub.outbox.expired) == (0, 0)

    run(test)
