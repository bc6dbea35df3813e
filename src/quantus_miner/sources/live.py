"""The live network as a source: keeps links to nodes and pools, mines the job of the best, sends solutions back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.mining.stats import LinkStats
from quantus_miner.model import Job, LiveJob, Pow, Solution
from quantus_miner.pow.order import fastest_order, positions_from
from quantus_miner.sources.failover import POLICY, Failover
from quantus_miner.sources.link import Handover
from quantus_miner.store.rows import Find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantus_miner.mining.miner import Miner
    from quantus_miner.mining.search import Search
    from quantus_miner.sources.failover import Failing, Policy
    from quantus_miner.sources.link import Link, Verdict
    from quantus_miner.store.writer import Store

log = logging.getLogger("miner.live")

LOOK_S: Final = 1.0
"""Seconds between two looks at whether time alone changes the choice of links."""
MINUTE_S: Final = 60.0
"""Seconds in which a source causes one warning of a kind at most; the others are logged as debug."""
REPEAT_S: Final = 600.0
"""Seconds after which a warning or an error for the same reason is logged as one again."""


@dataclass(slots=True)
class _Logged:
    """A warning that was logged. ``more``: those of its kind that were not, since."""

    reason: str
    at: float
    more: int = 0


@dataclass(slots=True)
class _Upstream:
    """A link and what became of it."""

    link: Link
    stats: LinkStats
    job: LiveJob | None = None
    task: asyncio.Task[None] | None = None
    log_in_again: str = ""
    """Why we end the session to begin another; empty: we do not."""
    failing: Failing | None = None
    """As logged."""
    logged: dict[str, _Logged] = field(default_factory=dict)
    """By kind of warning."""


class _Events:
    """The listener of one link: passes what happens on it to the source."""

    def __init__(self, source: LiveSource, index: int) -> None:
        self._source = source
        self._index = index

    def on_open(self) -> None:
        self._source.on_open(self._index)

    def on_alive(self) -> None:
        self._source.on_alive(self._index)

    def on_job(self, job: LiveJob) -> None:
        self._source.on_job(self._index, job)

    def on_no_job(self) -> None:
        self._source.on_no_job(self._index)

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        self._source.on_handover(self._index, job, solution, handover)

    def on_verdict(self, verdict: Verdict) -> None:
        self._source.on_verdict(self._index, verdict)


class LiveSource:
    """Mines for the best of ``links`` (in the user's order) that has work; owned by the event loop's thread.

    ``priority``: of its jobs among those of other sources. ``store``: keeps what was sent as history; None: nothing
    does. ``exit_on_refusal``: end when every link is refused, instead of trying again at long intervals.
    """

    def __init__(
        self,
        miner: Miner,
        links: Sequence[Link],
        *,
        priority: int,
        store: Store | None = None,
        exit_on_refusal: bool = False,
        policy: Policy = POLICY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._miner = miner
        self._priority = priority
        self._store = store
        self._exit_on_refusal = exit_on_refusal
        self._clock = clock
        self._upstreams = [_Upstream(link, LinkStats(link.name)) for link in links]
        self._failover = Failover(len(links), clock(), policy)
        self._mined: tuple[int, LiveJob] | None = None
        self._search: Search | None = None
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Keeps the links until cancelled. Raises LinkRefusedError with ``exit_on_refusal`` only."""
        try:
            while True:
                self._failover.update(self._clock())
                self._apply()
                self._keep_wanted()
                if self._exit_on_refusal and self._failover.all_refused:
                    raise LinkRefusedError("every live source refuses us: " + "; ".join(self._refusals()))
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
        finally:
            if self._search is not None:
                self._miner.cancel(self._search)
            tasks = [upstream.task for upstream in self._upstreams if upstream.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stats(self) -> tuple[LinkStats, ...]:
        """A snapshot, of each link in the user's order."""
        return tuple(upstream.stats.copy() for upstream in self._upstreams)

    # --- what links say, on the event loop ---

    def on_open(self, index: int) -> None:
        """The connection stands."""
        upstream = self._upstreams[index]
        upstream.stats.connected = True
        upstream.stats.connects += 1
        log.info("Connected to %s", upstream.link.name)

    def on_alive(self, index: int) -> None:
        """The peer is there."""
        self._failover.heard(index, self._clock())

    def on_job(self, index: int, job: LiveJob) -> None:
        """New work: every worker is on it within milliseconds, if this link is the one that is mined."""
        upstream = self._upstreams[index]
        first, upstream.job = upstream.job is None, job
        upstream.stats.jobs += 1
        upstream.stats.difficulty = job.difficulty
        upstream.stats.refusal = ""
        self._failover.job(index, self._clock())
        self._apply()
        # The first says that there is work; a node may send several a second for years.
        level = logging.INFO if first else logging.DEBUG
        text = "Job %s from %s: header %s, difficulty %d"
        log.log(level, text, job.id, upstream.link.name, job.header.hex(), job.difficulty)

    def on_no_job(self, index: int) -> None:
        """The job of a link is void."""
        self._upstreams[index].job = None
        self._failover.no_job(index, self._clock())
        self._apply()
        self._news.set()

    def on_handover(self, index: int, job: LiveJob, solution: Solution, handover: Handover) -> None:
        """A solution was sent, or will not be; one that waits comes again."""
        upstream = self._upstreams[index]
        name = upstream.link.name
        if handover is Handover.SENT:
            upstream.stats.sent += 1
            if self._store is not None:
                self._store.found(Find(time.time_ns(), name, job.id, Pow.POSEIDON2, job.header, solution))
            log.info("Solution for job %s sent to %s", job.id, name)
            log.debug("Its nonce: %x", solution.nonce)
        elif handover is Handover.LATE:
            upstream.stats.late += 1
            log.info("Solution for job %s came too late for %s", job.id, name)
        elif handover is Handover.SURPLUS:
            upstream.stats.late += 1
            log.debug("Solution for job %s not sent to %s, which has enough of them for now", job.id, name)

    def on_verdict(self, index: int, verdict: Verdict) -> None:
        """A pool has judged a share."""
        upstream = self._upstreams[index]
        upstream.stats.latency_s = verdict.latency_s
        judgement = "accepted" if verdict.accepted else "stale" if verdict.stale else "rejected"
        if self._store is not None:
            self._store.judged(upstream.link.name, verdict.nonce, judgement)
        if verdict.accepted:
            upstream.stats.accepted += 1
            self._failover.share_accepted(index, self._clock())
            log.info("Share accepted by %s in %.0f ms", upstream.link.name, 1000 * verdict.latency_s)
            return
        if verdict.stale:
            upstream.stats.stale += 1
        else:
            upstream.stats.rejected += 1
        text = "Share %s by %s: %s"
        self._warn(upstream, judgement, verdict.reason, text, judgement, upstream.link.name, verdict.reason)
        task = upstream.task
        # When we end a session ourselves, the shares without a verdict are not the pool's fault.
        if task is not None and not task.cancelling() and self._failover.share_refused(index, self._clock()):
            upstream.log_in_again = f"it refuses our shares, the last because: {verdict.reason}"
            task.cancel()

    # --- links ---

    def _keep_wanted(self) -> None:
        """Starts the links that are wanted, and ends those that are not."""
        now = self._clock()
        for index, upstream in enumerate(self._upstreams):
            if upstream.task is not None and upstream.task.done():
                upstream.task = None
            # One that is still closing is started again when it has ended.
            if index in self._failover.wanted:
                if upstream.task is None and now >= self._failover.retry_at(index):
                    upstream.task = asyncio.create_task(self._keep(index, upstream), name=upstream.link.name)
            elif upstream.task is not None and not upstream.task.cancelling():
                log.info("Leaving %s: not needed now", upstream.link.name)
                upstream.task.cancel()

    async def _keep(self, index: int, upstream: _Upstream) -> None:
        """One connection from dialling to its end, and what that end means."""
        try:
            await upstream.link.run(_Events(self, index))
        except LinkRefusedError as error:
            self._on_refused(index, upstream, str(error))
        except LinkLostError as error:
            self._on_lost(index, upstream, str(error))
        except asyncio.CancelledError:
            if upstream.log_in_again:
                self._on_lost(index, upstream, upstream.log_in_again)
            else:
                self._failover.left(index, self._clock())
        except Exception as error:  # a bug of ours must not cost the other sources
            log.exception("The link to %s has failed", upstream.link.name)
            self._on_lost(index, upstream, f"an error of ours: {type(error).__name__}")
        finally:
            upstream.log_in_again = ""
            upstream.stats.connected = False
            upstream.job = None
            self._apply()
            # After the task is done.
            self._loop.call_soon(self._news.set)

    def _on_lost(self, index: int, upstream: _Upstream, reason: str) -> None:
        wait_s = self._failover.lost(index, self._clock(), _jitter())
        self._warn(upstream, "lost", reason, "Lost %s: %s; next try in %.1f s", upstream.link.name, reason, wait_s)
        self._loop.call_later(wait_s, self._news.set)

    def _on_refused(self, index: int, upstream: _Upstream, reason: str) -> None:
        wait_s = self._failover.login_refused(index, self._clock(), _jitter())
        upstream.stats.refusal = reason
        upstream.stats.refusals += 1
        text = "%s refuses us: %s; next try in %.0f s"
        self._warn(upstream, "refused", reason, text, upstream.link.name, reason, wait_s, level=logging.ERROR)
        self._loop.call_later(wait_s, self._news.set)

    def _warn(
        self, upstream: _Upstream, kind: str, reason: str, text: str, *args: object, level: int = logging.WARNING
    ) -> None:
        """Log ``text`` at ``level``, or as debug if there was one of its kind a short time ago."""
        now, last = self._clock(), upstream.logged.get(kind)
        if last is not None and now - last.at < (REPEAT_S if reason == last.reason else MINUTE_S):
            last.more += 1
            level = logging.DEBUG
        else:
            if last is not None and last.more:
                text += f" ({last.more:,} more since the last such line)"
            upstream.logged[kind] = _Logged(reason, now)
        log.log(level, text, *args, stacklevel=2)

    def _refusals(self) -> list[str]:
        return [f"{upstream.link.name}: {upstream.stats.refusal}" for upstream in self._upstreams]

    # --- the miner ---

    def _apply(self) -> None:
        """Brings the miner to the job of the chosen link."""
        current = self._failover.current
        job = None if current is None else self._upstreams[current].job
        chosen = None if current is None or job is None else (current, job)
        before, self._mined = self._mined, chosen
        for index, upstream in enumerate(self._upstreams):
            upstream.stats.mined = chosen is not None and index == chosen[0]
            self._note_failing(index, upstream)
        if chosen is None:
            if self._search is not None:
                self._miner.cancel(self._search)
                self._search = None
            return
        if before is not None and before[1] is chosen[1]:
            return
        if (before[0] if before else None) != chosen[0] and len(self._upstreams) > 1:
            log.info("Mining for %s", self._upstreams[chosen[0]].link.name)
        self._search = self._start(*chosen)

    def _note_failing(self, index: int, upstream: _Upstream) -> None:
        failing = self._failover.failing(index, self._clock()) if index in self._failover.wanted else None
        upstream.stats.failing = failing or ""
        if failing != upstream.failing and len(self._upstreams) > 1:
            if failing is None:
                log.info("%s is not failing any more", upstream.link.name)
            else:
                self._warn(upstream, failing, failing, "%s is failing: %s", upstream.link.name, failing)
        upstream.failing = failing

    def _start(self, index: int, job: LiveJob) -> Search:
        order = fastest_order(Pow.POSEIDON2)
        # Drawn for every job, so that no two processes, and no two jobs with one header, search the same nonces.
        ranges = positions_from(order, job.prefix, secrets.randbits(512))

        def solved(search: Search, solution: Solution) -> None:
            """From a worker's thread."""
            # The loop is closed when a worker is the last to leave at the end of the service.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._submit, index, job, search, solution)

        return self._miner.submit(
            Job(job.id, Pow.POSEIDON2, job.header, job.target, ranges, order),
            self._on_end,
            on_solution=solved,
            priority=self._priority,
            replaces=self._search,
        )

    def _submit(self, index: int, job: LiveJob, search: Search, solution: Solution) -> None:
        hashes, elapsed = self._miner.hashes(search), self._miner.elapsed(search)
        self.on_handover(index, job, solution, self._upstreams[index].link.submit(job, solution, hashes, elapsed))

    def _on_end(self, search: Search) -> None:
        """From a worker's thread: a live search ends by itself only where no worker is left for it."""
        log.error("Live job %s has ended: no worker is left for it", search.job.id)


def _jitter() -> float:
    return secrets.randbits(32) / 2**32
