"""Make a value once for all requests that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S")
T = TypeVar("T")


class Shared(Generic[T]):
    """A value that takes milliseconds to make. All who wait for it get the same one, so a flood of requests makes few.

    ``make`` is called on the event loop, after everyone who gets its value has asked for it. So the value is never
    older than a request.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the value, or raise what ``make`` raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._begin())
        return await asyncio.shield(self._next)

    async def _begin(self) -> T:
        self._next = None
        return self._make()


class SharedInThread(Generic[S, T]):
    """A value that takes longer than a poll should wait. All who ask while it is made get it; there is one thread.

    ``look`` is called on the event loop, and ``make`` with its result in the thread.
    """

    def __init__(self, look: Callable[[], S], make: Callable[[S], T]) -> None:
        self._look = look
        self._make = make
        self._last: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the value, or raise what ``make`` raises."""
        if self._last is None or self._last.done():
            self._last = asyncio.create_task(asyncio.to_thread(self._make, self._look()))
        return await asyncio.shield(self._last)
