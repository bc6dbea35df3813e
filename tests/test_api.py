"""Bodies of the job API, without any I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.model import MAX, NonceRange, Order, Pow, Solution, Status, target_from_difficulty
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
    assert (job.id, job.pow, job.target, job.header) == ("j", Pow.SHA3, 5, b"\xab" * 32)
    assert job.ranges == (NonceRange(1, MAX),)


def test_a_difficulty_makes_a_job_of_qpow_poseidon2_and_without_a_range_the_search_is_endless() -> None:
    job = parse_mine(body(distance_threshold=None, difficulty="1000", nonce_start=None, nonce_end=None), 7)
    assert (job.pow, job.target) == (Pow.POSEIDON2, target_from_difficulty(1000))
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
    assert parse_mine(body(distance_threshold="0" * 300 + "7"), 7).target == 7
    assert parse_mine(body(distance_threshold="0"), 7).target == 0


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
        assert 0 <= job.target <= MAX


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
