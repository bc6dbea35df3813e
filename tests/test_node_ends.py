"""Both ends of the node's protocol."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.model import MAX, LiveJob, Solution
from quantus_miner.wire import messages
from quantus_miner.wire import node as proto
from quantus_miner.wire.core import Broken, JobReceived, JobRefused
from quantus_miner.wire.frames import MAX_FRAME, FrameReader
from quantus_miner.wire.messages import JobResult, NewJob, Ready
from quantus_miner.wire.node import Authenticated, Closed, MinerState, NodeMiner, NodeServer, NodeState, ResultReceived

from .node_frames import CAPTURED, HASH, cut, frame, jobs


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
