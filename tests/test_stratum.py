"""Stratum without I/O: lines, messages, shares, and both sides joined in memory."""

from __future__ import annotations

import json

import pytest

from quantus_miner.model import MAX
from quantus_miner.wire import stratum_miner
from quantus_miner.wire.core import Broken, JobReceived, JobRefused
from quantus_miner.wire.lines import MAX_LINE
from quantus_miner.wire.stratum_miner import Judged, LoggedIn, LoginRefused, StratumMiner
from quantus_miner.wire.stratum_pool import LoginAsked, ShareCame, StratumPool

from .stratum_ends import AGENT, CAPTURED, LOGIN, Joined, job, line, nonce, written
from .test_stratum_messages import parse

# --- both sides, joined ---


def test_a_conversation() -> None:
    wire = Joined()
    wire.log_in(job(1))
    assert wire.take() == [LoggedIn(), JobReceived(job(1))]
    wire.pool.send_job(job(2), clean=True)
    wire.carry()
    mined = wire.current()
    assert mined == job(2)
    assert wire.miner.submit(mined, nonce(mined, 5), 99, wire.now)
    wire.carry()
    (came,) = wire.pool_events
    assert isinstance(came, ShareCame)
    assert (came.job_id, came.nonce, came.result) == (mined.id, f"0004f005{5:0120x}", f"{99:0128x}")
    wire.now += 0.25
    wire.pool.send_verdict(came.request, None)
    wire.carry()
    assert wire.take() == [Judged(mined, True, False, "", 0.25, nonce(mined, 5))]


def test_a_login_without_a_job_waits_for_one() -> None:
    wire = Joined()
    wire.log_in(None)
    assert wire.take() == [LoggedIn()]
    assert not wire.miner.submit(job(1), nonce(job(1), 1), 1, wire.now)
    wire.pool.send_job(job(1), clean=True)
    wire.carry()
    assert wire.current() == job(1)


def test_what_is_said_at_the_login() -> None:
    miner = StratumMiner("w.x", "quantus-miner/9", 0.0)
    assert json.loads(written(miner)) == {
        "id": 1,
        "method": "login",
        "params": {"login": "w.x", "pass": "x", "agent": "quantus-miner/9"},
    }
    assert written(miner) == b""


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"id": 1, "error": {"code": -1, "message": "Invalid\naddress"}, "result": None}, r"Invalid\naddress"),
        ({"id": 1, "error": {"code": -1, "message": "x" * 1000}}, "x" * 200),
        ({"id": 1, "error": "banned"}, '"banned"'),
        ({"id": 1, "error": {}}, "{}"),
        ({"id": 1, "error": {"message": ""}}, "no reason given"),
    ],
)
def test_a_refused_login_ends_it(reply: dict[str, object], reason: str) -> None:
    miner = StratumMiner(LOGIN, AGENT, 0.0)
    assert miner.receive(line(**reply) + line(method="job"), 0.0) == [LoginRefused(reason)]
    assert miner.receive(line(**reply), 1.0) == []
    assert miner.tick(1000.0) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b'{"x":' + b"[" * 10_000 + b"\n", "not JSON"),
        (b"[]\n", "a malformed message"),
        (b"x" * (MAX_LINE + 1), "a line of more than 16,384 bytes"),
        (line(id=1, result={"id": "s", "status": "NO"}), "neither OK nor an error"),
        (line(id=1, result={"id": "s" * 129, "status": "OK"}), "neither OK nor an error"),
        (line(id=1, result=None), "a malformed message"),
        (line(method="job", params={"job": CAPTURED}), "not allowed in state 'logging in': a job comes"),
        (line(method="job", params={"job": 1}), "not allowed in state 'logging in': a job comes that"),
        (line(method="job", params={"job": CAPTURED, "clean_jobs": 1}), "a malformed message"),
        (line(id=True), "a malformed message"),
    ],
)
def test_breaches_of_a_pool(data: bytes, reason: str) -> None:
    miner = StratumMiner(LOGIN, AGENT, 0.0)
    (event,) = miner.receive(data, 0.0)
    assert isinstance(event, Broken)
    assert reason in event.reason
    assert event.reason.isprintable()
    assert miner.receive(data, 0.0) == []
    assert not miner.submit(job(1), nonce(job(1), 1), 1, 0.0)


def test_a_job_that_cannot_be_mined_leaves_the_one_before_in_force() -> None:
    wire = Joined()
    wire.log_in(job(1))
    mined = wire.take()[1]
    assert isinstance(mined, JobReceived)
    bad = line(method="job", params={"clean_jobs": True, "job": CAPTURED | {"difficulty": 5}})
    for _ in range(2):
        events = wire.miner.receive(bad * (stratum_miner.MAX_BAD_JOBS - 1), wire.now)
        assert [type(event) for event in events] == [JobRefused] * (stratum_miner.MAX_BAD_JOBS - 1)
        assert wire.miner.submit(mined.job, nonce(mined.job, len(wire.pool_events)), 1, wire.now)
        wire.carry()
        # A good one in between: only bad ones in a row are too many.
        assert (
            wire.miner.receive(line(method="job", params={"clean_jobs": False, "job": CAPTURED}), wire.now) is not None
        )
    events = wire.miner.receive(bad * 5, wire.now)
    assert isinstance(events[-1], Broken)
    assert len(events) == stratum_miner.MAX_BAD_JOBS
    assert "3 jobs in a row" in events[-1].reason


def test_a_job_s_fields_may_stand_bare_in_the_params() -> None:
    wire = Joined()
    wire.log_in(job(1))
    wire.take()
    for params in (CAPTURED, CAPTURED | {"clean_jobs": True, "job_id": "2"}, {"job": None, **CAPTURED, "job_id": "3"}):
        (event,) = wire.miner.receive(line(jsonrpc="2.0", method="job", params=params), wire.now)
        assert event == JobReceived(parse(params))
    (bad,) = wire.miner.receive(line(method="job", params={"clean_jobs": True}), wire.now)
    assert bad == JobRefused("a malformed message: Object missing required field `job_id`", mining=True)


def test_a_first_job_that_is_refused_leaves_none_in_force() -> None:
    miner = StratumMiner(LOGIN, AGENT, 0.0)
    reply = line(id=1, result={"id": "s", "status": "OK", "job": CAPTURED | {"difficulty": 0}})
    logged_in, bad = miner.receive(reply, 0.0)
    assert logged_in == LoggedIn()
    assert isinstance(bad, JobRefused)
    assert not bad.mining
    assert miner.receive(line(method="job", params={"job": CAPTURED}), 0.0) == [JobReceived(parse(CAPTURED))]


def test_a_pool_may_change_difficulty_and_extranonce_by_job() -> None:
    wire = Joined()
    wire.log_in(job(1))
    wire.take()
    for number, (difficulty, prefix) in enumerate(((5, b"abcd"), (MAX, b"\0\0\0\0"), (1, b"\xff\xff\xff\xff")), 2):
        wire.pool.send_job(job(number, difficulty, prefix), clean=False)
        wire.carry()
        mined = wire.current()
        assert (mined.difficulty, mined.prefix) == (difficulty, prefix)
        with pytest.raises(ValueError, match="does not begin with extranonce"):
            wire.miner.submit(mined, nonce(mined, 1) ^ 1 << 511, 1, wire.now)
        assert wire.miner.submit(mined, nonce(mined, 1), 1, wire.now)


def test_verdicts_are_matched_by_id_in_any_order() -> None:
    wire = Joined()
    wire.log_in(job(1))
    mined = wire.take()[1]
    assert isinstance(mined, JobReceived)
    for number in range(4):
        assert wire.miner.submit(mined.job, nonce(mined.job, number), 1, wire.now)
        wire.now += 1
    wire.carry()
    wire.take()
    requests = [event.request for event in wire.pool_events if isinstance(event, ShareCame)]
    refusals = [None, "Stale share", "Invalid job id", "Invalid nonce"]
    for request, refusal in reversed(list(zip(requests, refusals, strict=True))):
        wire.pool.send_verdict(request, refusal)
        wire.pool.send_verdict(request, refusal)  # a second verdict is nothing
    wire.carry()
    verdicts = [(v.accepted, v.stale, v.reason, v.latency_s) for v in wire.take() if isinstance(v, Judged)]
    assert verdicts == [
        (False, False, "Invalid nonce", 1.0),
        (False, True, "Invalid job id", 2.0),
        (False, True, "Stale share", 3.0),
        (True, False, "", 4.0),
    ]


@pytest.mark.parametrize(
    ("reply", "accepted", "reason"),
    [
        ({"result": {"status": "OK"}}, True, ""),
        ({"result": {"status": "OK"}, "error": None, "jsonrpc": "2.0"}, True, ""),
        ({"result": {"status": "DUPLICATE"}}, False, "DUPLICATE"),
        ({"result": {"status": ""}}, False, "no reason given"),
        ({"result": True}, True, ""),
        ({"result": True, "error": None}, True, ""),
        ({"result": True, "error": {"code": -1, "message": "low difficulty"}}, False, "low difficulty"),
        ({"result": True, "error": [21, "gone", None]}, False, "gone"),
        ({"result": False}, False, "a malformed message: Expected `object`, got `bool`"),
        ({"result": 1}, False, "a malformed message: Expected `object`, got `int`"),
        ({"result": "true"}, False, "a malformed message: Expected `object`, got `str`"),
        ({}, False, "a malformed message: Expected `object`, got `null`"),
        ({"result": {"status": "OK"}, "error": {"code": 1, "message": "no"}}, False, "no"),
    ],
)
def test_what_counts_as_accepted(reply: dict[str, object], accepted: bool, reason: str) -> None:
    wire = Joined()
    wire.log_in(job(1))
    mined = wire.take()[1]
    assert isinstance(mined, JobReceived)
    wire.miner.submit(mined.job, nonce(mined.job, 1), 1, wire.now)
    (event,) = wire.miner.receive(line(id=2, **reply), wire.now)
    assert isinstance(event, Judged)
    assert (event.accepted, event.reason) == (accepted, reason)


def test_replies_to_nothing_are_nothing() -> None:
    wire = Joined()
    wire.log_in(job(1))
    wire.take()
    for message in (
        {"result": {"status": "KEEPALIVED"}},
        {"id": 3, "result": {"status": "KEEPALIVED"}},
        {"id": 99, "result": 7},
        {"id": "1", "error": {"message": "x"}},
        {"method": "mining.notify", "params": [1]},
        {"id": 1, "result": {"id": "other", "status": "OK"}},
    ):
        assert wire.miner.receive(line(**message), wire.now) == []


def test_a_pool_tells_miners_what_they_get_wrong() -> None:
    pool = StratumPool("s", 0.0)
    login = line(id="a", method="login", params={"login": "w.x", "pass": "x"})
    assert pool.receive(line(id=1, method="mining.subscribe"), 0.0) == []
    assert pool.receive(login, 0.0) == [LoginAsked("w.x", "")]
    pool.take_login(None)
    share = {"id": "other", "job_id": "1", "nonce": "", "result": ""}
    assert pool.receive(line(id="b", method="submit", params=share), 0.0) == []
    assert pool.receive(line(id="c", method="keepalived", params={"id": "s"}), 0.0) == []
    replies = [json.loads(text) for text in written(pool).splitlines()]
    assert replies[0] == {
        "id": "a",
        "error": None,
        "result": {"id": "s", "status": "OK", "extensions": ["keepalive"], "job": None},
    }
    assert replies[1:] == [
        {"id": "b", "error": {"code": -1, "message": "Invalid session"}, "result": None},
        {"id": "c", "error": None, "result": {"status": "KEEPALIVED"}},
    ]
    assert [type(event) for event in pool.receive(login, 0.0)] == [Broken]
    assert pool.receive(login, 0.0) == []
    assert pool.tick(1e9) == []


# --- time ---


def test_a_login_is_not_waited_for_without_end() -> None:
    miner = StratumMiner(LOGIN, AGENT, 100.0)
    assert miner.deadline == 110.0
    assert miner.tick(109.9) == []
    assert miner.tick(110.0) == [Broken("no reply to the login within 10 s")]


def test_a_first_job_is_not_waited_for_without_end() -> None:
    miner = StratumMiner(LOGIN, AGENT, 100.0, stratum_miner.Timing(keepalive_s=1e6, silence_s=1e6))
    miner.receive(b'{"id":1,"result":{"id":"s","status":"OK"}}\n', 101.0)
    assert (miner.state, miner.deadline) == (stratum_miner.StratumMinerState.WAITING, 700.0)
    assert miner.tick(699.0) == []
    assert miner.tick(700.0) == [Broken("no job within 600 s")]


def test_keepalives_verdicts_and_silence() -> None:
    wire = Joined(now=0.0)
    wire.log_in(job(1))
    mined = wire.take()[1]
    assert isinstance(mined, JobReceived)
    written(wire.miner)
    wire.now = 20.0
    assert wire.miner.submit(mined.job, nonce(mined.job, 1), 1, wire.now)
    written(wire.miner)
    assert wire.miner.deadline == 30.0
    assert wire.miner.tick(29.9) == []
    assert written(wire.miner) == b""
    assert wire.miner.tick(30.0) == []
    assert json.loads(written(wire.miner)) == {"id": 3, "method": "keepalived", "params": {"id": "session"}}
    assert wire.miner.deadline == 50.0
    assert wire.miner.tick(50.0) == [Judged(mined.job, False, False, "no reply", 30.0, nonce(mined.job, 1))]
    # The verdict that comes after all is nothing any more.
    assert wire.miner.receive(line(id=2, result={"status": "OK"}), 55.0) == []
    assert wire.miner.deadline == 60.0
    assert wire.miner.tick(60.0) == []
    assert wire.miner.tick(90.0) == []
    assert wire.miner.tick(120.0) == []
    assert len(written(wire.miner).splitlines()) == 3
    assert wire.miner.deadline == 145.0
    assert wire.miner.tick(144.9) == []
    assert wire.miner.tick(145.0) == [Broken("no byte for 90 s")]


def test_at_the_end_no_share_is_left_without_a_verdict() -> None:
    wire = Joined()
    wire.log_in(job(1))
    mined = wire.take()[1]
    assert isinstance(mined, JobReceived)
    wire.miner.submit(mined.job, nonce(mined.job, 1), 1, wire.now)
    assert wire.miner.close(wire.now + 2) == [Judged(mined.job, False, False, "no reply", 2.0, nonce(mined.job, 1))]
    assert wire.miner.close(wire.now + 2) == []


def test_a_pool_gives_up_a_silent_miner() -> None:
    pool = StratumPool("s", 0.0)
    assert pool.deadline == 10.0
    assert pool.receive(b"{", 9.0) == pool.tick(9.0) == []
    assert pool.tick(10.0) == [Broken("no login within 10 s")]
    pool = StratumPool("s", 0.0)
    pool.receive(b'{"method":"login","params":{"login":"w.r"}}\n', 9.0)
    assert pool.deadline == 99.0
    assert pool.tick(98.0) == []
    assert pool.tick(99.0) == [Broken("no byte for 90 s")]
