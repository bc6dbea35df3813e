"""Failover and back-off, with the clock in the test's hand."""

from __future__ import annotations

import pytest

from quantus_miner.sources.failover import POLICY, Failing

from .played import Played


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
