"""The console: what the service says while it mines, and the keys of a terminal."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Final

from quantus_miner import wording
from quantus_miner.events import PauseChanged, ShareJudged, SolutionSent, SourceChanged
from quantus_miner.host.terminal import Keys
from quantus_miner.mining.pauses import USER
from quantus_miner.parts.part import MinerPart
from quantus_miner.sources.source_log import SourceLog, job_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quantus_miner.events import Event
    from quantus_miner.monitor import Monitor, Snapshot
    from quantus_miner.parts.part import MinerComponents
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")
live_log = logging.getLogger("miner.live")

SPEED_S: Final = 60.0
"""Seconds between two lines with the hash rate."""
IDLE_S: Final = 3.0
"""Seconds without work after which the console says why. HTTP clients leave short gaps between their jobs."""
IDLE_AGAIN_S: Final = 600.0
"""Seconds after which it repeats that."""
IDLES: Final = (3, 60.0)
"""How often it may say so at once, and seconds until it may once more: work may come and go."""
SHARES: Final = (5, 8.0)
JOBS: Final = (3, 30.0)
"""Lines about shares and solutions, and about jobs: how many at once, and seconds until there may be one more.

However often a pool sends jobs and gets shares, two minutes have at most 5 + 120 / 8 + 3 + 120 / 30 = 27 such lines,
which fit on a screen with what else is said. The counts in each line show how many shares were left out; these are
logged at debug. Pools usually aim at a share every 8 s or less often: then almost every share has its line.
"""
HELP: Final = "Keys: h hash rate, p pause, r resume, s shares and sources, c connections, q quit"
GREEN, RED, YELLOW, CYAN, MAGENTA = 32, 31, 33, 36, 35


class Allowance:
    """How many more lines may be logged: ``most`` at once, and one more every ``refill_s`` seconds."""

    def __init__(self, most: int, refill_s: float) -> None:
        self._most, self._refill_s = most, refill_s
        self._left, self._at = float(most), 0.0

    def take(self, now: float) -> bool:
        """Return True if there may be a line at ``now``, in seconds. It is then used up."""
        self._left, self._at = min(self._left + (now - self._at) / self._refill_s, self._most), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Narrator:
    """Logs what happens, from the monitor's snapshots and events.

    Its clock is the uptime in the snapshots.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._now = 0.0
        self._shares, self._jobs = Allowance(*SHARES), Allowance(*JOBS)
        self._refusals: dict[str, SourceLog] = {}
        self._job: tuple[str, str] | None = None  # the source and the job that were told last
        self._speed_at: float | None = None  # when the next speed is due; None before the first
        self._idles = Allowance(*IDLES)
        self._idle_since: float | None = None
        self._idle_at = 0.0  # when to say that it is idle

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Log a new difficulty, the speed if it is due, or why nothing is mined."""
        self._now = snapshot.uptime_s
        self._tell_job(snapshot)
        if wording.paused(snapshot) or wording.idle(snapshot):
            self._tell_idle(snapshot)
        else:
            self._idle_since = None
            self._tell_speed(snapshot)

    def on_event(self, event: Event) -> None:
        """Log a share, a solution, a pause, or the first job of another source."""
        if isinstance(event, SourceChanged) and event.state == "mined":
            self._tell_job(self._monitor.look())
        elif isinstance(event, PauseChanged):
            self._idle_since = self._now if event.paused else None
            self._idle_at = self._now + IDLE_AGAIN_S
            log.info("%s", wording.pause(event, self._monitor.look()), extra={"colour": YELLOW, "device": event.device})
        elif isinstance(event, SolutionSent):
            if not wording.judges(event.source):
                self._tell(wording.solution(event, self._monitor.tally), GREEN, event.source, job_fields(event.job))
        elif isinstance(event, ShareJudged):
            line = wording.share(event, self._monitor.tally)
            fields: dict[str, object] = {"difficulty": event.difficulty, "latency_ms": round(1000 * event.latency_s, 1)}
            if event.judgement == "accepted":
                self._tell(line, GREEN, event.source, fields)
                return
            refusals = self._refusals.setdefault(event.source, SourceLog(live_log, event.source, lambda: self._now))
            refusals.warn_of(event.judgement, event.reason, "%s", line, extra={**fields, "colour": RED})

    def _tell(self, line: str, colour: int, source: str, fields: dict[str, object]) -> None:
        level = logging.INFO if self._shares.take(self._now) else logging.DEBUG
        live_log.log(level, "%s", line, extra={**fields, "source": source, "colour": colour})

    def _tell_job(self, snapshot: Snapshot) -> None:
        for link in snapshot.sources:
            if link.mined:
                line = wording.job(link)
                # What is said is compared: a difficulty that looks the same is no news.
                if (link.name, line) != self._job and self._jobs.take(self._now):
                    self._job = link.name, line
                    fields = {"source": link.name, "difficulty": link.difficulty, "colour": MAGENTA}
                    live_log.info("%s", line, extra=fields)

    def _tell_idle(self, snapshot: Snapshot) -> None:
        if self._idle_since is None:
            self._idle_since = self._now
            self._idle_at = self._now + IDLE_S
        if self._now >= self._idle_at and self._idles.take(self._now):
            self._idle_at = self._now + IDLE_AGAIN_S
            log.info("%s", wording.status(snapshot), extra={"colour": YELLOW})

    def _tell_speed(self, snapshot: Snapshot) -> None:
        if self._speed_at is None and snapshot.rates is not None and snapshot.rates.average_10s is not None:
            self._speed_at = self._now  # the first one is due when there is something to say
        if self._speed_at is not None and self._now >= self._speed_at:
            self._speed_at = self._now + SPEED_S
            log.info("%s", wording.status(snapshot), extra={"colour": CYAN})
            for line in wording.devices(snapshot):
                log.info("%s", line)


class Console(MinerPart):
    """Says what happens while the service mines, and answers the keys of a terminal."""

    name = "The console"

    def __init__(self, components: MinerComponents) -> None:
        super().__init__(components)
        narrator = Narrator(components.monitor)
        components.monitor.subscribe("console", on_snapshot=narrator.on_snapshot, on_event=narrator.on_event)
        self._keys = Keys(self._on_key)
        self._commands: dict[str, Callable[[], Iterable[str]]] = {
            "h": self._rates,
            "p": self._pause,
            "r": self._resume,
            "s": lambda: wording.sources(components.monitor.look()),
            "c": lambda: wording.connections(components.monitor.look()),
            "q": self._quit,
        }

    async def start(self, settings: Settings) -> None:  # noqa: ARG002 - of none
        """Read keys, if there is a terminal."""
        self._keys.update()
        if self._keys.reading:
            log.info("%s", HELP)

    def tick(self) -> None:
        """Read keys only while the process is in the foreground of its terminal."""
        self._keys.update()

    async def stop(self) -> None:
        """Restore the terminal."""
        self._keys.close()

    def _on_key(self, key: str) -> None:
        command = self._commands.get(key.lower())
        if command is None:
            log.info("%s", HELP)
            return
        for line in command():
            log.info("%s", line)

    def _rates(self) -> list[str]:
        snapshot = self.components.monitor.look()
        return [wording.speed(snapshot.rates), *wording.devices(snapshot), *wording.workers(snapshot)]

    def _pause(self) -> list[str]:
        return [] if self.components.miner.pause(USER) else ["Already paused by the user"]

    def _resume(self) -> list[str]:
        return [] if self.components.miner.resume(USER) else ["Not paused by the user"]

    def _quit(self) -> list[str]:
        signal.raise_signal(signal.SIGTERM)
        return []
