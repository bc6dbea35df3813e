"""Failover while sources come, go and change places, and whatever else happens."""

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
from .played import Played


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
