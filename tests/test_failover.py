"""Failover and back-off, with the clock in the test's hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.proto.backoff import MOST_S, Backoff
from quantus_miner.proto.failover import FAILED_CONNECTS, FIRST_JOB_S, STALLED_S, WELL_S, Failover


def state(failover: Failover, *names: str) -> tuple[object, ...]:
    return tuple(getattr(failover, name) for name in names)


def test_one_source_is_all_there_is_however_bad() -> None:
    failover = Failover(1, 0.0)
    assert state(failover, "wanted", "current") == ((0,), None)
    for turn in range(10):
        failover.lost(0, float(turn))
    failover.update(1e6)
    assert state(failover, "wanted", "current") == ((0,), None)
    failover.job(0, 1e6)
    failover.update(1e6 + 100 * STALLED_S)
    assert state(failover, "wanted", "current") == ((0,), 0)


def test_failed_connects_bring_in_the_next() -> None:
    failover = Failover(3, 0.0)
    for turn in range(FAILED_CONNECTS):
        assert state(failover, "wanted") == ((0,),)
        failover.lost(0, turn / 10)
    assert state(failover, "wanted") == ((0, 1),)
    for turn in range(FAILED_CONNECTS):
        assert state(failover, "wanted") == ((0, 1),)
        failover.lost(1, 1 + turn / 10)
    assert state(failover, "wanted") == ((0, 1, 2),)


def test_silence_brings_in_the_next_each_with_its_own_patience() -> None:
    failover = Failover(3, 0.0)
    failover.update(FIRST_JOB_S - 0.1)
    assert state(failover, "wanted") == ((0,),)
    failover.update(FIRST_JOB_S)
    assert state(failover, "wanted") == ((0, 1),)
    failover.update(2 * FIRST_JOB_S - 0.1)
    assert state(failover, "wanted") == ((0, 1),)
    failover.update(2 * FIRST_JOB_S)
    assert state(failover, "wanted") == ((0, 1, 2),)


def test_the_first_is_returned_to_when_it_has_been_well_for_a_minute_and_the_other_is_left() -> None:
    failover = Failover(2, 0.0)
    failover.job(0, 0.0)
    failover.lost(0, 10.0)
    assert state(failover, "current") == (None,)
    failover.update(10.0 + FIRST_JOB_S)
    failover.job(1, 16.0)
    assert state(failover, "current") == (1,)
    failover.job(0, 20.0)
    assert state(failover, "current") == (1,), "it has only just come back"
    failover.job(0, 50.0)
    failover.job(1, 60.0)
    failover.update(20.0 + WELL_S - 0.1)
    assert state(failover, "current", "wanted") == (1, (0, 1))
    failover.update(20.0 + WELL_S)
    assert state(failover, "current", "wanted") == (0, (0,))


def test_nothing_is_idle_while_another_source_has_a_job() -> None:
    failover = Failover(2, 0.0)
    failover.update(FIRST_JOB_S)
    failover.job(1, 6.0)
    failover.job(0, 7.0)
    assert state(failover, "current") == (1,)
    failover.lost(1, 8.0)
    assert state(failover, "current") == (0,), "although it has not been well for a minute"


def test_a_source_that_falls_silent_is_left_for_one_that_does_not_and_kept_where_there_is_none() -> None:
    failover = Failover(2, 0.0)
    failover.job(0, 0.0)
    failover.update(STALLED_S)
    assert state(failover, "current", "wanted") == (0, (0, 1))
    failover.job(1, STALLED_S + 1)
    assert state(failover, "current") == (1,)
    failover.job(0, STALLED_S + 2)
    assert state(failover, "current") == (1,), "its minute begins anew"
    failover.update(2 * STALLED_S + 1)
    assert state(failover, "current") == (0,), "the other is the silent one now"


def test_a_withdrawn_job_is_not_mined_and_its_silence_brings_in_the_next() -> None:
    failover = Failover(2, 0.0)
    failover.job(0, 100.0)
    failover.no_job(0, 101.0)
    assert state(failover, "current", "wanted") == (None, (0,))
    failover.update(101.0 + FIRST_JOB_S)
    assert state(failover, "wanted") == ((0, 1),)


def test_a_source_that_refuses_us_is_not_tried_again() -> None:
    failover = Failover(2, 0.0)
    failover.refused(0, 1.0)
    assert state(failover, "wanted", "hopeless") == ((1,), False)
    failover.refused(1, 2.0)
    assert state(failover, "wanted", "hopeless") == ((), True)


events = st.tuples(st.sampled_from(("job", "no job", "lost", "refused", "update")), st.integers(0, 2), st.floats(0, 90))


@given(st.lists(events, max_size=60))
def test_whatever_happens_what_is_mined_has_a_job_and_nothing_is_idle_while_one_is_there(
    history: list[tuple[str, int, float]],
) -> None:
    failover, now = Failover(3, 0.0), 0.0
    with_job: set[int] = set()
    refused: set[int] = set()
    for kind, index, passed in history:
        now += passed
        if kind == "update":
            failover.update(now)
        elif index in failover.wanted:
            if kind == "job":
                failover.job(index, now)
                with_job.add(index)
            elif kind == "no job":
                failover.no_job(index, now)
                with_job.discard(index)
            else:
                with_job.discard(index)
                refused |= {index} if kind == "refused" else set()
                (failover.lost if kind == "lost" else failover.refused)(index, now)
        with_job &= set(failover.wanted)
        if failover.current is None:
            assert not with_job
        else:
            assert failover.current in with_job
        assert failover.hopeless == (len(refused) == 3)
        assert set(failover.wanted) | refused or failover.hopeless


@given(st.lists(st.floats(0, 1), min_size=8, max_size=20))
def test_back_off_doubles_to_its_most_and_never_leaves_it(dice: list[float]) -> None:
    backoff = Backoff()
    waits = [backoff.wait_s(one) for one in dice]
    for turn, wait in enumerate(waits):
        whole = min(MOST_S, 2.0**turn)
        assert 0.75 * whole <= wait <= whole
    backoff.reset()
    assert backoff.wait_s(0) == 1.0
