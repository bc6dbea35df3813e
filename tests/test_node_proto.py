"""The node protocol without a network: frames, messages, and both ends joined in memory."""

from __future__ import annotations

import itertools
import json
import math
import sys
from typing import Any, Final

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.cli import cli
from quantus_miner.dev import quic_node
from quantus_miner.model import MAX, LiveJob, Solution
from quantus_miner.sources import node as link
from quantus_miner.sources import quic
from quantus_miner.wire import frames, messages
from quantus_miner.wire import node as proto
from quantus_miner.wire.core import Broken, JobReceived, JobRefused, RemoteProtocolError
from quantus_miner.wire.frames import MAX_FRAME, FrameReader
from quantus_miner.wire.messages import JobResult, NewJob, Ready, parse_fingerprint, parse_token
from quantus_miner.wire.node import (
    MINER_TRANSITIONS,
    NODE_TRANSITIONS,
    Authenticated,
    Closed,
    MinerState,
    NodeMiner,
    NodeServer,
    NodeState,
    ResultReceived,
)

from .conftest import vectors
from .pages import code, fenced, table, tables, templates

EXAMPLES: Final = vectors("protocol_examples")
HASH: Final = "ab" * 32
WORK: Final = f"{0x1F:0128x}"
CAPTURED: Final[dict[str, messages.Message]] = {
    "auth (ALPN quantus-miner/2) Ready": Ready("deadbeef"),
    'auth Ready, token a"b\\cé<LF>\\x01/': Ready('a"b\\cé\n\x01/'),
    "NewJob, api 0.2.0+ and auth": NewJob("27", HASH, "131072"),
    "JobResult completed": JobResult("completed", "27", "1f", WORK, 123456, 1.5),
    "JobResult failed": JobResult("failed", "27", None, None, 0, 0.0),
    "JobResult cancelled": JobResult("cancelled", "27", None, None, 5, 0.25),
}
OLDER: Final = {"pre-auth (ALPN quantus-miner) Ready", "NewJob of api 0.0.3/0.1.0 (miners v3.0.x, v3.1.0)"}
"""Frames of earlier protocols, which this one refuses."""

text = st.text(st.characters(codec="utf-8"), max_size=60)
jobs = st.builds(
    lambda job_id, header, difficulty: NewJob(job_id, header.hex(), str(difficulty)),
    text,
    st.binary(min_size=32, max_size=32),
    st.integers(1, MAX),
)
results = st.builds(
    JobResult,
    st.sampled_from(messages.STATUSES),
    text,
    st.none() | text,
    st.none() | text,
    st.integers(0, messages.U64),
    st.floats(allow_nan=False, allow_infinity=False),
)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at these places."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


# --- frames and messages ---


def test_every_captured_frame_is_ours_byte_for_byte() -> None:
    captured = {example["name"]: bytes.fromhex(example["frame_hex"]) for example in EXAMPLES["quic_frames"]}
    assert captured.keys() == CAPTURED.keys() | OLDER
    for name, data in captured.items():
        (body,) = FrameReader().feed(data)
        if name in OLDER:
            with pytest.raises(RemoteProtocolError):
                messages.decode(body)
        else:
            assert messages.encode(CAPTURED[name]) == data
            assert messages.decode(body) == CAPTURED[name]


@pytest.mark.parametrize("example", EXAMPLES["node_accepts_auth_protocol"], ids=lambda example: example["json"])
def test_the_parser_takes_what_the_node_s_takes(example: dict[str, Any]) -> None:
    body = example["json"].encode()
    if example["accepted"]:
        assert isinstance(messages.decode(body), Ready | JobResult)
    else:
        with pytest.raises(RemoteProtocolError):
            messages.decode(body)


RESULT: Final = {"status": "completed", "job_id": "1", "hash_count": 1, "elapsed_time": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}",
        b"[]",
        b"null",
        b'{"Ready":{"token":"x"},"Ready":{"token":"x"}}',
        b'{"Ready":{"token":"x","token":"x"}}',
        b'{"Ready":["x","y"]}',
        b'{"Ready":[]}',
        b'{"Ready":"x"}',
        b'{"Ready":{"token":"\\ud800"}}',
        b'{"Cancel":{"job_id":"1"}}',
        json.dumps({"JobResult": RESULT | {"hash_count": True}}).encode(),
        json.dumps({"JobResult": RESULT | {"elapsed_time": "1"}}).encode(),
        b'{"JobResult":{"status":"completed","job_id":"1","hash_count":1,"elapsed_time":1e999}}',
        b'{"JobResult":{"status":"completed","job_id":"1","hash_count":1,"elapsed_time":1' + b"0" * 400 + b"}}",
        b"[" * MAX_FRAME,
    ],
)
def test_more_that_the_parser_refuses(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode(body)


def test_a_repeated_field_is_ignored_where_it_is_unknown() -> None:
    assert messages.decode(b'{"Ready":{"x":1,"token":"t","x":{"x":1,"x":2}}}') == Ready("t")
    assert messages.decode(b'{"JobResult":["failed","1",null,null,0,0]}') == JobResult("failed", "1", None, None, 0, 0)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_body_is_a_message_or_a_frame_error(body: bytes) -> None:
    try:
        message = messages.decode(body)
    except RemoteProtocolError as error:
        assert "\n" not in str(error)
    else:
        assert messages.decode(messages.encode(message)[4:]) == message


@given(jobs | results | st.builds(Ready, text))
def test_what_is_encoded_is_decoded(message: messages.Message) -> None:
    try:
        data = messages.encode(message)
    except ValueError:
        assert len(json.dumps(str(message))) > MAX_FRAME / 2
        return
    (body,) = FrameReader().feed(data)
    assert messages.decode(body) == message


@pytest.mark.parametrize("field", [{"hash_count": -1}, {"hash_count": 2**64}, {"hash_count": 1.0}])
def test_no_message_is_made_that_a_node_refuses(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hash_count"):
        JobResult(**{"status": "completed", "job_id": "1", "nonce": None, "work": None, "elapsed_time": 1.0} | field)
    for elapsed in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="elapsed_time"):
            JobResult("completed", "1", None, None, 1, elapsed)


@given(st.lists(st.binary(max_size=MAX_FRAME), max_size=6), st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_survive_every_way_of_cutting_the_stream(bodies: list[bytes], places: list[int]) -> None:
    reader = FrameReader()
    received: list[bytes] = []
    for piece in cut(b"".join(map(frame, bodies)), places):
        received += reader.feed(piece)
    assert received == bodies


@given(st.integers(MAX_FRAME + 1, 2**32 - 1), st.binary(max_size=50))
def test_a_frame_that_is_too_large_is_refused_by_its_length_alone(size: int, rest: bytes) -> None:
    found = FrameReader().feed(frame(b"ok") + size.to_bytes(4) + rest)
    assert next(found) == b"ok"
    with pytest.raises(RemoteProtocolError, match=f"^a frame of {size:,} bytes; 1,024 are allowed$"):
        next(found)


def test_the_largest_frame_holds_1024_bytes() -> None:
    assert len(frames.encode({"a": "x" * 1016})) == 4 + MAX_FRAME
    with pytest.raises(ValueError, match="1,024"):
        frames.encode({"a": "x" * 1017})


# --- settings ---


@pytest.mark.parametrize(
    "text", ["ab" * 32, "AB" * 32, ":".join(["aB"] * 32), f" {'ab ' * 32}\n", "abab:" * 16, "\t".join("ab" * 32)]
)
def test_a_fingerprint_in_each_form(text: str) -> None:
    assert parse_fingerprint(text) == b"\xab" * 32


@pytest.mark.parametrize(
    "text", ["", "ab" * 31, "ab" * 33, "xy" * 32, "٣" * 64, "sha256:" + "ab" * 32, "-".join(["ab"] * 32)]
)
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(ValueError, match=r"^64 hex digits"):
        parse_fingerprint(text)


@pytest.mark.parametrize("text", ["x", "x" * 512, "é" * 256, 'wallet.worker"1"'])
def test_a_token_is_trimmed(text: str) -> None:
    assert parse_token(f" \n{text}\r\n") == text
    assert len(messages.encode(Ready(text))) <= MAX_FRAME


@pytest.mark.parametrize("text", ["", " \n", "x" * 513, "é" * 257, "\x01" * 200, "\ud800"])
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(ValueError, match=r"^1 to 512 bytes"):
        parse_token(text)


# --- the two ends ---


def mining(job: NewJob | None = None) -> tuple[NodeMiner, LiveJob]:
    """A miner's end with a job."""
    core = connected()
    (event,) = core.receive(messages.encode(job or NewJob("27", HASH, "131072")), 0.0)
    assert isinstance(event, JobReceived)
    return core, event.job


def connected(*, paced: bool = False) -> NodeMiner:
    """A miner's end that has sent its token."""
    core = NodeMiner("t", 0.0, paced=paced)
    assert core.data_to_send() == [messages.encode(Ready("t"))]
    return core


@given(
    st.data(),
    st.lists(jobs, min_size=1, max_size=5, unique_by=lambda job: job.mining_hash),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_both_ends_joined(data: st.DataObject, sent: list[NewJob], places: list[int]) -> None:
    """Ready, jobs and a result each, however the streams are cut: what one end sends is what the other one hears."""
    miner, node = NodeMiner("tökén", 0.0), NodeServer("tökén", 0.0)
    heard: list[object] = []
    for piece in cut(b"".join(miner.data_to_send()), places):
        heard += node.receive(piece, 0.0)
    assert heard == [Authenticated()]
    for job in sent:
        node.send_job(job)
    received = []
    for piece in cut(b"".join(node.data_to_send()), places):
        lives = [event.job for event in miner.receive(piece, 0.0) if isinstance(event, JobReceived)]
        received += [NewJob(live.id, live.header.hex(), str(live.difficulty)) for live in lives]
        for live in lives:
            nonce, hashes = data.draw(st.integers(1, MAX)), data.draw(st.integers(0, messages.U64))
            elapsed = data.draw(st.floats(0, allow_nan=False, allow_infinity=False))
            assert miner.submit(live, Solution(nonce, 0), hashes, elapsed, 0.0) == (live is lives[-1])
            for result in miner.data_to_send():
                expected = JobResult("completed", live.id, f"{nonce:x}", f"{nonce:0128x}", hashes, elapsed)
                assert node.receive(result, 0.0) == [ResultReceived(expected)]
    assert received == sent


@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_hostile_bytes_end_either_end_in_one_event(pieces: list[bytes], framed: bool) -> None:
    miner, node = NodeMiner("t", 0.0), NodeServer("t", 0.0)
    for end in (miner, node):
        heard: list[object] = []
        for piece in pieces:
            heard += end.receive(frame(piece) if framed else piece, 0.0)
        assert not any(isinstance(event, Broken | Closed) for event in heard[:-1])
        assert end.is_over == (heard != [] and isinstance(heard[-1], Broken | Closed))
    assert miner.state in (MinerState.WAITING, MinerState.MINING, MinerState.BROKEN)
    assert node.state in (NodeState.UNKNOWN, NodeState.IDLE, NodeState.CLOSED)


def test_the_buffer_is_bounded_while_a_frame_is_incomplete() -> None:
    reader = FrameReader()
    assert [*reader.feed(MAX_FRAME.to_bytes(4))] == []
    for _ in range(MAX_FRAME - 1):
        assert [*reader.feed(b"x")] == []
    assert len(reader._buffer) == MAX_FRAME + 3
    assert [*reader.feed(b"x")] == [b"x" * MAX_FRAME]
    assert not reader._buffer


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (NewJob("27", "ab" * 31, "1"), "mining_hash"),
        (NewJob("27", "0x" + "ab" * 31, "1"), "mining_hash"),
        (NewJob("27", "xy" * 32, "1"), "mining_hash"),
        (NewJob("27", HASH + "\n", "1"), "mining_hash"),
        (NewJob("27", HASH, "0"), "difficulty"),
        (NewJob("27", HASH, ""), "difficulty"),
        (NewJob("27", HASH, "-1"), "difficulty"),
        (NewJob("27", HASH, "1e3"), "difficulty"),
        (NewJob("27", HASH, "0x10"), "difficulty"),
        (NewJob("27", HASH, "٣"), "difficulty"),
        (NewJob("27", HASH, " 1"), "difficulty"),
        (NewJob("27", HASH, str(MAX + 1)), "difficulty"),
        (NewJob("27", HASH, "9" * 800), "difficulty"),
        (NewJob("x" * 700, HASH, "1"), "job_id"),
    ],
)
def test_an_invalid_job_is_answered_and_ends_the_one_before(job: NewJob, reason: str) -> None:
    core, before = mining()
    (event,) = core.receive(messages.encode(job), 0.0)
    assert isinstance(event, JobRefused)
    assert reason in event.reason
    assert core.data_to_send() == [messages.encode(JobResult("failed", job.job_id, None, None, 0, 0.0))]
    assert core.state is MinerState.WAITING
    assert not core.submit(before, Solution(1, 0), 1, 1.0, 0.0)
    assert isinstance(core.receive(messages.encode(NewJob("28", HASH, "1")), 0.0)[0], JobReceived)


def test_a_job_whose_id_leaves_no_room_for_an_answer_is_not_answered() -> None:
    # As an array the message is short enough for an id that fills a frame.
    core = connected()
    document = b'{"NewJob":["' + b"x" * 930 + b'","ab","0"]}'
    (event,) = core.receive(frame(document), 0.0)
    assert isinstance(event, JobRefused)
    assert "not answered" in event.reason
    assert len(event.reason) < 200
    assert core.data_to_send() == []


@pytest.mark.parametrize("difficulty", ["1", "0001", str(MAX), "0" * 100 + str(MAX)])
def test_the_range_of_difficulties(difficulty: str) -> None:
    _, job = mining(NewJob("27", HASH.upper(), difficulty))
    assert job == LiveJob("27", bytes.fromhex(HASH), int(difficulty))


@given(st.text(st.characters(codec="utf-8"), max_size=700))
def test_every_job_that_is_taken_can_be_answered_with_its_longest_result(job_id: str) -> None:
    try:
        data = messages.encode(NewJob(job_id, HASH, "1"))
    except ValueError:
        return
    core = connected()
    (event,) = core.receive(data, 0.0)
    if isinstance(event, JobReceived):
        assert core.submit(event.job, Solution(MAX, 0), messages.U64, sys.float_info.min, 0.0)
        assert len(core.data_to_send()[0]) <= 4 + MAX_FRAME


def test_a_solution_counts_only_for_the_present_job_as_an_object() -> None:
    core, job = mining()
    twin = LiveJob(job.id, job.header, job.difficulty)
    assert twin == job
    assert not core.submit(twin, Solution(1, 0), 1, 1.0, 0.0)
    assert core.submit(job, Solution(0x1F, 0), 123456, 1.5, 0.0)
    assert core.submit(job, Solution(0x20, 0), 123457, 1.5, 0.0)
    assert core.data_to_send()[0] == messages.encode(CAPTURED["JobResult completed"])
    core.receive(messages.encode(NewJob(job.id, "cd" * 32, "131072")), 0.0)
    assert not core.submit(job, Solution(1, 0), 1, 1.0, 0.0)


def test_a_job_that_comes_again_changes_nothing() -> None:
    core, job = mining()
    for _ in range(3):
        assert core.receive(messages.encode(NewJob("27", HASH, "131072")), 0.0) == []
        assert core.receive(messages.encode(NewJob("27", HASH.upper(), "0131072")), 0.0) == []
        assert core.submit(job, Solution(1, 0), 1, 1.0, 0.0)
    # Under another id it is the same search, whose results go out under the latest id.
    core.data_to_send()
    assert core.receive(messages.encode(NewJob("28", HASH, "131072")), 0.0) == []
    assert core.submit(job, Solution(1, 0), 1, 1.0, 0.0)
    (result,) = core.data_to_send()
    assert b'"job_id":"28"' in result


def test_solutions_of_a_job_whose_difficulty_alone_has_changed_count_if_they_meet_the_new_one() -> None:
    core, first = mining(NewJob("1", HASH, "1000"))
    for number, difficulty in enumerate((2000, 500), 2):
        (event,) = core.receive(messages.encode(NewJob(str(number), HASH, str(difficulty))), 0.0)
        assert isinstance(event, JobReceived)
        for job in (first, event.job):
            assert core.submit(job, Solution(1, event.job.target), 1, 1.0, 0.0)
        assert core.counts(first, Solution(1, event.job.target + 1)) is False
    assert not core.counts(LiveJob("1", bytes.fromhex(HASH), 1000), Solution(1, 0)), "known as an object"
    # Without end, a peer cannot make us remember more than a few.
    for number in range(proto.MAX_EARLIER + 1):
        core.receive(messages.encode(NewJob("1", HASH, str(3000 + number))), 0.0)
    assert not core.counts(first, Solution(1, 0))
    assert core.counts(core._earlier[0], Solution(1, 0))
    core.receive(messages.encode(NewJob("1", "cd" * 32, "1000")), 0.0)
    assert not core._earlier


@pytest.mark.parametrize("between", [NewJob("2", HASH, "0"), NewJob("2", "cd" * 32, "131072")])
def test_a_job_that_comes_again_after_another_is_a_new_one(between: NewJob) -> None:
    core, job = mining()
    core.receive(messages.encode(between), 0.0)
    (event,) = core.receive(messages.encode(NewJob("27", HASH, "131072")), 0.0)
    assert isinstance(event, JobReceived)
    assert not core.counts(job, Solution(1, 0))
    assert core.counts(event.job, Solution(1, 0))


def test_a_node_gets_few_results_of_a_job_and_those_with_gaps() -> None:
    core = connected(paced=True)
    sent: list[tuple[str, float]] = []

    def mine(job: LiveJob, times: range) -> None:
        for tenths in times:
            if core.submit(job, Solution(tenths + 1, 0), 1, 1.0, tenths / 10):
                sent.append((core._job_id, tenths / 10))
            assert core.has_enough(tenths / 10)

    (event,) = core.receive(messages.encode(NewJob("1", HASH, "1000")), 0.0)
    assert isinstance(event, JobReceived)
    mine(event.job, range(1000))
    assert sent == [("1", proto.RESULT_GAP_S * number) for number in range(proto.MAX_RESULTS)]
    # The same job over again is no reason for more; a new one is.
    core.receive(messages.encode(NewJob("1", HASH, "1000")), 0.0)
    assert core.has_enough(1e9)
    for number, new in enumerate((NewJob("2", HASH, "1000"), NewJob("2", "cd" * 32, "1000")), 2):
        core.receive(messages.encode(new), 0.0)
        assert not core.has_enough(0.0)
        assert core._job is not None
        sent.clear()
        mine(core._job, range(1000 * number, 1000 * number + 10))
        assert sent == [("2", 100.0 * number)]


def test_a_pool_gets_every_solution() -> None:
    core, job = mining()
    assert all(core.submit(job, Solution(nonce, 0), 1, 1.0, 0.0) for nonce in range(1, 1000))


@pytest.mark.parametrize(("hashes", "elapsed"), [(-1, 1.0), (2**64, 1.0), (1, math.nan), (1, math.inf)])
def test_figures_that_a_node_refuses_are_our_error(hashes: int, elapsed: float) -> None:
    core, job = mining()
    with pytest.raises(ValueError, match="not valid"):
        core.submit(job, Solution(1, 0), hashes, elapsed, 0.0)
    assert core.data_to_send() == []


@pytest.mark.parametrize("message", [Ready("t"), JobResult("failed", "1", None, None, 0, 0.0)])
def test_a_node_that_speaks_as_a_miner_breaks_the_protocol(message: messages.Message) -> None:
    core, job = mining()
    events = core.receive(messages.encode(NewJob("28", HASH, "1")) + messages.encode(message) + b"more", 0.0)
    assert isinstance(events[0], JobReceived)
    assert events[1:] == [Broken(f"a {type(message).__name__}, which only miners send")]
    assert core.state is MinerState.BROKEN
    assert not core.submit(job, Solution(1, 0), 1, 1.0, 0.0)


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (messages.encode(Ready("T")), Closed(proto.AUTH_FAILED)),
        (messages.encode(Ready("")), Closed(proto.AUTH_FAILED)),
        (messages.encode(NewJob("1", HASH, "1")), Broken("a NewJob, which only nodes send")),
        (messages.encode(CAPTURED["JobResult failed"]), Broken("not allowed in state 'unknown': JobResult")),
        (messages.encode(Ready("t")) * 2, Broken("not allowed in state 'idle': Ready")),
        (messages.encode(Ready("t")) + messages.encode(Ready("T")), Broken("not allowed in state 'idle': Ready")),
        (messages.encode(Ready("T")) * 2, Closed(proto.AUTH_FAILED)),
        (frame(b'"Ready"'), Broken("a frame that is not a message")),
        (b"\xff\xff\xff\xff", Broken("a frame of 4,294,967,295 bytes; 1,024 are allowed")),
    ],
)
def test_the_node_s_end_closes(data: bytes, last: object) -> None:
    core = NodeServer("t", 0.0)
    assert core.receive(data, 0.0)[-1] == last
    assert core.state is NodeState.CLOSED


def test_the_node_s_end_waits_for_ready_so_long() -> None:
    core = NodeServer("t", 100.0)
    assert core.deadline == 100.0 + proto.READY_TIMEOUT_S
    assert core.tick(109.9) == []
    assert core.tick(110.0) == [Closed(proto.AUTH_TIMEOUT)]
    assert core.tick(111.0) == []
    core = NodeServer("t", 100.0)
    core.receive(messages.encode(Ready("t")), 101.0)
    assert core.deadline is None
    assert core.tick(1000.0) == []


# --- tables ---


@pytest.mark.parametrize(("state", "table"), [(MinerState, MINER_TRANSITIONS), (NodeState, NODE_TRANSITIONS)])
def test_every_state_is_reached_and_only_the_last_one_is_an_end(
    state: type[MinerState] | type[NodeState], table: dict[tuple[Any, Any], Any]
) -> None:
    first, *rest = state
    assert {*table.values()} >= {*rest}
    assert {left for left, _ in table} == {first, *rest[:-1]}


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    documented = tables("docs/node-protocol.md", "state", "event", "next state", "what happens")
    assert [[tuple(map(code, row[:3])) for row in rows] for rows in documented] == [
        [(state.value, event.value, following.value) for (state, event), following in transitions.items()]
        for transitions in (MINER_TRANSITIONS, NODE_TRANSITIONS)
    ]
    assert all(row[3].endswith(".") for rows in documented for row in rows)


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    rows = dict(table("docs/node-protocol.md", "what", "value"))
    assert rows["application protocol (ALPN)"] == f"`{proto.ALPN}`"
    assert rows["server name (SNI)"] == f"`{proto.SERVER_NAME}`"
    assert rows["handshake, with each address of the host"] == f"within {link.HANDSHAKE_S:g} s"
    assert rows["the miner pings"].startswith(f"every {link.PING_S:g} s: ")
    assert f"idle for {quic_node.IDLE_TIMEOUT_S:g} s" in rows["the miner pings"]
    assert rows["the miner gives up an idle node"] == f"after {link.IDLE_S:g} s"
    assert rows["largest frame"] == f"{MAX_FRAME:,} bytes of JSON"
    assert rows["largest token"] == f"{messages.MAX_TOKEN} bytes"
    assert rows["bytes on their way, after which further frames wait"] == f"{quic.MAX_IN_FLIGHT:,}"
    assert rows["bytes of other frames that may wait"] == f"{quic.MAX_WAITING:,}"
    assert rows["results that may wait; more are late"] == str(link.MAX_WAITING)
    assert rows["earlier jobs of the same header whose solutions count"] == str(proto.MAX_EARLIER)
    numbers = {
        row[0]: row[1] for row in table("docs/node-protocol.md", "for a node (`--node-addr`)", "value", "because")
    }
    assert list(numbers.values()) == [str(proto.MAX_RESULTS), f"{proto.RESULT_GAP_S:g}"]


def test_the_examples_of_the_page_are_what_is_sent() -> None:
    examples = [messages.decode(example.strip().encode()) for example in fenced("docs/node-protocol.md", "json")]
    assert [messages.encode(example)[4:].decode() + "\n" for example in examples] == fenced(
        "docs/node-protocol.md", "json"
    )
    assert [type(example) for example in examples] == [Ready, NewJob, JobResult]


def test_quoted_log_lines_are_in_the_code() -> None:
    said = templates()
    quoted = [row[2] for row in table("docs/node-protocol.md", "it ends with", "for the miner", "the log says")]
    quoted += [row[0] for rows in tables("docs/mining-with-a-node.md", "the log says", "what to do") for row in rows]
    assert len(quoted) >= 15
    assert not [line for line in quoted if not any(template.matches(code(line)) for template in said)]


def test_every_misbehaviour_is_documented() -> None:
    rows = table("docs/mining-with-a-node.md", "`--misbehave`", "what it does")
    assert [code(row[0]) for row in rows] == [*map(str, quic_node.NodeMisbehaviour)]
    (option,) = (option for option in cli.commands["dev-node"].params if option.name == "misbehave")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == [*map(str, quic_node.NodeMisbehaviour)]
