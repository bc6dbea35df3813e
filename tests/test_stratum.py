"""Stratum without I/O: lines, messages, shares, and both sides joined in memory."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.model import MAX, LiveJob
from quantus_miner.wire import shares, stratum, stratum_miner, stratum_pool
from quantus_miner.wire.core import Broken, JobReceived, JobRefused, LocalProtocolError, RemoteProtocolError
from quantus_miner.wire.lines import MAX_LINE, LineSplitter
from quantus_miner.wire.shares import ShareBook
from quantus_miner.wire.stratum import BadJobError
from quantus_miner.wire.stratum_miner import Judged, LoggedIn, LoginRefused, StratumMiner
from quantus_miner.wire.stratum_pool import LoginAsked, ShareCame, StratumPool

if TYPE_CHECKING:
    from collections.abc import Iterable

LOGIN, AGENT = "wallet.rig", "quantus-miner/1"
CAPTURED: dict[str, Any] = {
    "algo": "qpow-poseidon2",
    "difficulty": 10000000000,
    "extranonce": "0004f005",
    "job_id": "22768-10000000000",
    "mining_hash": "d8797e03ff633526267709d6d2f2e32652cf03c57a429e7ca90017a7d1ee0c8f",
    "seq": 22768,
    "target": "000000006df37f675ef6eadf5ab9a2072d44268d97df837e6748956e5c6c2117"
    "501e68855669e4b8356cf292464d9e16cc8d4655f8fb96f429b149fc87d74da4",
}
"""As LuckyPool sent it on 2026-09-12."""

NO_DIFFICULTY: list[object] = [
    *(0, -1, 0.9, -1e10, MAX + 1, 1e200, True, [], {}, "", "-1", "1e999", "9" * 401, "1" * 10_000),
    *("NaN", "Infinity", "0x10", " 1e10", "1e10\n", "٣", "1_000", "\x1b[2J", "1e-5"),
]


def job(number: int = 1, difficulty: int = 1000, prefix: bytes = b"\0\4\xf0\5") -> LiveJob:
    return LiveJob(f"job-{number}", bytes([number % 256]) * 32, difficulty, prefix)


def line(**message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def written(core: StratumMiner | StratumPool) -> bytes:
    return b"".join(core.data_to_send())


# --- lines ---


@given(st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"")), max_size=8), st.randoms())
def test_lines_do_not_depend_on_how_the_bytes_are_cut(lines: list[bytes], rng: random.Random) -> None:
    data = b"".join(text + b"\n" for text in lines)
    splitter, got = LineSplitter(), []
    for piece in cut(data, rng):
        got += list(splitter.feed(piece))
    assert got == [text.removesuffix(b"\r") for text in lines if text not in (b"", b"\r")]


def test_a_line_of_the_longest_length_passes_and_one_byte_more_does_not() -> None:
    assert list(LineSplitter().feed(b"x" * MAX_LINE + b"\n")) == [b"x" * MAX_LINE]
    for end in (b"\n", b""):
        with pytest.raises(RemoteProtocolError):
            list(LineSplitter().feed(b"x" * (MAX_LINE + 1) + end))
    splitter = LineSplitter()
    assert [text for _ in range(MAX_LINE) for text in splitter.feed(b"x")] == []
    with pytest.raises(RemoteProtocolError):
        list(splitter.feed(b"x"))


def test_lines_before_one_that_is_too_long_are_heard() -> None:
    lines = LineSplitter().feed(b"first\n" + b"x" * (MAX_LINE + 1))
    assert next(lines) == b"first"
    with pytest.raises(RemoteProtocolError):
        next(lines)


# --- jobs ---


def parse(body: object) -> LiveJob:
    return stratum.parse_job(msgspec.Raw(json.dumps(body).encode()))


def test_the_captured_job() -> None:
    parsed = parse(CAPTURED)
    assert parsed == LiveJob(
        "22768-10000000000", bytes.fromhex(CAPTURED["mining_hash"]), 10_000_000_000, b"\x00\x04\xf0\x05"
    )
    assert parsed.target == int(CAPTURED["target"], 16) - 1
    # Kryptex sends no algo; and what we send as a pool is what pools send.
    assert parse({name: value for name, value in CAPTURED.items() if name != "algo"}) == parsed
    assert stratum.job_body(parsed) == {name: value for name, value in CAPTURED.items() if name != "seq"}


@given(st.integers(1, MAX))
def test_every_job_is_read_as_it_was_written(difficulty: int) -> None:
    assert parse(stratum.job_body(job(difficulty=difficulty))) == job(difficulty=difficulty)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"algo": "qpow-sha3"}, "algo is qpow-sha3"),
        ({"algo": "x\n\x1b[2J" * 100}, r"algo is x\\n\\x1b\[2Jx"),
        ({"difficulty": 5}, "its target is that of difficulty 1e\\+10, but it states difficulty 5"),
        ({"difficulty": 10_000_010_002}, "its target is that of difficulty 1e\\+10, but"),
        ({"difficulty": MAX}, "its target is that of difficulty 1e\\+10, but"),
        ({"target": "f" + CAPTURED["target"][1:]}, "its target is that of difficulty 1, but"),
        ({"target": "0" * 128}, "hex digits, the target not 0"),
        ({"target": CAPTURED["target"][:-1]}, "hex digits"),
        ({"target": " " + CAPTURED["target"][1:]}, "hex digits"),
        *(
            ({"difficulty": value}, r"its difficulty is .*, not a number from 1 to 2\^512 - 1")
            for value in NO_DIFFICULTY
        ),
        ({"extranonce": "0004f0"}, "hex digits"),
        ({"extranonce": "0004f00500"}, "hex digits"),
        ({"mining_hash": CAPTURED["mining_hash"] + "00"}, "hex digits"),
        ({"mining_hash": "x" * 64}, "hex digits"),
        ({"job_id": ""}, "job_id"),
        ({"job_id": "x" * 129}, "job_id"),
        ({"job_id": "a\nb"}, "job_id"),
        ({"job_id": 7}, "a malformed message"),
    ],
)
def test_jobs_that_must_not_be_mined(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadJobError, match=reason) as error:
        parse(CAPTURED | change)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "difficulty",
    [10_000_000_000, 1e10, 10_000_000_000.4, 9_999_999_999, 10_000_000_001, 9.99999e9, "10000000000", "1e10", "1E+10"],
)
def test_a_difficulty_may_be_rounded_for_the_target_is_what_counts(difficulty: object) -> None:
    assert parse(CAPTURED | {"difficulty": difficulty}) == parse(CAPTURED)
    assert parse(CAPTURED | {"difficulty": None}) == parse(CAPTURED)
    assert parse({name: value for name, value in CAPTURED.items() if name != "difficulty"}) == parse(CAPTURED)


def test_a_target_between_those_of_two_whole_difficulties_is_mined_as_it_is() -> None:
    target = 2 * MAX // 2_000_001
    parsed = parse(CAPTURED | {"difficulty": 1_000_000.5, "target": f"{target:0128x}"})
    assert (parsed.difficulty, parsed.target) == (1_000_000, target - 1)
    assert parse(stratum.job_body(parsed)) == parsed


@given(st.integers(1, MAX))
def test_any_target_is_mined_as_it_is(target: int) -> None:
    parsed = parse(
        {key: value for key, value in CAPTURED.items() if key != "difficulty"} | {"target": f"{target:0128x}"}
    )
    assert parsed.target == target - 1
    assert parse(stratum.job_body(parsed)) == parsed


@given(st.integers(1, MAX))
def test_a_difficulty_as_a_float_is_that_of_its_target(difficulty: int) -> None:
    target = MAX // difficulty
    parsed = parse(CAPTURED | {"difficulty": float(difficulty), "target": f"{target:0128x}"})
    assert parsed.target == target - 1


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b"+1"])
def test_a_number_that_is_not_json_ends_the_connection(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not JSON"):
        stratum.decode(b'{"params":{"difficulty":' + text + b"}}", stratum.FromPool)


@pytest.mark.parametrize("name", ["job_id", "mining_hash", "extranonce", "target"])
def test_a_job_lacks_nothing(name: str) -> None:
    with pytest.raises(BadJobError, match=name):
        parse({key: value for key, value in CAPTURED.items() if key != name})


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_what_is_no_job(body: object) -> None:
    with pytest.raises(BadJobError):
        parse(body)


@pytest.mark.parametrize(
    ("reason", "stale"),
    [
        ("Stale share", True),
        ("job is STALE", True),
        ("Invalid job id", True),
        ("Invalid Job", True),
        ("job not found", True),
        ("Job ID not found", True),
        ("Unknown job", True),
        ("unknown or old job", True),
        ("Job expired", True),
        ("share has expired", True),
        ("Invalid nonce", False),
        ("duplicate share", False),
        ("low difficulty", False),
        ("Session expired", False),
        ("unknown session", False),
        ("worker not found", False),
        ("", False),
    ],
)
def test_which_refusals_mean_too_late(reason: str, stale: bool) -> None:
    assert stratum.is_stale(reason) == stale


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        ({"code": -1, "message": "Unauthenticated"}, True),
        ({"code": 24, "message": "Unauthorized worker"}, True),
        ([25, "Not subscribed", None], True),
        ("Invalid session", True),
        ({"code": -1, "message": "Session id not found"}, True),
        ({"code": -32601, "message": "no keepalive is needed in this session"}, False),
        ({"code": 22, "message": "duplicate share in session 7"}, False),
        ({"code": -1, "message": "Session expired, please log in first"}, True),
        ({"code": -1, "message": "Invalid nonce"}, False),
        ({"code": 21, "message": "Job not found"}, False),
        ({"code": 23, "message": "Low difficulty share"}, False),
    ],
)
@pytest.mark.parametrize("method", ["submit", "keepalived"])
def test_a_lost_session_ends_the_connection_so_that_we_log_in_again(method: str, error: object, lost: bool) -> None:
    wire = Joined()
    wire.log_in(job(1))
    given = wire.take()[1]
    assert isinstance(given, JobReceived)
    if method == "submit":
        assert wire.miner.submit(given.job, nonce(given.job, 1), 1, wire.now)
    else:
        wire.miner.tick(wire.now + 30.0)
    request = json.loads(written(wire.miner))
    assert request["method"] == method
    events = wire.miner.receive(line(id=request["id"], error=error, result=None), wire.now)
    assert [type(event) for event in events] == [Judged] * (method == "submit") + [Broken] * lost
    assert wire.miner.state == ("broken" if lost else "mining")


@pytest.mark.parametrize(
    ("error", "expected", "stale"),
    [
        ({"code": 20, "message": "job not found"}, ("job not found", 20), True),
        ({"code": 20, "message": "Invalid nonce"}, ("Invalid nonce", 20), False),
        ({"code": 21, "message": "no"}, ("no", 21), True),
        ([21, "no", None], ("no", 21), True),
        ([23, "Low difficulty share", None], ("Low difficulty share", 23), False),
        ({"code": "21", "message": "no"}, ("no", "21"), False),
        ({"code": True, "message": "no"}, ("no", True), False),
        ({"code": 2**70, "message": "no"}, ("no", 2**70), False),
        ([[], {}], ("[[],{}]", None), False),
        ([], ("[]", None), False),
        ("Stale", ('"Stale"', None), True),
        (7, ("7", None), False),
    ],
)
def test_an_error_has_words_and_maybe_a_code(error: object, expected: tuple[str, object], stale: bool) -> None:
    parsed = stratum.parse_error(msgspec.Raw(json.dumps(error, separators=(",", ":")).encode()))
    assert parsed == expected
    assert parsed is not None
    assert stratum.is_stale(*parsed) == stale


# --- the share book ---


def test_shares_count_for_earlier_jobs_until_a_clean_one() -> None:
    book, request = ShareBook(), iter(range(100))
    first, second, third = job(1), job(2), job(3)
    assert book.take_job(first, clean=True) is first
    assert book.take_job(second, clean=False) is second
    assert book.enter(next(request), first, 1, 0.0)
    assert book.enter(next(request), second, 1, 0.0)
    assert book.take_job(third, clean=True) is third
    assert not book.enter(next(request), first, 2, 0.0)
    assert not book.enter(next(request), second, 2, 0.0)
    assert book.enter(next(request), third, 2, 0.0)


def test_a_job_is_known_by_identity() -> None:
    book = ShareBook()
    book.take_job(job(1), clean=True)
    assert not book.enter(1, job(1), 1, 0.0)


def test_a_job_that_comes_again_changes_nothing_and_forgets_no_nonce() -> None:
    book, first = ShareBook(), job(1)
    book.take_job(first, clean=True)
    assert book.enter(1, first, 7, 0.0)
    assert book.take_job(job(1), clean=True) is None
    assert not book.enter(2, first, 7, 0.0)
    # With another difficulty it is another job, but the pool would call the nonce a duplicate.
    harder = job(1, difficulty=2000)
    assert book.take_job(harder, clean=False) is harder
    assert not book.enter(3, harder, 7, 0.0)
    assert not book.enter(4, first, 8, 0.0)
    assert book.enter(5, harder, 8, 0.0)


def test_one_job_id_for_all_headers_never_uses_up_its_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAX_SHARES", 3)
    book, request = ShareBook(), iter(range(1000))

    def send(of: LiveJob, nonce: int) -> bool:
        number = next(request)
        sent = book.enter(number, of, nonce, 0.0)
        book.settle(number)
        return sent

    for number in range(50):
        one = LiveJob("always", bytes([number]) * 32, 1000)
        assert book.take_job(one, clean=number % 2 == 0) is one
        assert [send(one, nonce) for nonce in range(4)] == [True, True, True, False]
    # The cap is that of the header: neither another id nor another difficulty lifts it, nor sends a nonce again.
    for again in (LiveJob("other", one.header, 1000), LiveJob("other", one.header, 2000)):
        assert book.take_job(again, clean=True) is again
        assert not send(again, 77)
    assert [book.take_job(job(1), clean=True), book.take_job(one, clean=True)] == [job(1), one]
    assert send(one, 0), "what no longer counts is forgotten"


def test_an_earlier_job_can_become_the_current_one_again() -> None:
    book, first, second = ShareBook(), job(1), job(2)
    book.take_job(first, clean=True)
    book.take_job(second, clean=False)
    assert book.take_job(job(1), clean=True) is first
    assert book.enter(1, first, 1, 0.0)
    assert not book.enter(2, second, 1, 0.0)


def test_the_share_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    book = ShareBook()
    jobs = [job(number) for number in range(20)]
    for each in jobs:
        book.take_job(each, clean=False)
    counting = [each for number, each in enumerate(jobs) if book.enter(number, each, 1, 0.0)]
    assert counting == jobs[-1 - shares.MAX_EARLIER :]
    sent = sum(book.enter(number, jobs[-1], number, 0.0) for number in range(100, 100 + 2 * shares.MAX_PENDING))
    assert sent == shares.MAX_PENDING - len(counting)
    assert len(book.expire(0.0)) == shares.MAX_PENDING
    monkeypatch.setattr(shares, "MAX_SHARES", 300)
    sent = 0
    for number in range(1000, 2000):
        sent += book.enter(number, jobs[-1], number, 1.0)
        book.settle(number)
    assert sent == 300 - (shares.MAX_PENDING - len(counting) + 1)


# --- both sides, joined ---


def cut(data: bytes, rng: random.Random) -> Iterable[bytes]:
    """``data`` in pieces of any size."""
    while data:
        size = rng.choice((1, 2, 7, 64, 1000, len(data)))
        yield data[:size]
        data = data[size:]


class WatchedMiner(StratumMiner):
    """Remembers the transitions that were taken."""

    taken: set[tuple[stratum_miner.StratumMinerState, stratum_miner.StratumMinerStep]]

    def _step(self, step: stratum_miner.StratumMinerStep) -> None:
        self.__dict__.setdefault("taken", set()).add((self.state, step))
        super()._step(step)


class WatchedPool(StratumPool):
    """Remembers the transitions that were taken."""

    taken: set[tuple[stratum_pool.StratumPoolState, stratum_pool.StratumPoolStep]]

    def _step(self, step: stratum_pool.StratumPoolStep) -> None:
        self.__dict__.setdefault("taken", set()).add((self.state, step))
        super()._step(step)


@dataclass
class Joined:
    """A miner and a pool with a wire between them that cuts and merges."""

    rng: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 1000.0
    miner_events: list[stratum_miner.Event] = field(default_factory=list)
    pool_events: list[stratum_pool.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.miner = WatchedMiner(LOGIN, AGENT, self.now)
        self.pool = WatchedPool("session", self.now)

    def carry(self) -> None:
        """All bytes under way, both ways."""
        for piece in cut(written(self.miner), self.rng):
            self.pool_events += self.pool.receive(piece, self.now)
        for piece in cut(written(self.pool), self.rng):
            self.miner_events += self.miner.receive(piece, self.now)

    def log_in(self, first: LiveJob | None) -> None:
        self.carry()
        assert self.pool_events.pop() == LoginAsked(LOGIN, AGENT)
        self.pool.take_login(first)
        self.carry()

    def take(self) -> list[stratum_miner.Event]:
        """The miner's events so far, which are forgotten."""
        events, self.miner_events = self.miner_events, []
        return events

    def current(self) -> LiveJob:
        (event,) = self.take()
        assert isinstance(event, JobReceived)
        return event.job


def nonce(of: LiveJob, number: int) -> int:
    return int.from_bytes(of.prefix.ljust(64, b"\0")) + number


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
        ({"id": 1, "error": {"code": -1, "message": "Invalid\naddress"}, "result": None}, "Invalid?address"),
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


# --- everything at once ---


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
