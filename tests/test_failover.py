"""Failover and back-off, with the clock in the test's hand."""

from __future__ import annotations

from dataclasses import asdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.backoff import JITTER, MAX_S, Backoff
from quantus_miner.sources.failover import POLICY, Failing, Failover
from quantus_miner.sources.node import IDLE_S
from quantus_miner.sources.source_log import REPEAT_S
from quantus_miner.wire.stratum_miner import Timing

from .month import BLOCK_S, SHARE_S, Month
from .pages import PAGES, by_first, code, table


class Played:
    """A ``Failover`` that is looked at every second, as the live source does."""

    def __init__(self, count: int) -> None:
        self.failover = Failover(range(count), 0.0)
        self.now = 0.0
        self.mined: list[int | None] = [None]

    def until(self, then: float, *alive: int) -> None:
        """Time passes; the sources in ``alive`` give a job every second."""
        while self.now < then:
            self.now = min(self.now + 1.0, then)
            for index in alive:
                self.failover.job(index, self.now)
            self.failover.update(self.now)
            self._note()

    def job(self, index: int) -> None:
        self.failover.job(index, self.now)
        self._note()

    def lost(self, index: int, unanswered: int = 0) -> float:
        wait_s = self.failover.lost(index, self.now, 0.0, unanswered=unanswered)
        self._note()
        return wait_s

    def login_refused(self, index: int) -> float:
        wait_s = self.failover.login_refused(index, self.now, 0.0)
        self._note()
        return wait_s

    def set_sources(self, *keys: int) -> None:
        self.failover.set_sources(keys, self.now)
        self._note()

    def failing(self, index: int) -> Failing | None:
        return self.failover.failing(index, self.now)

    @property
    def current(self) -> int | None:
        return self.failover.current

    @property
    def wanted(self) -> tuple[int, ...]:
        return tuple(self.failover.wanted)

    def _note(self) -> None:
        if self.current != self.mined[-1]:
            self.mined.append(self.current)


def test_one_source_is_all_there_is_however_bad() -> None:
    played = Played(1)
    for _ in range(10):
        played.lost(0)
        played.login_refused(0)
    assert (played.wanted, played.current) == ((0,), None)
    played.job(0)
    played.until(100 * POLICY.silence_s)
    assert (played.wanted, played.current, played.failing(0)) == ((0,), 0, Failing.SESSIONS)
    assert played.mined == [None, 0]


def test_failed_connections_bring_in_the_next() -> None:
    played = Played(3)
    for later in ((0,), (0, 1)):
        for _ in range(POLICY.failed_sessions):
            assert played.wanted == later
            played.lost(later[-1])
    assert played.wanted == (0, 1, 2)


def test_the_lack_of_a_job_brings_in_the_next_and_each_has_its_time() -> None:
    played = Played(3)
    for count in (1, 2):
        played.until(count * POLICY.first_job_s - 0.1)
        assert played.wanted == (0, 1)[:count]
        played.until(count * POLICY.first_job_s)
    assert played.wanted == (0, 1, 2)


def test_the_first_is_returned_to_when_it_has_been_healthy_and_the_other_is_left() -> None:
    played = Played(2)
    played.job(0)
    played.until(10.0, 0)
    played.lost(0)
    assert played.mined[-1] is None
    played.until(10.0 + POLICY.first_job_s)
    played.job(1)
    played.until(20.0, 1)
    played.job(0)
    states = []
    for then in (-1, 0):
        played.until(20.0 + POLICY.healthy_s + then, 0, 1)
        states.append((played.current, played.wanted))
    assert states == [(1, (0, 1)), (0, (0,))]


def test_nothing_is_idle_while_another_source_has_a_job() -> None:
    played = Played(2)
    played.until(POLICY.first_job_s)
    played.job(1)
    played.job(0)
    assert played.current == 1
    played.lost(1)
    assert played.current == 0, "although it has not been healthy for long"


def test_a_withdrawn_job_is_not_mined_and_brings_in_the_next() -> None:
    played = Played(2)
    played.job(0)
    played.until(1.0)
    played.failover.no_job(0, played.now)
    assert (played.current, played.wanted) == (None, (0,))
    played.until(1.0 + POLICY.first_job_s)
    assert (played.failing(0), played.wanted) == (Failing.NO_JOB, (0, 1))


# --- what counts as failing, and what does not ---


def test_a_refused_login_is_tried_again_slowly_and_the_next_source_is_used_at_once() -> None:
    played = Played(2)
    waits = []
    for _ in range(10):
        waits.append(played.login_refused(0))
        assert played.failover.retry_at(0) == played.now + waits[-1]
        assert (played.failing(0), played.wanted) == (Failing.LOGIN_REFUSED, (0, 1))
        played.until(played.now + waits[-1])
    assert waits[0] == POLICY.refused_retry_s
    assert waits[-1] == POLICY.max_refused_retry_s
    played.job(1)
    played.job(0)
    assert (played.current, played.failing(0)) == (1, Failing.SESSIONS), "a job alone proves nothing"
    played.until(played.now + POLICY.session_s, 0, 1)
    assert (played.failing(0), played.current) == (None, 0), "the time of the proof was time of health"
    played.lost(0)
    assert played.login_refused(0) == POLICY.refused_retry_s


def test_when_the_last_job_is_gone_a_source_that_refused_us_is_tried_again_soon() -> None:
    played = Played(2)
    played.job(1)
    for _ in range(10):
        assert played.failover.retry_at(0) <= played.now + POLICY.max_refused_retry_s
        played.until(played.failover.retry_at(0), 1)
        played.login_refused(0)
    assert (played.current, played.failover.retry_at(0)) == (1, played.now + POLICY.max_refused_retry_s)
    played.lost(1)
    assert played.current is None
    assert played.failover.retry_at(0) == played.now + POLICY.max_retry_s, "it refused us a moment ago"
    # Once: what still refuses us has to be waited for.
    played.until(played.failover.retry_at(0))
    played.login_refused(0)
    assert played.failover.retry_at(0) == played.now + POLICY.max_refused_retry_s
    played.job(1)
    played.until(played.now + POLICY.max_refused_retry_s / 2, 1)
    played.lost(1)
    assert played.failover.retry_at(0) == played.now


def test_all_are_refused_until_one_has_a_job_again() -> None:
    played = Played(2)
    played.login_refused(0)
    assert not played.failover.all_refused
    played.login_refused(1)
    assert played.failover.all_refused
    played.job(0)
    assert not played.failover.all_refused


def refuse(played: Played, index: int, count: int, seconds: float) -> list[bool]:
    """Refused shares, ``seconds`` apart; which of them make us log in again."""
    again = []
    for _ in range(count):
        again.append(played.failover.share_refused(index, played.now))
        played.until(played.now + seconds, 0, 1)
    return again


def test_a_run_of_refused_shares_leads_to_a_new_login_and_to_the_next_source() -> None:
    played = Played(2)
    played.job(0)
    assert refuse(played, 0, POLICY.refused_shares, 5.0) == [False] * 4 + [True]
    assert (played.failing(0), played.wanted) == (Failing.SHARES_REFUSED, (0, 1))
    assert played.lost(0) == POLICY.retry_s
    played.job(1)
    played.job(0)
    began = played.now
    played.until(began + POLICY.penalty_s, 0, 1)
    assert (played.current, played.failing(0)) == (1, None)
    played.until(played.now + POLICY.healthy_s, 0, 1)
    assert played.current == 0, "it gets another trial"
    assert refuse(played, 0, 1, 1.0) == [True], "one more refusal is enough"
    played.job(1)
    assert played.current == 1
    played.until(played.now + 2 * POLICY.penalty_s - 10, 0, 1)
    assert played.failing(0) is Failing.SHARES_REFUSED
    for _ in range(POLICY.refused_shares * POLICY.accepted_for_refused):
        assert played.failing(0) is Failing.SHARES_REFUSED
        played.failover.share_accepted(0, played.now)
    assert played.failing(0) is None


def test_a_source_that_refuses_every_second_share_is_left() -> None:
    played = Played(2)
    played.job(0)
    again = []
    for _ in range(POLICY.refused_shares * POLICY.accepted_for_refused):
        again += refuse(played, 0, 1, 5.0)
        played.failover.share_accepted(0, played.now)
    assert again.index(True) < 2 * POLICY.refused_shares
    assert again.count(True) == 1, "once a penalty"
    assert (played.failing(0), played.current) == (Failing.SHARES_REFUSED, 1)


@pytest.mark.parametrize("count", [1, POLICY.refused_shares - 1, 100])
def test_few_refusals_and_those_of_one_moment_and_those_between_accepted_shares_are_borne(count: int) -> None:
    played = Played(2)
    played.job(0)
    apart = 0.0 if count > POLICY.refused_shares else 20.0
    for _ in range(10):
        assert not any(refuse(played, 0, count, apart))
        for _ in range(min(count, POLICY.refused_shares) * POLICY.accepted_for_refused):
            played.failover.share_accepted(0, played.now)
    assert (played.failing(0), played.current) == (None, 0)


def test_sessions_of_one_job_count_as_failed_and_do_not_clear_the_back_off() -> None:
    played = Played(2)
    waits = []
    for _ in range(8):
        played.job(0)
        waits.append(played.lost(0))
        played.until(played.now + waits[-1])
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert (played.failing(0), played.wanted) == (Failing.SESSIONS, (0, 1))
    played.job(1)
    played.job(0)
    played.until(played.now + POLICY.session_s - 1, 0, 1)
    assert (played.current, played.failing(0)) == (1, Failing.SESSIONS)
    played.until(played.now + 1, 0, 1)
    assert played.failing(0) is None
    assert played.lost(0) == POLICY.retry_s


def test_an_accepted_share_clears_the_back_off_but_short_sessions_still_fail() -> None:
    played = Played(2)
    for _ in range(POLICY.failed_sessions):
        assert played.failing(0) is None
        played.job(0)
        played.failover.share_accepted(0, played.now)
        assert played.lost(0) == POLICY.retry_s
    assert (played.failing(0), played.wanted) == (Failing.SESSIONS, (0, 1))


def test_a_session_in_which_shares_were_only_refused_has_not_lasted() -> None:
    played = Played(1)
    played.lost(0)
    for wait_s in (2.0, 4.0):
        played.job(0)
        played.failover.share_refused(0, played.now)
        played.until(played.now + 10 * POLICY.session_s, 0)
        assert played.lost(0) == wait_s


def test_shares_without_an_answer_at_the_end_of_a_session_count_as_one_that_was_refused() -> None:
    """A pool that forgets a session has not refused the shares that were under way."""
    played = Played(2)
    for _ in range(POLICY.refused_shares):
        played.job(0)
        for _ in range(POLICY.accepted_for_refused):
            played.failover.share_accepted(0, played.now)
        played.until(played.now + POLICY.session_s, 0)
        assert played.lost(0, unanswered=100) == POLICY.retry_s
        assert (played.failing(0), played.wanted) == (None, (0,))
        played.until(played.now + 1)


def test_a_source_that_drops_a_session_at_every_share_is_left_although_its_sessions_are_long() -> None:
    played = Played(2)
    for count in range(1, POLICY.refused_shares + 1):
        played.job(0)
        played.until(played.now + 2 * POLICY.session_s, 0)
        assert played.failing(0) is None
        assert played.lost(0, unanswered=1) == POLICY.retry_s
        refuses = Failing.SHARES_REFUSED if count == POLICY.refused_shares else None
        assert played.failing(0) is refuses
        played.until(played.now + 1)
    assert played.wanted == (0, 1)


def test_a_quiet_source_that_answers_keepalives_is_kept_and_a_silent_one_is_not() -> None:
    played = Played(2)
    played.job(0)
    for _ in range(10):
        played.until(played.now + 30.0)
        played.failover.heard(0, played.now)
    assert (played.current, played.wanted, played.failing(0)) == (0, (0,), None)
    played.until(played.now + POLICY.silence_s)
    assert (played.current, played.wanted, played.failing(0)) == (0, (0, 1), Failing.SILENT)
    played.job(1)
    assert played.current == 1
    played.until(played.now + 1, 0, 1)
    assert played.current == 1
    played.until(played.now + POLICY.healthy_s, 0, 1)
    assert played.current == 0


def test_a_source_whose_job_never_changes_is_left_for_one_whose_job_does() -> None:
    played = Played(2)
    played.job(0)

    def keepalives(until: float, *indices: int) -> None:
        while played.now < until:
            played.until(played.now + 30.0)
            for index in indices:
                played.failover.heard(index, played.now)

    keepalives(POLICY.job_age_s, 0)
    assert (played.failing(0), played.wanted) == (Failing.OLD_JOB, (0, 1))
    played.job(1)
    assert played.current == 1
    # The whole chain has stopped: both are as good.
    keepalives(3 * POLICY.job_age_s, 0, 1)
    assert played.mined == [None, 0, 1]


def test_a_source_that_fails_soon_after_each_return_is_returned_to_ever_later() -> None:
    played = Played(2)
    returns = []
    played.job(0)
    played.until(20.0, 0)
    for _ in range(8):
        played.lost(0)
        played.until(played.now + POLICY.first_job_s)
        played.job(1)
        played.job(0)
        began = played.now
        while played.current != 0:
            played.until(played.now + 1, 0, 1)
        returns.append(played.now - began)
        played.until(played.now + 20.0, 0)
    assert returns == [60, 120, 240, 480, 960, 1800, 1800, 1800]
    played.until(played.now + POLICY.stable_s, 0)
    played.lost(0)
    played.until(played.now + POLICY.first_job_s)
    played.job(1)
    played.job(0)
    played.until(played.now + POLICY.healthy_s, 0, 1)
    assert played.current == 0


# --- sources come, go and change places ---


def test_a_source_behind_the_current_one_changes_nothing() -> None:
    played = Played(1)
    played.job(0)
    played.until(POLICY.healthy_s, 0)
    played.set_sources(0, 1, 2)
    played.until(10 * POLICY.healthy_s, 0)
    assert (played.current, played.wanted) == (0, (0,))


def test_when_the_current_source_is_removed_the_next_with_a_job_is_mined_at_once() -> None:
    played = Played(3)
    played.until(2 * POLICY.first_job_s)
    played.job(2)
    played.job(1)
    played.job(0)
    assert played.current == 2
    played.set_sources(0, 1)
    assert (played.current, played.wanted) == (0, (0, 1))
    played.set_sources(1, 3)
    assert (played.current, played.wanted) == (1, (1,))
    played.set_sources(3)
    assert played.current is None
    assert (played.wanted, played.failing(3)) == ((3,), None)
    played.set_sources()
    assert (played.wanted, played.failover.all_refused) == ((), False)
    played.until(played.now + POLICY.first_job_s)
    played.set_sources(3, 0)
    assert (played.failing(3), played.wanted) == (None, (3,)), "it is new again"


def test_a_source_that_is_better_now_is_returned_to_when_it_has_been_healthy() -> None:
    played = Played(3)
    played.job(0)
    played.until(2 * POLICY.healthy_s, 0)
    played.set_sources(1, 2, 0)
    assert (played.current, played.wanted) == (0, (1, 2, 0))
    played.job(2)
    played.until(played.now + POLICY.first_job_s, 0, 2)
    assert (played.current, played.failing(1)) == (0, Failing.NO_JOB)
    played.until(played.now + POLICY.healthy_s - POLICY.first_job_s - 1, 0, 2)
    assert (played.current, played.wanted) == (0, (1, 2, 0))
    played.until(played.now + 1, 0, 2)
    assert (played.current, played.wanted) == (2, (1, 2))
    # To come first is no reason to switch.
    played.set_sources(2, 1, 0)
    assert (played.current, played.wanted) == (2, (2,))
    assert played.mined == [None, 0, 2]


def test_health_does_not_outlive_a_session() -> None:
    played = Played(2)
    played.until(POLICY.first_job_s)
    played.job(1)
    played.until(10 * POLICY.healthy_s, 1)
    played.job(0)
    played.until(11 * POLICY.healthy_s, 0, 1)
    assert (played.current, played.wanted) == (0, (0,))
    played.failover.left(1, played.now)
    played.set_sources(1, 0)
    played.job(1)
    assert played.current == 0


def test_a_source_that_was_removed_changes_nothing_any_more() -> None:
    played = Played(2)
    played.login_refused(1)
    played.job(0)
    played.set_sources(0)
    played.job(1)
    played.failover.heard(1, played.now)
    played.failover.share_accepted(1, played.now)
    assert not any(played.failover.share_refused(1, played.now + then) for then in range(100))
    played.failover.no_job(1, played.now)
    assert played.lost(1) == POLICY.retry_s
    played.failover.left(1, played.now)
    assert (played.current, played.wanted, played.failing(0)) == (0, (0,), None)
    played.set_sources(0, 1)
    assert played.failing(1) is None, "its record is gone"


EVENTS = ("job", "no job", "lost", "login refused", "left", "heard", "accepted", "refused", "update")
events = st.tuples(st.sampled_from(EVENTS), st.integers(0, 3), st.floats(0, 90))
orders = st.tuples(st.just("order"), st.lists(st.integers(0, 3), unique=True), st.floats(0, 90))


@given(st.lists(events | orders, max_size=80))
def test_whatever_happens_what_is_mined_has_a_job_and_nothing_is_idle_while_one_is_there(
    history: list[tuple[str, int | list[int], float]],
) -> None:
    order = [0, 1, 2]
    failover, now = Failover(order, 0.0), 0.0
    with_job: set[int] = set()
    for kind, index, passed in history:
        now += passed
        failover.update(now)
        before = (failover.current, failover.wanted)
        if isinstance(index, list):
            order = index
            failover.set_sources(order, now)
            if order and failover.current is not None and before[0] in order:
                assert failover.current == before[0] or order.index(failover.current) < order.index(before[0])
        elif kind == "left":
            failover.left(index, now)
            with_job.discard(index)
        elif kind != "update" and (index in failover.wanted or index not in order):
            if kind == "job":
                with_job.add(index)
                failover.job(index, now)
            elif kind == "heard":
                failover.heard(index, now)
            elif kind == "accepted":
                failover.share_accepted(index, now)
            elif kind == "refused":
                failover.share_refused(index, now)
            else:
                with_job.discard(index)
                if kind == "no job":
                    failover.no_job(index, now)
                else:
                    wait_s = (failover.lost if kind == "lost" else failover.login_refused)(index, now, 0.5)
                    assert 0 < wait_s <= POLICY.max_refused_retry_s
                    assert index not in order or failover.retry_at(index) >= now + wait_s
            if index not in order:
                assert (failover.current, failover.wanted) == before
        with_job &= set(failover.wanted)
        assert list(failover.wanted) == order[: max(len(failover.wanted), min(1, len(order)))]
        assert failover.current in with_job if with_job else failover.current is None
        failover.update(now)
        if failover.current is not None and failover.failing(failover.current, now):
            assert all(failover.failing(i, now) for i in with_job)


@pytest.mark.parametrize(("seed", "days"), [(1, 30), (2, 10), (3, 10)])
def test_a_month_of_a_mainnet_with_two_pools(seed: int, days: int) -> None:
    month = Month(Random(seed), days)
    month.run()
    assert month.possible > 0.99 * month.end, "the pools rarely fail together"
    assert month.mined / month.possible >= 0.999
    # There and back for each fault of the first pool, at most; most are over before it is left.
    assert month.faults > 7 * days
    assert month.switches <= 1.2 * month.faults
    # It is returned to, and refused logins are not hammered.
    assert month.at_first / month.end > 0.9
    assert month.logins < 100 * days


@given(st.lists(st.floats(0, 1), min_size=8, max_size=20))
def test_back_off_doubles_to_its_maximum_and_never_leaves_it(jitters: list[float]) -> None:
    backoff = Backoff()
    for turn, jitter in enumerate(jitters):
        whole = min(MAX_S, 2.0**turn)
        assert (1 - JITTER) * whole <= backoff.wait_s(jitter) <= whole
    backoff.reset()
    assert backoff.wait_s(0) == 1.0


def test_the_page_is_about_this_policy() -> None:
    page = "docs/failover.md"
    rows = table(page, "name", "value", "why")
    assert [(code(name), float(value.replace(",", ""))) for name, value, _ in rows] == list(asdict(POLICY).items())
    reasons = by_first(table(page, "reason", "it begins", "it ends"))
    assert list(reasons) == list(Failing)
    for reason, values in {
        Failing.SESSIONS: (f"{POLICY.failed_sessions} connections", f"for {POLICY.session_s:g} s"),
        Failing.NO_JOB: (f"for {POLICY.first_job_s:g} s",),
        Failing.SHARES_REFUSED: (
            f"{POLICY.refused_shares} shares were refused",
            f"at least {POLICY.refused_shares_s:g} s",
            f"{POLICY.penalty_s:g} s are over",
        ),
        Failing.SILENT: (f"for {POLICY.silence_s:g} s",),
        Failing.OLD_JOB: (f"for {POLICY.job_age_s:g} s",),
    }.items():
        assert all(value in " ".join(reasons[reason]) for value in values), reason
    for text in (
        f"after {Timing().silence_s:g} s for a pool",
        f"after {IDLE_S:g} s for a node",
        f"{(1 - JITTER) * POLICY.max_refused_retry_s / 60:g} to {POLICY.max_refused_retry_s / 60:g} minutes",
        f"an error line once in {REPEAT_S / 60:g} minutes",
        f"blocks of {BLOCK_S:g} s",
        f"a share every {SHARE_S:g} s",
    ):
        assert text in PAGES[page], text
