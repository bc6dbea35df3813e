"""Lines, jobs and errors of the stratum dialect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.model import MAX, LiveJob
from quantus_miner.wire import stratum
from quantus_miner.wire.core import Broken, JobReceived, RemoteProtocolError
from quantus_miner.wire.lines import MAX_LINE, LineSplitter
from quantus_miner.wire.stratum import BadJobError
from quantus_miner.wire.stratum_miner import Judged

from .stratum_ends import CAPTURED, Joined, cut, job, line, nonce, written

if TYPE_CHECKING:
    import random

NO_DIFFICULTY: list[object] = [
    *(0, -1, 0.9, -1e10, MAX + 1, 1e200, True, [], {}, "", "-1", "1e999", "9" * 401, "1" * 10_000),
    *("NaN", "Infinity", "0x10", " 1e10", "1e10\n", "٣", "1_000", "\x1b[2J", "1e-5"),
]


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
