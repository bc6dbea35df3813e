"""A value that several requests share."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import pytest

from quantus_miner.web.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_all_who_wait_share_one_value_and_later_ones_get_a_newer_one() -> None:
    async def main() -> None:
        numbers = count(1)
        shared = Shared(lambda: next(numbers))
        assert await asyncio.gather(*(shared.get() for _ in range(100))) == [1] * 100
        assert list(await asyncio.gather(shared.get(), shared.get())) == [2, 2]

    asyncio.run(main())


def test_a_value_is_not_older_than_the_request_for_it() -> None:
    async def main() -> None:
        state = ["before"]
        shared = Shared(lambda: state[0])
        first = asyncio.create_task(shared.get())
        await asyncio.sleep(0)  # it has asked, and the value is made next
        state[0] = "after"
        assert await shared.get() == "after"
        assert await first == "after"

    asyncio.run(main())


def test_a_failure_and_a_client_that_leaves_concern_nobody_later() -> None:
    async def main() -> None:
        outcomes: Iterator[int | ValueError] = iter([ValueError("boom"), 2, 3])

        def make() -> int:
            outcome = next(outcomes)
            if isinstance(outcome, ValueError):
                raise outcome
            return outcome

        shared = Shared(make)
        failed = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
        assert [str(error) for error in failed] == ["boom", "boom"]
        leaving, staying = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == 2
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await shared.get() == 3

    asyncio.run(main())
