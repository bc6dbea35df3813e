"""Which live source is mined, which ones are connected, and when each is tried again. No I/O; times in seconds.

Sources are keys in the user's order, which may change at any time. A source is judged by what it gives: messages,
sessions, accepted shares. ``Policy`` is the one table of the times and counts; docs/failover.md gives the reasons.
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
    """After this many sessions in a row that did not last a source is failing."""
    session_s: float = 60.0
    """A session that had a job for this long has lasted, unless shares were refused and none accepted."""
    silence_s: float = 60.0
    """A source that has sent no message for this long is failing."""
    job_age_s: float = 600.0
    """A source whose job has not changed for this long is failing."""
    refused_shares: int = 5
    """After this many refused shares for which accepted ones have not made up a source is failing."""
    refused_shares_s: float = 10.0
    """They also have to be spread over this long."""
    accepted_for_refused: int = 2
    """This many accepted shares make up for a refused one."""
    penalty_s: float = 300.0
    """A source that refused so many shares is failing for this long, the next time for twice as long."""
    max_penalty_s: float = 3600.0
    healthy_s: float = 60.0
    """A better source is returned to when it has not been failing for this long."""
    stable_s: float = 600.0
    """A source that fails sooner than this after a return has to be healthy for twice as long before the next one."""
    max_healthy_s: float = 1800.0
    retry_s: float = 1.0
    """A lost connection is tried again after this long, then after twice as long, and so on."""
    max_retry_s: float = 30.0
    refused_retry_s: float = 5.0
    """The same after a refused login, certificate or protocol version."""
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
        """When it was brought in, or last lost its job."""
        self.healthy_since: float | None = None
        self.refused = False
        """Whether its last answer was that it will not have us."""
        self.failed_sessions = 0
        self.refused_shares = 0.0
        """Those for which accepted ones have not made up; from 0 to the policy's ``refused_shares``."""
        self.refused_since = now
        """When there was the first of them."""
        self.penalised_until = now
        self.retry_at = now
        self.ended_at = now
        """When its latest session or try ended."""
        self.relapses = 0
        """Returns to it, one after the other, after which it soon failed again."""
        self.returned_at: float | None = None
        self.retry = Backoff(policy.retry_s, policy.max_retry_s)
        self.refused_retry = Backoff(policy.refused_retry_s, policy.max_refused_retry_s)
        self.penalty = Backoff(policy.penalty_s, policy.max_penalty_s)
        # The present session:
        self.job_since: float | None = None
        """When its first job came."""
        self.job_at: float | None = None
        """When its latest job came; None: it has none now."""
        self.heard_at = now
        self.accepted_here = self.refused_here = False

    @property
    def lasted(self) -> bool:
        """Whether the present session has lasted."""
        if self.job_since is None or (self.refused_here and not self.accepted_here):
            return False
        return self.heard_at - self.job_since >= self.policy.session_s

    @property
    def return_s(self) -> float:
        """How long it has to be healthy before it is returned to."""
        # Past 2^32 it is the maximum anyway.
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
        """Note what time alone changes."""
        healthy_since: float | None = now
        lasted = self.lasted
        if lasted or self.accepted_here:
            self.retry.reset()
            self.refused_retry.reset()
        if lasted and self.failed_sessions:
            # All the time that it has lasted was time of health.
            healthy_since = self.job_since
            self.failed_sessions = 0
        if self.job_at is None or self.failing(now) is not None:
            self.healthy_since = None
        elif self.healthy_since is None:
            self.healthy_since = healthy_since

    def end_session(self, now: float) -> None:
        """Forget what was of the session alone."""
        if self.job_at is not None:
            self.idle_since = now
        self.job_since = self.job_at = None
        self.accepted_here = self.refused_here = False


class Failover(Generic[Key]):
    """The choice among the sources called ``keys``. Call ``update`` about once a second as well.

    The last events of a source that was removed may still come: they change nothing.
    """

    def __init__(self, keys: Iterable[Key], now: float, policy: Policy = POLICY) -> None:
        self._policy = policy
        self._sources: dict[Key, _Source] = {}
        """In the user's order."""
        self.wanted: tuple[Key, ...] = ()
        """The sources that are to be connected, or tried when ``retry_at`` has come: the first ones of the order."""
        self._latest: Key | None = None  # the source that was mined last
        self.current: Key | None = None
        """The source whose job is mined; None if there is no job."""
        self.set_sources(keys, now)

    @property
    def all_refused(self) -> bool:
        """Whether there are sources, and the last answer of each was that it will not have us."""
        return bool(self._sources) and all(source.refused for source in self._sources.values())

    def retry_at(self, key: Key) -> float:
        """When a source without a connection may be tried."""
        return self._sources[key].retry_at

    def failing(self, key: Key, now: float) -> Failing | None:
        """Return why a source counts as failing, or None if it does not."""
        return self._sources[key].failing(now)

    def set_sources(self, keys: Iterable[Key], now: float) -> None:
        """Make these the sources, in this order. Those that stay keep their records, sessions and jobs."""
        before = self._sources
        self._sources = {key: before.get(key) or _Source(self._policy, now) for key in keys}
        # What is connected stays so until the policy says otherwise, and with it what is better now.
        self._want(max((self._rank(key) + 1 for key in self.wanted if key in self._sources), default=1), now)
        self.update(now)

    # --- events; what follows from those that change no job is seen at the next ``update`` ---

    def heard(self, key: Key, now: float) -> None:
        """A message of any kind has come, or the transport has shown that the peer is there."""
        self._record(key, now).heard_at = now

    def job(self, key: Key, now: float) -> None:
        """A new job has come."""
        source = self._record(key, now)
        if source.job_since is None:
            source.job_since = now
        source.job_at = source.heard_at = now
        source.refused = False
        self.update(now)

    def no_job(self, key: Key, now: float) -> None:
        """The job has been withdrawn."""
        source = self._record(key, now)
        if source.job_at is not None:
            source.idle_since = now
        source.job_at = None
        self.update(now)

    def share_accepted(self, key: Key, now: float) -> None:
        """A share has been accepted. When that has made up for all that were refused, a penalty ends, too."""
        source = self._record(key, now)
        source.accepted_here = True
        source.refused_shares = max(0.0, source.refused_shares - 1 / self._policy.accepted_for_refused)
        if source.refused_shares == 0:
            source.penalised_until = now
            source.penalty.reset()

    def share_refused(self, key: Key, now: float) -> bool:
        """A share was refused, for whatever reason. Return whether to end the session and log in again."""
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
            # Nothing is forgotten: when the penalty is over, one more is enough for the next.
            source.penalised_until = now + source.penalty.wait_s(0.0)
        return penalised

    def lost(self, key: Key, now: float, jitter: float, *, unanswered: int = 0) -> float:
        """A connection has ended, or could not be made. Return the seconds until the next try.

        ``unanswered``: shares without a verdict at its end. Together they count as one that was refused.
        """
        source = self._record(key, now)
        source.look(now)
        if unanswered:
            self.share_refused(key, now)
        if not source.lasted:
            source.failed_sessions += 1
        return self._end(source, now, source.retry.wait_s(jitter))

    def login_refused(self, key: Key, now: float, jitter: float) -> float:
        """A source will not have us. Return the seconds until the next try."""
        source = self._record(key, now)
        source.look(now)
        source.refused = True
        source.failed_sessions = max(source.failed_sessions + 1, self._policy.failed_sessions)
        return self._end(source, now, source.refused_retry.wait_s(jitter))

    def left(self, key: Key, now: float) -> None:
        """We have ended a session that was not wanted any more."""
        self._end(self._record(key, now), now, 0.0)

    def _record(self, key: Key, now: float) -> _Source:
        """Return the record of a source; that of one that was removed is thrown away."""
        return self._sources.get(key) or _Source(self._policy, now)

    def _end(self, source: _Source, now: float, wait_s: float) -> float:
        source.end_session(now)
        source.ended_at = now
        source.retry_at = max(source.retry_at, now + wait_s)
        self.update(now)
        return wait_s

    # --- the choice ---

    def update(self, now: float) -> None:
        """Choose anew."""
        for key in self.wanted:
            self._sources[key].look(now)
        current = self._choose(now)
        if current is not None and current != self._latest:
            self._note_switch(self._latest, current, now)
            self._latest = current
        if current is None and self.current is not None:
            # Now that there is nothing to mine, no source waits for longer than after a lost connection.
            for source in self._sources.values():
                source.retry_at = min(source.retry_at, max(now, source.ended_at + self._policy.max_retry_s))
        self.current = current
        if current is not None and self._healthy_for(current, now) >= self._policy.healthy_s:
            self._want(self._rank(current) + 1, now)
        while len(self.wanted) < len(self._sources) and all(self._sources[key].failing(now) for key in self.wanted):
            self._want(len(self.wanted) + 1, now)

    def _want(self, count: int, now: float) -> None:
        """Want the first ``count`` sources. The time in which a source has to send a job begins when it is wanted."""
        before, self.wanted = self.wanted, tuple(self._sources)[:count]
        for key in self.wanted:
            if key not in before:
                self._sources[key].idle_since = now

    def _rank(self, key: Key) -> int:
        """Return the place of a source in the user's order; 0 is the best."""
        return list(self._sources).index(key)

    def _choose(self, now: float) -> Key | None:
        """Whatever has a job is better than nothing, and a source that is not failing is better than one that is."""
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
        """Remember how long a return lasted."""
        if before is None or before not in self._sources:
            return
        if self._rank(after) < self._rank(before):
            self._sources[after].returned_at = now
        else:
            source = self._sources[before]
            soon = source.returned_at is not None and now - source.returned_at < self._policy.stable_s
            source.relapses = source.relapses + 1 if soon else 0
            source.returned_at = None
