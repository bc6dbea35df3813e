"""The live source: keep links to nodes and pools, mine the job of the best one, send solutions back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.events import ShareJudged, SolutionSent, SolutionUnsent, SourceChanged
from quantus_miner.mining.stats import LinkStats
from quantus_miner.sources.failover import POLICY, Failover
from quantus_miner.sources.link import Handover
from quantus_miner.sources.source_log import SourceLog, job_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantus_miner.events import Event
    from quantus_miner.model import LiveJob, Solution
    from quantus_miner.sources.failover import Policy
    from quantus_miner.sources.link import Link, Verdict
    from quantus_miner.sources.searcher import LiveSearch, Searcher

log = logging.getLogger("miner.live")

REMOVED: Final = "removed from the settings"
LOOK_S: Final = 1.0
"""Seconds between two updates of the choice of links, which may change with time alone."""


def ignore(event: Event) -> None:
    """Do nothing with an event."""


@dataclass(slots=True, eq=False)
class _Upstream:
    """A link and its state. As the link's listener, it passes events to ``source``."""

    source: LiveSource
    link: Link
    stats: LinkStats
    log: SourceLog
    job: LiveJob | None = None
    task: asyncio.Task[None] | None = None
    log_in_again: str = ""
    """Why we are ending the session to begin another; empty if we are not."""
    unanswered: int = 0
    """Shares of this session that got no verdict before its end."""
    wanted: bool = False
    """The state that was last published."""

    def on_open(self) -> None:
        self.source.on_open(self)

    def on_alive(self) -> None:
        self.source.on_alive(self)

    def on_job(self, job: LiveJob) -> None:
        self.source.on_job(self, job)

    def on_no_job(self) -> None:
        self.source.on_no_job(self)

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        self.source.on_handover(self, job, solution, handover)

    def on_verdict(self, verdict: Verdict) -> None:
        self.source.on_verdict(self, verdict)


@dataclass(frozen=True, slots=True)
class _Mined:
    """The job that is being searched."""

    upstream: _Upstream
    job: LiveJob
    search: LiveSearch


class LiveSource:
    """Mines for the best of ``links`` (in the user's order) that has work. Owned by the event loop's thread.

    ``searcher``: searches the jobs. ``priority``: that of its jobs among those of other sources. ``publish``: called on
    the event loop with each event. ``exit_on_refusal``: end when every link is refused, instead of trying again at long
    intervals.
    """

    def __init__(
        self,
        searcher: Searcher,
        links: Sequence[Link],
        *,
        priority: int,
        publish: Callable[[Event], None] = ignore,
        exit_on_refusal: bool = False,
        policy: Policy = POLICY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._searcher = searcher
        self._priority = priority
        self._publish = publish
        self._clock = clock
        self._upstreams: list[_Upstream] = []
        self._leaving: set[asyncio.Task[None]] = set()  # of links that were removed
        self._failover: Failover[_Upstream] = Failover((), clock(), policy)
        self._mined: _Mined | None = None
        self._held = ""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.set_links(links, priority=priority, exit_on_refusal=exit_on_refusal)

    def set_links(self, links: Sequence[Link], *, priority: int, exit_on_refusal: bool) -> None:
        """Make these the links, in the user's order.

        A link that was there already (equal ``identity``) keeps its connection, its job and its statistics.
        """
        gone, self._upstreams = self._upstreams, []
        for link in links:
            known = next((upstream for upstream in gone if upstream.link.identity == link.identity), None)
            if known is not None:
                gone.remove(known)
            source_log = SourceLog(log, link.name, self._clock)
            self._upstreams.append(
                known or _Upstream(self, link, LinkStats(link.name, changed_at=self._clock()), source_log)
            )
        self._exit_on_refusal = exit_on_refusal
        self._failover.set_sources(self._upstreams, self._clock())
        before, self._priority = self._priority, priority
        self._apply()
        if priority != before and self._mined is not None:
            self._start(self._mined.upstream, self._mined.job)
        for upstream in gone:
            if upstream.wanted:
                self._publish(SourceChanged(upstream.link.name, "idle", REMOVED))
            if upstream.task is not None:
                self._leaving.add(upstream.task)
                upstream.task.add_done_callback(self._leaving.discard)
                self._leave(upstream, REMOVED)
        self._news.set()

    def hold(self, reason: str) -> None:
        """Close all connections, and open none until ``release``. ``reason``: for the log."""
        self._held = reason
        self._apply()
        self._keep_wanted()

    def release(self) -> None:
        """Open connections again."""
        self._held = ""
        self._news.set()

    async def run(self) -> None:
        """Keep the links until cancelled. Raises LinkRefusedError, but only with ``exit_on_refusal``."""
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
            for upstream in self._upstreams:
                upstream.job = None  # so that none takes over from another
            self._stop()
            tasks = [*self._leaving, *(upstream.task for upstream in self._upstreams if upstream.task is not None)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stats(self) -> tuple[LinkStats, ...]:
        """Return a snapshot of each link, in the user's order."""
        copies = {upstream: upstream.stats.copy(self._clock()) for upstream in self._upstreams}
        if self._mined is not None and self._mined.upstream in copies:
            copies[self._mined.upstream].hashes += self._mined.search.hashes
        return tuple(copies.values())

    # --- events of links, on the event loop ---

    def on_open(self, upstream: _Upstream) -> None:
        """Handle a new connection. See ``Listener.on_open``."""
        upstream.stats.connected, upstream.stats.changed_at = True, self._clock()
        upstream.stats.connects += 1
        upstream.log.info("Connected to %s", upstream.link.name)
        self._publish(SourceChanged(upstream.link.name, "connected"))

    def on_alive(self, upstream: _Upstream) -> None:
        """Handle a sign of life of the peer."""
        self._failover.heard(upstream, self._clock())

    def on_job(self, upstream: _Upstream, job: LiveJob) -> None:
        """Handle a new job. If this link is the one that is mined, all workers begin it within milliseconds."""
        upstream.job = job
        upstream.stats.jobs += 1
        upstream.stats.job_at, upstream.stats.difficulty = self._clock(), job.difficulty
        upstream.stats.refusal = ""
        self._failover.job(upstream, self._clock())
        self._apply()
        # A node may send several a second for years. The console tells of a new difficulty.
        text, name = "Job %s from %s: header %s, difficulty %d", upstream.link.name
        upstream.log.debug(text, job.id, name, job.header.hex(), job.difficulty, extra=job_fields(job))

    def on_no_job(self, upstream: _Upstream) -> None:
        """Handle the end of a link's job."""
        upstream.job = None
        self._failover.no_job(upstream, self._clock())
        self._apply()
        self._news.set()

    def on_handover(self, upstream: _Upstream, job: LiveJob, solution: Solution, handover: Handover) -> None:
        """Handle a solution that was sent, waits or was not sent. One that waits is reported again."""
        name, fields = upstream.link.name, job_fields(job)
        if handover is Handover.SENT:
            upstream.stats.sent += 1
            self._publish(SolutionSent(name, job, solution))
            upstream.log.debug("Solution for job %s sent to %s: nonce %x", job.id, name, solution.nonce, extra=fields)
        elif handover is Handover.LATE:
            upstream.stats.late += 1
            self._publish(SolutionUnsent(name, job, solution))
            text = "Solution for job %s came too late for %s"
            upstream.log.warn_of("late", "", text, job.id, name, level=logging.INFO, extra=fields)
        elif handover is Handover.SURPLUS:
            upstream.stats.late += 1
            self._publish(SolutionUnsent(name, job, solution))
            text = "Solution for job %s not sent to %s, which has enough of them for now"
            upstream.log.debug(text, job.id, name, extra=fields)

    def on_verdict(self, upstream: _Upstream, verdict: Verdict) -> None:
        """Handle a pool's verdict on a share."""
        stats = upstream.stats
        stats.latency_s = verdict.latency_s
        judgement: Literal["accepted", "stale", "rejected"]
        judgement = "accepted" if verdict.accepted else "stale" if verdict.stale else "rejected"
        figures = (verdict.difficulty, verdict.latency_s)
        self._publish(ShareJudged(upstream.link.name, verdict.nonce, judgement, verdict.reason, *figures))
        if verdict.accepted:
            stats.accepted += 1
            stats.accepted_at = self._clock()
            stats.work += verdict.difficulty
            self._failover.share_accepted(upstream, self._clock())
            return
        if verdict.stale:
            stats.stale += 1
        else:
            stats.rejected += 1
        if verdict.unanswered:
            # The end of the session shows whether the pool is to blame.
            upstream.unanswered += 1
            return
        task = upstream.task
        # Refusals do not count against a pool while we are ending the session ourselves.
        if task is not None and not task.cancelling() and self._failover.share_refused(upstream, self._clock()):
            upstream.log_in_again = f"it refuses our shares, most recently with: {verdict.reason}"
            task.cancel()

    # --- links ---

    def _keep_wanted(self) -> None:
        """Start the links that are wanted, and end those that are not."""
        now = self._clock()
        for upstream in self._upstreams:
            if upstream.task is not None and upstream.task.done():
                upstream.task = None
            # A link that is still closing is started again when it has ended.
            if self._held or upstream not in self._failover.wanted:
                self._leave(upstream, self._held or "not needed now")
            elif upstream.task is None and now >= self._failover.retry_at(upstream):
                upstream.task = asyncio.create_task(self._keep(upstream), name=upstream.link.name)

    def _leave(self, upstream: _Upstream, reason: str) -> None:
        """Close the connection of a link, if it has one."""
        task = upstream.task
        if task is not None and not task.done() and not task.cancelling():
            upstream.log.info("Leaving %s: %s", upstream.link.name, reason)
            task.cancel()

    async def _keep(self, upstream: _Upstream) -> None:
        """Hold one connection from dialling to its end, and record how it ended."""
        try:
            await upstream.link.run(upstream)
        except LinkRefusedError as error:
            self._on_refused(upstream, str(error))
        except LinkLostError as error:
            self._on_lost(upstream, str(error), unanswered=upstream.unanswered)
        except asyncio.CancelledError:
            if upstream.log_in_again:
                self._on_lost(upstream, upstream.log_in_again)
            else:
                self._failover.left(upstream, self._clock())
        except Exception as error:  # a bug of ours must not affect the other sources
            upstream.log.exception("The link to %s has failed", upstream.link.name)
            self._on_lost(upstream, f"internal error: {type(error).__name__}")
        finally:
            upstream.log_in_again, upstream.unanswered = "", 0
            if upstream.stats.connected:
                upstream.stats.connected, upstream.stats.changed_at = False, self._clock()
            upstream.job = None
            self._apply()
            # Wake the loop once this task is done.
            self._loop.call_soon(self._news.set)

    def _on_lost(self, upstream: _Upstream, reason: str, unanswered: int = 0) -> None:
        wait_s = self._failover.lost(upstream, self._clock(), _jitter(), unanswered=unanswered)
        name = upstream.link.name
        upstream.log.warn_of("lost", reason, "Lost %s: %s; next try in %.1f s", name, reason, wait_s)
        self._publish(SourceChanged(name, "lost", reason))
        self._loop.call_later(wait_s, self._news.set)

    def _on_refused(self, upstream: _Upstream, reason: str) -> None:
        wait_s = self._failover.login_refused(upstream, self._clock(), _jitter())
        upstream.stats.refusal = reason
        upstream.stats.refusals += 1
        text, name = "%s refuses us: %s; next try in %.0f s", upstream.link.name
        upstream.log.warn_of("refused", reason, text, name, reason, wait_s, level=logging.ERROR)
        self._publish(SourceChanged(name, "refused", reason))
        self._loop.call_later(wait_s, self._news.set)

    def _refusals(self) -> list[str]:
        return [f"{upstream.link.name}: {upstream.stats.refusal}" for upstream in self._upstreams]

    # --- the search ---

    def _apply(self) -> None:
        """Make the miner search the job of the chosen link."""
        chosen, before = None if self._held else self._failover.current, self._mined
        for upstream in self._upstreams:
            upstream.stats.mined = upstream is chosen and chosen.job is not None
            self._note(upstream)
        if chosen is None or chosen.job is None:
            self._stop()
        elif before is None or before.job is not chosen.job:
            if (before is None or before.upstream is not chosen) and len(self._upstreams) > 1:
                chosen.log.info("Mining for %s", chosen.link.name)
            self._start(chosen, chosen.job)

    def _note(self, upstream: _Upstream) -> None:
        """Record, log and publish whether a link is wanted and whether it is failing."""
        before, upstream.wanted = upstream.wanted, upstream in self._failover.wanted
        if before and not upstream.wanted:
            self._publish(SourceChanged(upstream.link.name, "idle", "not needed now"))
        failing = self._failover.failing(upstream, self._clock()) if upstream.wanted else None
        was, upstream.stats.failing = upstream.stats.failing, failing or ""
        name, alone = upstream.link.name, len(self._upstreams) == 1
        if failing and failing != was:
            self._publish(SourceChanged(name, "failing", failing))
            if not alone:
                upstream.log.warn_of(failing, failing, "%s is failing: %s", name, failing)
        elif was and not failing and upstream.wanted:
            self._publish(SourceChanged(name, "healthy"))
            if not alone:
                upstream.log.info("%s is no longer failing", name)

    def _start(self, upstream: _Upstream, job: LiveJob) -> None:
        before = self._mined

        def solved(search: LiveSearch, solution: Solution) -> None:
            self._submit(upstream, job, search, solution)

        replaces = None if before is None else before.search
        search = self._searcher.search(upstream.link, job, solved, priority=self._priority, replaces=replaces)
        self._mined = _Mined(upstream, job, search)
        self._note_mined(before)

    def _stop(self) -> None:
        before, self._mined = self._mined, None
        if before is not None:
            before.search.cancel()
        self._note_mined(before)

    def _note_mined(self, before: _Mined | None) -> None:
        """Count the hashes for ``before``, and publish a change if the miner now works for another link."""
        after = self._mined
        if before is not None:
            before.upstream.stats.hashes += before.search.hashes
        if before is not None and (after is None or after.upstream is not before.upstream):
            self._publish(SourceChanged(before.upstream.link.name, "idle"))
        if after is not None and (before is None or after.upstream is not before.upstream):
            self._publish(SourceChanged(after.upstream.link.name, "mined"))

    def _submit(self, upstream: _Upstream, job: LiveJob, search: LiveSearch, solution: Solution) -> None:
        handover = upstream.link.submit(job, solution, search.hashes, search.elapsed)
        self.on_handover(upstream, job, solution, handover)


def _jitter() -> float:
    return secrets.randbits(32) / 2**32
