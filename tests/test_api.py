"""Bodies of the job API and the job book, without any I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from quantus_miner import jobbook
from quantus_miner.jobbook import BookFullError, DuplicateJobError, Event, JobBook, Record
from quantus_miner.model import MAX, NonceRange, Order, Pow, Solution, Status, limit_from_difficulty
from quantus_miner.wire.api import (
    FIELDS,
    InvalidRequestError,
    encode_result,
    encode_unknown_result,
    is_implausible,
    parse_mine,
)

GOOD = {
    "job_id": "j",
    "mining_hash": "ab" * 32,
    "distance_threshold": "5",
    "nonce_start": f"{1:0128x}",
    "nonce_end": f"{MAX:0128x}",
}


def body(**changes: Any) -> bytes:
    """GOOD with changes; None removes a field."""
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not None}).encode()


def refusal(request: bytes) -> str:
    with pytest.raises(InvalidRequestError) as error:
        parse_mine(request, 7)
    return error.value.message


def test_a_node_s_job_is_a_job_of_qpow_sha3() -> None:
    job = parse_mine(body(unknown=[1]), 7)
    assert (job.id, job.pow, job.limit, job.header) == ("j", Pow.SHA3, 5, b"\xab" * 32)
    assert job.ranges == (NonceRange(1, MAX),)


def test_a_difficulty_makes_a_job_of_qpow_poseidon2_and_without_a_range_the_search_is_endless() -> None:
    job = parse_mine(body(distance_threshold=None, difficulty="1000", nonce_start=None, nonce_end=None), 7)
    assert (job.pow, job.limit) == (Pow.POSEIDON2, limit_from_difficulty(1000))
    assert job.order is Order.WALK
    assert job.ranges == (NonceRange(7, 2**283 - 1), NonceRange(0, 6))
    job = parse_mine(body(nonce_start=None, nonce_end=None), 7)
    assert (job.pow, job.order) == (Pow.SHA3, Order.COUNTING)
    assert job.ranges == (NonceRange(7, MAX), NonceRange(0, 6))


@pytest.mark.parametrize(
    ("changes", "implausible"),
    [
        ({"distance_threshold": "0"}, False),
        ({"distance_threshold": "1"}, True),
        ({"distance_threshold": str(2**400 - 1)}, True),
        ({"distance_threshold": str(2**400)}, False),
        ({"distance_threshold": str(MAX)}, False),
        ({"distance_threshold": None, "difficulty": str(MAX)}, False),
    ],
)
def test_a_threshold_that_is_probably_a_difficulty(changes: dict[str, str | None], implausible: bool) -> None:
    assert is_implausible(parse_mine(body(**changes), 7)) == implausible


HEX64, HEX128, NOT_HEX = "mining_hash must be 64 hex characters", "must be 128 hex characters", "must be valid hex"

# In the order of the contract: each body is wrong in this and in all later ways.
MESSAGES = [
    ("job_id", "", "job_id cannot be empty"),
    ("mining_hash", "abc", HEX64),
    ("mining_hash", "zz" * 32, "mining_hash " + NOT_HEX),
    ("distance_threshold", "12a", "distance_threshold must be a valid decimal number"),
    ("nonce_start", "1", "nonce_start " + HEX128),
    ("nonce_end", "1", "nonce_end " + HEX128),
    ("nonce_start", "g" * 128, "nonce_start " + NOT_HEX),
    ("nonce_end", "g" * 128, "nonce_end " + NOT_HEX),
    ("nonce_start", "f" * 128, "nonce_start must be <= nonce_end"),
]


@pytest.mark.parametrize("first", range(len(MESSAGES)))
def test_the_first_failure_in_the_contract_s_order_wins(first: int) -> None:
    wrong = {name: value for name, value, _ in reversed(MESSAGES[first:])}
    assert refusal(body(**{"nonce_end": f"{MAX - 1:0128x}"} | wrong)) == MESSAGES[first][2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job_id": None}, "job_id cannot be empty"),
        ({"mining_hash": None}, HEX64),
        ({"mining_hash": "0x" + "ab" * 31}, "mining_hash " + NOT_HEX),
        ({"mining_hash": "ab " * 21 + "a"}, "mining_hash " + NOT_HEX),
        ({"distance_threshold": ""}, "distance_threshold must be a valid decimal number"),
        ({"distance_threshold": "-1"}, "distance_threshold must be a valid decimal number"),
        ({"distance_threshold": "1_0"}, "distance_threshold must be a valid decimal number"),
        ({"distance_threshold": "\u0661"}, "distance_threshold must be a valid decimal number"),
        ({"distance_threshold": str(MAX + 1)}, "distance_threshold must be a valid decimal number"),
        ({"distance_threshold": "9" * 5000}, "distance_threshold must be a valid decimal number"),
        ({"distance_threshold": None, "difficulty": "x"}, "difficulty must be a valid decimal number"),
        ({"distance_threshold": None, "difficulty": "0"}, "difficulty must not be zero"),
        ({"distance_threshold": None}, "exactly one of distance_threshold and difficulty must be given"),
        ({"difficulty": "1"}, "exactly one of distance_threshold and difficulty must be given"),
        ({"nonce_end": None}, "nonce_start and nonce_end must be given together"),
        ({"nonce_start": None}, "nonce_start and nonce_end must be given together"),
        ({"job_id": "x" * 129}, "job_id must be at most 128 characters"),
        ({"job_id": 5}, "job_id must be a string"),
        ({"mining_hash": ["ab"]}, "mining_hash must be a string"),
        ({"difficulty": 5, "distance_threshold": None}, "difficulty must be a string"),
    ],
)
def test_further_messages(changes: dict[str, Any], message: str) -> None:
    assert refusal(body(**changes)) == message


@pytest.mark.parametrize(
    "request_body",
    [b"", b"{", b"\xff\xfe", b'{"job_id":"\xff"}', b'{"job_id":"\\ud800"}', b"[" * 60_000, b'{"a":' * 10_000, b"{}{}"],
)
def test_what_is_no_json_is_refused(request_body: bytes) -> None:
    assert refusal(request_body) == "request body must be valid JSON"


@pytest.mark.parametrize("request_body", [b"[]", b"1", b"null", b'"a"'])
def test_what_is_no_object_is_refused(request_body: bytes) -> None:
    assert refusal(request_body) == "request body must be a JSON object"


def test_leading_zeros_do_not_make_a_number_too_long() -> None:
    assert parse_mine(body(distance_threshold="0" * 300 + "7"), 7).limit == 7
    assert parse_mine(body(distance_threshold="0"), 7).limit == 0


values = st.one_of(
    st.none(), st.text(max_size=140), st.integers(), st.sampled_from([*GOOD.values(), "g" * 128]), st.lists(st.none())
)


@given(st.one_of(st.binary(), st.dictionaries(st.sampled_from(FIELDS), values).map(lambda d: json.dumps(d).encode())))
def test_any_body_is_a_job_or_a_refusal(request_body: bytes) -> None:
    try:
        job = parse_mine(request_body, 7)
    except InvalidRequestError as error:
        assert len(error.job_id) <= 128
    else:
        assert 0 < len(job.id) <= 128
        assert len(job.header) == 32
        assert 0 <= job.limit <= MAX


def test_results_have_the_types_that_nodes_parse() -> None:
    solved = encode_result("j", Status.COMPLETED, Solution(0x1F, 0), 123456, 1.5)
    assert json.loads(solved) == {
        "status": "completed",
        "job_id": "j",
        "nonce": "1f",
        "work": f"{0x1F:0128x}",
        "hash_count": 123456,
        "elapsed_time": 1.5,
    }
    assert encode_result("j", Status.RUNNING, None, 0, 0).endswith(b'"hash_count":0,"elapsed_time":0.0}')
    assert encode_unknown_result("j").startswith(b'{"status":"not_found","job_id":"j","nonce":null,"work":null,')


def test_every_transition_that_is_not_listed_raises() -> None:
    for status in Status:
        for event in Event:
            book: JobBook[None] = JobBook()
            record = book.add("j", None, now=0)
            if status is not Status.RUNNING:
                record.status = status
                with pytest.raises(KeyError):
                    book.happen(record, event, now=1)
            else:
                book.happen(record, event, now=1)
                assert record.status is jobbook.TRANSITIONS[status, event]
                assert record.ended == 1


def test_ended_jobs_stay_readable_as_long_as_promised() -> None:
    book: JobBook[None] = JobBook()
    failed, read, unread = (book.add(job_id, None, now=0) for job_id in ("failed", "read", "unread"))
    book.happen(failed, Event.EXHAUSTED, now=1000)
    for record in (read, unread):
        book.happen(record, Event.SOLVED, now=1000)
    book.poll(read, now=1001)
    book.forget(now=1299.9)
    assert list(book.records) == [failed, read, unread]
    book.forget(now=1300)
    assert list(book.records) == [unread]
    book.forget(now=4599.9)
    assert list(book.records) == [unread]
    book.forget(now=4600)
    assert list(book.records) == []


def test_a_full_book_refuses_but_ended_jobs_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobbook, "MAX_ACTIVE", 2)
    monkeypatch.setattr(jobbook, "MAX_JOBS", 3)
    book: JobBook[None] = JobBook()
    solved = book.add("solved", None, now=0)
    cancelled = book.add("cancelled", None, now=0)
    with pytest.raises(BookFullError):
        book.add("third", None, now=0)
    book.happen(solved, Event.SOLVED, now=1)
    book.happen(cancelled, Event.CANCEL, now=1)
    book.add("third", None, now=1)
    book.add("fourth", None, now=1)
    assert [record.job_id for record in book.records] == ["solved", "third", "fourth"]
    book.happen(book.active[0], Event.SOLVED, now=2)
    with pytest.raises(BookFullError):  # all that ended are solutions nobody has read
        book.add("fifth", None, now=2)
    book.poll(solved, now=3)
    book.add("fifth", None, now=3)
    assert "solved" not in [record.job_id for record in book.records]


class BookMachine(RuleBasedStateMachine):
    """Whatever happens: no solution is lost before it was read or an hour has passed, and sizes are bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.book: JobBook[int] = JobBook()
        self.now = 0.0
        self.next_id = 0
        self.unread: dict[str, float] = {}

    def pick(self, data: st.DataObject, records: tuple[Record[int], ...]) -> Record[int]:
        return data.draw(st.sampled_from(records))

    @rule(seconds=st.sampled_from([0.0, 1.0, 200.0, 301.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.book.forget(self.now)
        for job_id, ended in self.unread.items():
            record = self.book.get(job_id)
            assert (record is not None) == (self.now < ended + 3600)
            assert record is None or record.status is Status.COMPLETED
        self.unread = {job_id: ended for job_id, ended in self.unread.items() if self.now < ended + 3600}

    @rule()
    def add(self) -> None:
        self.next_id += 1
        self.book.add(str(self.next_id), self.next_id, self.now)
        with pytest.raises(DuplicateJobError):
            self.book.add(str(self.next_id), 0, self.now)

    @precondition(lambda self: self.book.active)
    @rule(data=st.data(), event=st.sampled_from(Event))
    def end(self, data: st.DataObject, event: Event) -> None:
        record = self.pick(data, self.book.active)
        self.book.happen(record, event, self.now)
        assert record not in self.book.active
        if event is Event.SOLVED:
            self.unread[record.job_id] = self.now

    @precondition(lambda self: self.book.records)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        record = self.pick(data, self.book.records)
        self.book.poll(record, self.now)
        self.unread.pop(record.job_id, None)
        assert record.polled == self.now


TestBook = BookMachine.TestCase
