"""Any session, any bytes and every transition of both ends of stratum."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.wire import shares, stratum, stratum_miner, stratum_pool
from quantus_miner.wire.core import Broken, JobReceived, JobRefused, LocalProtocolError
from quantus_miner.wire.stratum_miner import Judged, LoginRefused, StratumMiner
from quantus_miner.wire.stratum_pool import ShareCame, StratumPool

from .stratum_ends import AGENT, LOGIN, Joined, cut, job, line, nonce, written
from .test_stratum_messages import parse

if TYPE_CHECKING:
    import random

    from quantus_miner.model import LiveJob


@given(st.data())
def test_any_session_keeps_its_books(data: st.DataObject) -> None:
    """Every share that was sent arrives once and gets one verdict; none is sent of a job that no longer counts."""
    wire = Joined(data.draw(st.randoms(use_true_random=False)))
    wire.log_in(job(0))
    live = [event.job for event in wire.take() if isinstance(event, JobReceived)]
    counting: list[LiveJob] = list(live)
    sent: list[tuple[str, int]] = []
    arrived: list[ShareCame] = []
    waiting: dict[tuple[str, int], tuple[str, float]] = {}  # what the pool has said of each share, and when it was sent
    for number in range(1, data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(("job", "clean", "share", "share", "again", "verdict", "time"))):
            case "job" | "clean" as kind:
                wire.pool.send_job(job(number), clean=kind == "clean")
                wire.carry()
                news = [event.job for event in wire.take() if isinstance(event, JobReceived)]
                assert [each.id for each in news] == [job(number).id]
                counting = news if kind == "clean" else [*counting, *news][-1 - shares.MAX_EARLIER :]
                live += news
            case "share":
                mined = data.draw(st.sampled_from(live))
                went = wire.miner.submit(mined, nonce(mined, number), number, wire.now)
                assert went == any(mined is each for each in counting)
                if went:
                    sent.append((mined.id, nonce(mined, number)))
                    waiting[sent[-1]] = ("no reply", wire.now)
            case "again" if sent:
                job_id, known = data.draw(st.sampled_from(sent))
                (mined,) = (each for each in live if each.id == job_id)
                assert not wire.miner.submit(mined, known, 1, wire.now)
            case "verdict" if arrived:
                came = arrived.pop(data.draw(st.integers(0, len(arrived) - 1)))
                refusal = data.draw(st.sampled_from((None, "Stale share", "duplicate share")))
                wire.pool.send_verdict(came.request, refusal)
                key = came.job_id, int(came.nonce, 16)
                if key in waiting:
                    waiting[key] = (refusal or "", waiting[key][1])
                    wire.carry()
                    (verdict,) = wire.take()
                    assert isinstance(verdict, Judged)
                    reason, then = waiting.pop(key)
                    assert (verdict.job.id, verdict.accepted) == (key[0], refusal is None)
                    assert (verdict.reason, verdict.latency_s) == (reason, wire.now - then)
            case "time":
                wire.now += 11.0
                late = [event for event in wire.miner.tick(wire.now) if isinstance(event, Judged)]
                due = [key for key, (_, then) in waiting.items() if then <= wire.now - 30]
                assert [(event.job.id, event.reason) for event in late] == [(key[0], "no reply") for key in due]
                for key in due:
                    del waiting[key]
        wire.carry()
        assert wire.take() == [], "a verdict that came too late is nothing"
        arrived += [event for event in wire.pool_events if isinstance(event, ShareCame)]
        wire.pool_events.clear()
    assert len(sent) == len(set(sent))
    assert len(wire.miner.close(wire.now)) == len(waiting)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["OK", "session"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "job", "status", "x"]), inner),
    max_leaves=6,
)
MESSAGES = st.dictionaries(
    st.sampled_from(["id", "method", "params", "result", "error"]),
    JSON | st.integers(0, 3) | st.sampled_from(["job", "login", "submit", "keepalived"]),
)
HOSTILE = st.lists(
    st.binary(max_size=60) | st.just(b"\n") | MESSAGES.map(lambda message: json.dumps(message).encode() + b"\n"),
    max_size=6,
)


@given(HOSTILE, st.booleans(), st.randoms(use_true_random=False))
def test_whatever_a_peer_sends_is_events_and_at_most_one_end(
    hostile: list[bytes], logged_in: bool, rng: random.Random
) -> None:
    wire = Joined(rng)
    if logged_in:
        wire.log_in(job(1))
        wire.take()
    else:
        wire.pool.receive(written(wire.miner), wire.now)
    ends = 0
    for piece in cut(b"".join(hostile), rng):
        for event in (*wire.miner.receive(piece, wire.now), *wire.miner.tick(wire.now)):
            assert (
                event.reason.isprintable() if isinstance(event, Broken | JobRefused | LoginRefused | Judged) else True
            )
            ends += isinstance(event, Broken | LoginRefused)
        for asked in wire.pool.receive(piece, wire.now):
            if isinstance(asked, ShareCame):
                wire.pool.send_verdict(asked.request, "Invalid nonce")
    assert ends <= 1


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_conversation_with_some_bytes_changed(place: int, change: bytes, rng: random.Random) -> None:
    pool = StratumPool("session", 0.0)
    pool.receive(written(StratumMiner(LOGIN, AGENT, 0.0)), 0.0)
    pool.take_login(job(1))
    pool.send_job(job(2), clean=True)
    good = written(pool)
    place %= len(good)
    miner = StratumMiner(LOGIN, AGENT, 0.0)
    for piece in cut(good[:place] + change + good[place + len(change) :], rng):
        for event in miner.receive(piece, 0.0):
            # A job that was changed into another one by chance is still one that holds together.
            if isinstance(event, JobReceived):
                assert parse(stratum.job_body(event.job)) == event.job


def test_every_transition_is_taken_and_no_other() -> None:
    miner: set[object] = set()
    pool: set[object] = set()

    def watch(wire: Joined) -> Joined:
        miner.update(wire.miner.taken)
        pool.update(wire.pool.__dict__.get("taken", set()))
        return wire

    bad = line(method="job", params={"job": None})
    wire = Joined()
    wire.log_in(None)
    wire.take()
    wire.miner.receive(bad, wire.now)
    wire.now += 30
    wire.miner.tick(wire.now)
    wire.carry()
    wire.pool.send_job(job(1), clean=True)
    wire.carry()
    mined = wire.current()
    wire.miner.receive(bad, wire.now)
    wire.pool.send_job(job(2), clean=False)
    wire.miner.submit(mined, nonce(mined, 1), 1, wire.now)
    wire.carry()
    wire.miner.submit(mined, nonce(mined, 2), 1, wire.now)
    (came,) = wire.pool_events
    assert isinstance(came, ShareCame)
    wire.pool.send_verdict(came.request, None)
    wire.carry()
    wire.now += 30
    wire.miner.tick(wire.now)
    wire.miner.tick(wire.now + 90)
    wire.pool.tick(wire.now + 90)
    watch(wire)

    for first in (None, job(1)):
        wire = Joined()
        wire.log_in(first)
        wire.miner.receive(line(id=9, error={"code": -1, "message": "Unauthenticated"}), wire.now)
        watch(wire)

    wire = Joined()
    wire.carry()
    wire.pool.refuse_login("no")
    wire.carry()
    watch(wire)
    for waiting in (True, False):
        wire = Joined()
        if waiting:
            wire.log_in(None)
        wire.miner.receive(b"x\n", wire.now)
        wire.pool.receive(b"x\n", wire.now)
        watch(wire)
    wire = Joined()
    wire.carry()
    wire.pool.receive(b"x\n", wire.now)
    watch(wire)

    assert miner == set(stratum_miner.TRANSITIONS)
    assert pool == set(stratum_pool.TRANSITIONS)


def test_a_step_of_ours_that_is_not_listed_raises_an_error_that_names_it() -> None:
    pool = StratumPool("s", 0.0)
    with pytest.raises(
        LocalProtocolError, match=r"^stratum pool: not allowed in state 'connected': we take the login$"
    ):
        pool.take_login(None)
    with pytest.raises(LocalProtocolError, match=r"^stratum pool: not allowed in state 'connected': we send a job$"):
        pool.send_job(job(1), clean=True)
    assert (pool.state, pool.data_to_send()) == ("connected", [])
