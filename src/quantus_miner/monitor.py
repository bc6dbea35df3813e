"""The monitor: takes a snapshot of the miner once a second and passes it, and all events, to subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from quantus_miner.events import ShareJudged, SolutionSent
from quantus_miner.mining.rates import RateBook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from quantus_miner.events import Event
    from quantus_miner.gpu.telemetry import Readings
    from quantus_miner.mining.stats import ApiStats, GpuStats, HubStats, LinkStats, MinerStats
    from quantus_miner.model import Rates

log = logging.getLogger("miner")

PARTS: Final = ("miner", "sources", "api", "hub", "store", "readings")
"""What a snapshot is read from."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts since the start, including those of sources that were removed from the settings.

    ``accepted``, ``rejected``, ``stale``: shares, by the verdict of their pools. ``blocks``: solutions sent to nodes.
    """

    accepted: int = 0
    rejected: int = 0
    stale: int = 0
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole miner, or hub, at one moment. A field is None or empty if there is no such part, or it cannot be read.

    ``time``: seconds since 1970. ``readings``: by device id. ``rates``: of all workers
    together, or what the shares of a hub's miners prove. ``worker_rates``: by
    worker number; each GPU has one worker. ``source_rates``: by name of the source. ``failures``: number of calls that
    raised, by subscriber. ``part_failures``: the same, by the part that was read.
    """

    time: float
    uptime_s: float
    effective_cpus: int
    miner: MinerStats | None = None
    sources: tuple[LinkStats, ...] = ()
    api: ApiStats | None = None
    hub: HubStats | None = None
    store_ok: bool | None = None
    readings: Mapping[str, Readings] = field(default_factory=dict)
    tally: Tally = Tally()
    rates: Rates | None = None
    worker_rates: Mapping[int, Rates] = field(default_factory=dict)
    source_rates: Mapping[str, Rates] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    part_failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Subscriber:
    name: str
    on_snapshot: Callable[[Snapshot], None] | None
    on_event: Callable[[Event], None] | None


class Monitor:
    """Builds one frozen Snapshot per tick on the event loop and passes it, and the events, to its subscribers.

    For a snapshot it calls ``miner``, ``sources``, ``api``, ``hub`` and ``store_ok`` once, and ``readings`` once per
    device, with its PCI address. None of them may block. Exceptions of these and of subscribers are counted, and the
    first in a row is logged. Create the monitor on the event loop.
    """

    def __init__(
        self,
        miner: Callable[[], MinerStats | None],
        *,
        sources: Callable[[], tuple[LinkStats, ...]],
        api: Callable[[], ApiStats | None] = lambda: None,
        hub: Callable[[], HubStats | None] = lambda: None,
        store_ok: Callable[[], bool],
        readings: Callable[[str | None], Readings | None] = lambda _: None,
        effective_cpus: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._miner = miner
        self._sources = sources
        self._api = api
        self._hub = hub
        self._store_ok = store_ok
        self._readings = readings
        self.effective_cpus = effective_cpus
        self._clock = clock
        self._started = clock()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._subscribers: list[_Subscriber] = []
        self._failures: Counter[str] = Counter()
        self._part_failures: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
        self._failing: set[str] = set()
        self.tally = Tally()
        self._total: RateBook[None] = RateBook()
        self._workers: RateBook[tuple[int, str, str]] = RateBook()
        self._links: RateBook[str] = RateBook()
        self.look()  # rates are measured from here on

    def subscribe(
        self,
        name: str,
        *,
        on_snapshot: Callable[[Snapshot], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Have ``on_snapshot`` called at each tick and ``on_event`` for each event, on the event loop."""
        self._failures[name] = 0
        self._subscribers.append(_Subscriber(name, on_snapshot, on_event))

    def publish(self, event: Event) -> None:
        """Pass an event to the subscribers, at once if called on the event loop's thread, otherwise soon."""
        if threading.get_ident() == self._thread:
            self._deliver(event)
            return
        # The loop is already closed if a worker is the last to end with the service.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, event)

    def look(self) -> Snapshot:
        """Return a snapshot of the miner now."""
        return self._look(sample=False)

    def tick(self) -> None:
        """Sample the hash rates and pass a snapshot to the subscribers. Called once a second."""
        snapshot = self._look(sample=True)
        for subscriber in self._subscribers:
            if subscriber.on_snapshot is not None:
                self._pass_on(subscriber, "a snapshot", partial(subscriber.on_snapshot, snapshot))

    def _deliver(self, event: Event) -> None:
        if isinstance(event, ShareJudged):
            self.tally = replace(self.tally, **{event.judgement: getattr(self.tally, event.judgement) + 1})
        elif isinstance(event, SolutionSent) and event.source.startswith("node "):
            self.tally = replace(self.tally, blocks=self.tally.blocks + 1)
        for subscriber in self._subscribers:
            if subscriber.on_event is not None:
                self._pass_on(subscriber, "an event", partial(subscriber.on_event, event))

    def _look(self, *, sample: bool) -> Snapshot:
        now = self._clock()
        miner = self._ask("miner", self._miner, None)
        sources = self._ask("sources", self._sources, None)
        hub = self._ask("hub", self._hub, None)
        total, workers, links = {}, {}, {}
        if miner is not None:
            total = self._total.measure(now, {None: miner.hashes}, sample=sample)
            hashes = {worker.key: worker.hashes for worker in miner.workers}
            workers = self._workers.measure(now, hashes, sample=sample)
        elif hub is not None:
            total = self._total.measure(now, {None: hub.work}, sample=sample)
        if sources is not None:
            links = self._links.measure(now, {source.name: source.hashes for source in sources}, sample=sample)
        return Snapshot(
            time=time.time(),
            uptime_s=now - self._started,
            effective_cpus=self.effective_cpus,
            miner=miner,
            sources=sources or (),
            api=self._ask("api", self._api, None),
            hub=hub,
            store_ok=self._ask("store", self._store_ok, None),
            readings=self._ask("readings", partial(self._read, miner.gpus if miner else ()), {}),
            tally=self.tally,
            rates=total.get(None),
            worker_rates={key[0]: rates for key, rates in workers.items()},
            source_rates=links,
            failures=dict(self._failures),
            part_failures=dict(self._part_failures),
        )

    def _read(self, gpus: Iterable[GpuStats]) -> dict[str, Readings]:
        return {gpu.id: reading for gpu in gpus if (reading := self._readings(gpu.pci)) is not None}

    def _ask(self, part: str, question: Callable[[], T], otherwise: U) -> T | U:
        return self._contain(self._part_failures, part, f"The monitor cannot read the {part}", question, otherwise)

    def _pass_on(self, subscriber: _Subscriber, what: str, call: Callable[[], None]) -> None:
        line = f"The {subscriber.name} has failed to handle {what}"
        self._contain(self._failures, subscriber.name, line, call, None)

    def _contain(self, counts: Counter[str], name: str, line: str, call: Callable[[], T], otherwise: U) -> T | U:
        try:
            answer = call()
        except Exception:
            counts[name] += 1
            if line not in self._failing:
                self._failing.add(line)
                log.exception("%s", line)
            return otherwise
        self._failing.discard(line)
        return answer
