"""Make a value once for all requests that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

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
