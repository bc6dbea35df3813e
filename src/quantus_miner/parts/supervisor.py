"""Start the parts, keep them running, apply changed settings to them, and stop them in order.

An exception in a part is logged and does not affect other parts. The part is started again with back-off. If the part
is vital, the service ends in order, with a one-line error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final

from quantus_miner.backoff import MAX_S, Backoff
from quantus_miner.errors import MinerError, describe
from quantus_miner.host.deadline import in_thread
from quantus_miner.setting_table import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from quantus_miner.host.notify import Notifier
    from quantus_miner.parts.part import Part
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

TICK_S: Final = 1.0
STOP_S: Final = 0.7
"""Seconds that a part may take to stop (``stop_s`` may be more), and its task to end. Then the next one is stopped."""
END_S: Final = 5.0
"""Seconds that all parts together may take. Service managers kill a service that takes too long to end."""
APPLY_S: Final = 30.0
"""Seconds after which a reload is over even if a part, with a driver that hangs perhaps, is still applying settings."""


@dataclass(slots=True)
class _Supervised:
    """A part and its state. ``applied``: the settings that it runs with; None while it does not run."""

    part: Part
    applied: Settings | None = None
    started: bool = False
    """True if ``start`` was called, and ``stop`` was not called after it."""
    task: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the part starts, stops or applies settings, so that these never overlap."""

    def to_apply(self, old: Settings, new: Settings) -> list[str]:
        """Return the names of its settings that ``new`` changes from those that it runs with, or else from ``old``."""
        return [name for name in _changed(self.applied or old, new) if name in self.part.settings]


class Supervisor:
    """Runs ``parts``. Starts them in this order and stops them in reverse. Owned by the event loop's thread.

    ``load`` reads the settings again. It is called in a separate thread and raises MinerError if they are wrong.
    ``publish`` is called with the names of the settings that have changed.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        settings: Settings,
        load: Callable[[], Settings],
        notifier: Notifier,
        publish: Callable[[tuple[str, ...]], None] = lambda _: None,
    ) -> None:
        self._parts = [_Supervised(part) for part in parts]
        self._settings = settings
        self._load = load
        self._notifier = notifier
        self._publish = publish
        self._ending: asyncio.Future[MinerError | None] = asyncio.get_running_loop().create_future()
        self._reload_asked = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []
        self._applying: set[asyncio.Task[list[str]]] = set()

    def end(self, failure: MinerError | None = None) -> None:
        """End the service, because of ``failure`` if there is one."""
        if not self._ending.done():
            self._ending.set_result(failure)

    def reload(self) -> None:
        """Load the settings again and apply them, now or after the reload that is under way."""
        self._reload_asked.set()

    async def run(self, on_started: Callable[[], object] = lambda: None) -> None:
        """Start all parts and return when ``end`` is called. Raises the failure that ends the service, if any.

        ``on_started`` is called once all parts have started.
        """
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait((starting, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                on_started()
            failure = await self._ending
        finally:
            starting.cancel()
            await asyncio.wait((starting,), timeout=STOP_S)
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        """Stop all parts in reverse order. If one raises or takes too long, the others are stopped all the same."""
        self.end()
        for task in (*self._own, *self._applying):
            task.cancel()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + END_S

        def left_s(most: float) -> float:
            return max(0.0, min(most, deadline - loop.time()))

        for supervised in reversed(self._parts):
            if supervised.started:
                await _end(supervised.part, left_s(max(STOP_S, supervised.part.stop_s)))
                supervised.started = False
            if supervised.task is not None:
                supervised.task.cancel()
                await asyncio.wait((supervised.task,), timeout=left_s(STOP_S))

    # --- start and run ---

    async def _start(self) -> None:
        for supervised in self._parts:
            part = supervised.part
            try:
                await self._start_part(supervised)
            except MinerError:
                raise
            except Exception:
                if part.vital:
                    raise
                log.exception("%s has failed to start", part.name)
        for supervised in self._parts:
            supervised.task = asyncio.create_task(self._keep(supervised), name=supervised.part.name)
        self._own = [
            asyncio.create_task(self._tick(), name="tick"),
            asyncio.create_task(self._reload_when_asked(), name="reload"),
        ]

    async def _start_part(self, supervised: _Supervised) -> None:
        async with supervised.lock:
            supervised.started = True
            settings = self._settings
            await supervised.part.start(settings)
            supervised.applied = settings

    async def _keep(self, supervised: _Supervised) -> None:
        """Run a part for as long as the service runs."""
        part, backoff, loop = supervised.part, Backoff(), asyncio.get_running_loop()
        while True:
            began = loop.time()
            failure = MinerError(f"{part.name} has ended")
            error: Exception | None = None
            try:
                if supervised.applied is None:
                    await self._start_part(supervised)
                await part.run()
            except MinerError as reason:
                if supervised.applied is not None:
                    self.end(reason)
                    return
                error = reason
            except Exception as reason:
                error = reason
                failure = MinerError(f"{part.name} has failed: {describe(reason)}")
            if error is None and self._ending.done():
                return
            if part.vital:
                if error is not None:
                    log.error("%s has failed", part.name, exc_info=error)
                self.end(failure)
                return
            if loop.time() - began > MAX_S:
                backoff.reset()
            wait_s = backoff.wait_s(secrets.randbits(32) / 2**32)
            outcome = "has ended" if error is None else "has failed"
            log.error("%s %s; next try in %.1f s", part.name, outcome, wait_s, exc_info=error)
            async with supervised.lock:
                supervised.applied = None
                await _end(part, max(STOP_S, part.stop_s))
            await asyncio.sleep(wait_s)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for supervised in self._parts:
                if supervised.applied is not None:
                    with contained(f"{supervised.part.name}'s tick"):
                        supervised.part.tick()

    # --- changed settings ---

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            with contained("Reloading"):
                await self._reload()
            self._notifier.send("READY=1")

    async def _reload(self) -> None:
        try:
            new = await in_thread(self._load)
        except MinerError as error:
            log.error("Reloaded no settings: %s", error)  # noqa: TRY400 - of the user
            return
        if late := [name for name in _changed(self._settings, new) if BY_NAME[name].applies == "restart"]:
            log.warning("Restart the miner to apply: %s", ", ".join(late))
            new = replace(new, **{name: getattr(self._settings, name) for name in late})
        # Settings that a part failed to apply are tried again.
        changed = {name for supervised in self._parts for name in supervised.to_apply(self._settings, new)}
        self._settings = new
        applying = {asyncio.create_task(self._apply(part, new)): part for part in self._parts}
        for task in applying:
            self._applying.add(task)
            task.add_done_callback(self._applying.discard)
        _, slow = await asyncio.wait(applying, timeout=APPLY_S)
        left = {name for supervised in self._parts for name in supervised.to_apply(new, new)}
        if changed - left:
            self._tell(changed - left)
        elif not late and not left:
            log.info("Reloaded: no setting has changed")
        for task in slow:
            if names := applying[task].to_apply(new, new):
                log.warning("%s is still applying %s", applying[task].part.name, ", ".join(names))
            task.add_done_callback(self._on_slow)

    def _on_slow(self, task: asyncio.Task[list[str]]) -> None:
        if not task.cancelled() and (names := task.result()):
            self._tell(names)

    def _tell(self, names: Collection[str]) -> None:
        in_order = tuple(name for name in BY_NAME if name in names)
        log.info("Reloaded: %s", ", ".join(in_order))
        with contained("Publishing the changed settings"):
            self._publish(in_order)

    async def _apply(self, supervised: _Supervised, new: Settings) -> list[str]:
        """Have a part apply what concerns it. Return the names of the settings that it has applied."""
        part = supervised.part
        async with supervised.lock:
            # A failed part will be started with the new settings.
            if supervised.applied is None:
                return []
            names = supervised.to_apply(new, new)
            try:
                if names:
                    await part.apply(supervised.applied, new)
            except MinerError as error:
                log.error("%s cannot apply %s and keeps its old settings: %s", part.name, ", ".join(names), error)  # noqa: TRY400
                return []
            except Exception:
                log.exception("%s has failed to apply %s", part.name, ", ".join(names))
                return []
            supervised.applied = new
            return names


def _changed(old: Settings, new: Settings) -> list[str]:
    """Return the names of the settings that differ, in the order of the table."""
    names = {field.name for field in fields(new)}
    return [name for name in BY_NAME if name in names and getattr(old, name) != getattr(new, name)]


async def _end(part: Part, timeout_s: float) -> None:
    """Stop a part. Returns after ``timeout_s`` even if the part ignores that it is cancelled."""
    stopping = asyncio.create_task(part.stop(), name=f"stop {part.name}")
    with contained(f"Stopping {part.name[0].lower()}{part.name[1:]}"):
        done, _ = await asyncio.wait((stopping,), timeout=timeout_s)
        if not done:
            stopping.cancel()
            raise TimeoutError(f"not done after {timeout_s:.1f} s")
        if not stopping.cancelled():
            stopping.result()


@contextlib.contextmanager
def contained(what: str) -> Iterator[None]:
    """Log an exception of the body instead of raising it."""
    try:
        yield
    except Exception:
        log.exception("%s has failed", what)
