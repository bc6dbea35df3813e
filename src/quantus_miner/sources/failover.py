"""Decide which live source is mined, which ones are connected, and when each is tried again. No I/O; times in seconds.

Sources are keys in the user's order, which may change at any time. The choice depends on what a source provides:
messages, sessions, accepted shares. ``Policy`` has all times and counts; docs/failover.md gives the reasons.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from quantus_miner.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds, and counts. Only tests use other values."""

    first_job_s: float = 3.0
    """A source without a job for this long is failing."""
    failed_sessions: int = 3
    """A source is failing after this many sessions in a row that did not last."""
    session_s: float = 60.0
    """A session lasts if it had a job for this long, unless shares were refused and none accepted."""
    silence_s: float = 60.0
    """A source that has sent no message for this long is failing."""
    job_age_s: float = 600.0
    """A source whose job has not changed for this long is failing."""
    refused_shares: int = 5
    """A source is failing after this many refused shares for which accepted ones have not made up."""
    refused_shares_s: float = 10.0
    """Those refused shares must also be spread over this long."""
    accepted_for_refused: int = 2
    """This many accepted shares make up for a refused one."""
    penalty_s: float = 300.0
    """A source that refused too many shares is failing for this long, and the next time for twice as long."""
    max_penalty_s: float = 3600.0
    healthy_s: float = 60.0
    """The miner returns to a better source when it has been healthy for this long."""
    stable_s: float = 600.0
    """A source that fails sooner than this after a return must be healthy for twice as long before the next one."""
    max_healthy_s: float = 1800.0
    retry_s: float = 1.0
    """The first wait after a lost connection. Each further wait is twice as long."""
    max_retry_s: float = 30.0
    refused_retry_s: float = 5.0
    """The first wait after a refused login, certificate or protocol version."""
    max_refused_retry_s: float = 600.0


POLICY: Final = Policy()


class Failing(StrEnum):
    """Why a source counts as failing."""

    LOGIN_REFUSED = "login refused"
    SESSIONS = "failed sessions"
    NO_JOB = "no job"
    SHARES_REFUSED = "shares refused"
    SILENT = "silent"
    OLD_JOB = "old job"


class _Source:
    """The record of one source."""

    def __init__(self, policy: Policy, now: float) -> None:
        self.policy = policy
        self.idle_since = now
        """When it was first wanted, or last lost its job."""
        self.healthy_since: float | None = None
        self.refused = False
        """True if its last answer was a refusal."""
        self.failed_sessions = 0
        self.refused_shares = 0.0
        """Refused shares for which accepted ones have not made up; from 0 to the policy's ``refused_shares``."""
        self.refused_since = now
        """When the first of them was refused."""
        self.penalised_until = now
        self.retry_at = now
        self.ended_at = now
        """When its latest session or attempt ended."""
        self.relapses = 0
        """Number of successive returns to it after which it soon failed again."""
        self.returned_at: float | None = None
        self.retry = Backoff(policy.retry_s, policy.max_retry_s)
        self.refused_retry = Backoff(policy.refused_retry_s, policy.max_refused_retry_s)
        self.penalty = Backoff(policy.penalty_s, policy.max_penalty_s)
        # The present session:
        self.job_since: float | None = None
        """When its first job came."""
        self.job_at: float | None = None
        """When its latest job came; None if it has no job now."""
        self.heard_at = now
        self.accepted_here = self.refused_here = False

    @property
    def lasted(self) -> bool:
        """True if the present session has lasted long enough, see ``Policy.session_s``."""
        if self.job_since is None or (self.refused_here and not self.accepted_here):
            return False
        return self.heard_at - self.job_since >= self.policy.session_s

    @property
    def return_s(self) -> float:
        """Seconds that it must be healthy before the miner returns to it."""
        # A larger exponent gives the maximum anyway.
        return min(self.policy.max_healthy_s, self.policy.healthy_s * 2.0 ** min(self.relapses, 32))

    def failing(self, now: float) -> Failing | None:
        policy = self.policy
        if self.refused:
            return Failing.LOGIN_REFUSED
        if self.failed_sessions >= policy.failed_sessions and not self.lasted:
            return Failing.SESSIONS
        if now < self.penalised_until:
            return Failing.SHARES_REFUSED
        if self.job_at is None:
            return Failing.NO_JOB if now - self.idle_since >= policy.first_job_s else None
        if now - self.heard_at >= policy.silence_s:
            return Failing.SILENT
        return Failing.OLD_JOB if now - self.job_at >= policy.job_age_s else None

    def look(self, now: float) -> None:
        """Update what changes with time alone."""
        healthy_since: float | None = now
        lasted = self.lasted
        if lasted or self.accepted_here:
            self.retry.reset()
            self.refused_retry.reset()
        if lasted and self.failed_sessions:
            # It was healthy for the whole session.
            healthy_since = self.job_since
            self.failed_sessions = 0
        if self.job_at is None or self.failing(now) is not None:
            self.healthy_since = None
        elif self.healthy_since is None:
            self.healthy_since = healthy_since

    def end_session(self, now: float) -> None:
        """Forget the state of the session."""
        if self.job_at is not None:
            self.idle_since = now
        self.job_since = self.job_at = None
        self.accepted_here = self.refused_here = False


class Failover(Generic[Key]):
    """Chooses among the sources called ``keys``. Besides reporting events, call ``update`` about once a second.

    Late events of a removed source change nothing.
    """

    def __init__(self, keys: Iterable[Key], now: float, policy: Policy = POLICY) -> None:
        self._policy = policy
        self._sources: dict[Key, _Source] = {}
        """In the user's order."""
        self.wanted: tuple[Key, ...] = ()
        """The sources that should be connected, or tried again at ``retry_at``: the first ones of the order."""
        self._latest: Key | None = None  # the source that was mined last
        self.current: Key | None = None
        """The source whose job is mined; None if there is no job."""
        self.set_sources(keys, now)

    @property
    def all_refused(self) -> bool:
        """True if there are sources and the last answer of each was a refusal."""
        return bool(self._sources) and all(source.refused for source in self._sources.values())

    def retry_at(self, key: Key) -> float:
        """Return the time at which a source without a connection may be tried again."""
        return self._sources[key].retry_at

    def failing(self, key: Key, now: float) -> Failing | None:
        """Return why a source counts as failing, or None if it does not."""
        return self._sources[key].failing(now)

    def set_sources(self, keys: Iterable[Key], now: float) -> None:
        """Make these the sources, in this order. Those that stay keep their records, sessions and jobs."""
        before = self._sources
        self._sources = {key: before.get(key) or _Source(self._policy, now) for key in keys}
        # Keep what is connected until the policy says otherwise, and want all that is better in the new order.
        self._want(max((self._rank(key) + 1 for key in self.wanted if key in self._sources), default=1), now)
        self.update(now)

    # --- events; those that change no job take effect at the next ``update`` ---

    def heard(self, key: Key, now: float) -> None:
        """Handle a sign of life: a message of any kind, or an answer of the transport."""
        self._record(key, now).heard_at = now

    def job(self, key: Key, now: float) -> None:
        """Handle a new job."""
        source = self._record(key, now)
        if source.job_since is None:
            source.job_since = now
        source.job_at = source.heard_at = now
        source.refused = False
        self.update(now)

    def no_job(self, key: Key, now: float) -> None:
        """Handle the withdrawal of the job."""
        source = self._record(key, now)
        if source.job_at is not None:
            source.idle_since = now
        source.job_at = None
        self.update(now)

    def share_accepted(self, key: Key, now: float) -> None:
        """Handle an accepted share. A penalty ends when accepted shares have made up for all refused ones."""
        source = self._record(key, now)
        source.accepted_here = True
        source.refused_shares = max(0.0, source.refused_shares - 1 / self._policy.accepted_for_refused)
        if source.refused_shares == 0:
            source.penalised_until = now
            source.penalty.reset()

    def share_refused(self, key: Key, now: float) -> bool:
        """Handle a share refused for any reason. Return True if the caller should end the session and log in again."""
        source, policy = self._record(key, now), self._policy
        source.refused_here = True
        if source.refused_shares == 0:
            source.refused_since = now
        source.refused_shares = min(source.refused_shares + 1.0, policy.refused_shares)
        penalised = (
            source.refused_shares >= policy.refused_shares
            and now - source.refused_since >= policy.refused_shares_s
            and now >= source.penalised_until
        )
        if penalised:
            # The count stays: after the penalty, one more refused share is enough for the next.
            source.penalised_until = now + source.penalty.wait_s(0.0)
        return penalised

    def lost(self, key: Key, now: float, jitter: float, *, unanswered: int = 0) -> float:
        """Handle a connection that ended or could not be made. Return the seconds until the next attempt.

        ``unanswered``: number of shares without a verdict at its end. Together they count as one refused share.
        """
        source = self._record(key, now)
        source.look(now)
        if unanswered:
            self.share_refused(key, now)
        if not source.lasted:
            source.failed_sessions += 1
        return self._end(source, now, source.retry.wait_s(jitter))

    def login_refused(self, key: Key, now: float, jitter: float) -> float:
        """Handle a refused login, certificate or protocol version. Return the seconds until the next attempt."""
        source = self._record(key, now)
        source.look(now)
        source.refused = True
        source.failed_sessions = max(source.failed_sessions + 1, self._policy.failed_sessions)
        return self._end(source, now, source.refused_retry.wait_s(jitter))

    def left(self, key: Key, now: float) -> None:
        """Handle the end of a session that we closed because it was no longer wanted."""
        self._end(self._record(key, now), now, 0.0)

    def _record(self, key: Key, now: float) -> _Source:
        """Return the record of a source, or a record that is thrown away if the source was removed."""
        return self._sources.get(key) or _Source(self._policy, now)

    def _end(self, source: _Source, now: float, wait_s: float) -> float:
        source.end_session(now)
        source.ended_at = now
        source.retry_at = max(source.retry_at, now + wait_s)
        self.update(now)
        return wait_s

    # --- the choice ---

    def update(self, now: float) -> None:
        """Choose the sources again."""
        for key in self.wanted:
            self._sources[key].look(now)
        current = self._choose(now)
        if current is not None and current != self._latest:
            self._note_switch(self._latest, current, now)
            self._latest = current
        if current is None and self.current is not None:
            # While there is nothing to mine, no source waits longer than after a lost connection.
            for source in self._sources.values():
                source.retry_at = min(source.retry_at, max(now, source.ended_at + self._policy.max_retry_s))
        self.current = current
        if current is not None and self._healthy_for(current, now) >= self._policy.healthy_s:
            self._want(self._rank(current) + 1, now)
        while len(self.wanted) < len(self._sources) and all(self._sources[key].failing(now) for key in self.wanted):
            self._want(len(self.wanted) + 1, now)

    def _want(self, count: int, now: float) -> None:
        """Want the first ``count`` sources. A newly wanted source has ``first_job_s`` from now to send a job."""
        before, self.wanted = self.wanted, tuple(self._sources)[:count]
        for key in self.wanted:
            if key not in before:
                self._sources[key].idle_since = now

    def _rank(self, key: Key) -> int:
        """Return the place of a source in the user's order; 0 is the best."""
        return list(self._sources).index(key)

    def _choose(self, now: float) -> Key | None:
        """Return the source to mine. Any job is better than none, and a healthy source is better than a failing one."""
        with_job = [key for key in self.wanted if self._sources[key].job_at is not None]
        usable = [key for key in with_job if not self._sources[key].failing(now)] or with_job
        if self.current not in usable:
            return next(iter(usable), None)
        better = usable[: usable.index(self.current)]
        return next((k for k in better if self._healthy_for(k, now) >= self._sources[k].return_s), self.current)

    def _healthy_for(self, key: Key, now: float) -> float:
        since = self._sources[key].healthy_since
        return -1.0 if since is None else now - since

    def _note_switch(self, before: Key | None, after: Key, now: float) -> None:
        """Record whether a return to a better source lasted."""
        if before is None or before not in self._sources:
            return
        if self._rank(after) < self._rank(before):
            self._sources[after].returned_at = now
        else:
            source = self._sources[before]
            soon = source.returned_at is not None and now - source.returned_at < self._policy.stable_s
            source.relapses = source.relapses + 1 if soon else 0
            source.returned_at = None
