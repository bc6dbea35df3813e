"""The node protocol without a network: frames, messages, and both ends joined in memory."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.wire import frames, messages
from quantus_miner.wire.core import RemoteProtocolError
from quantus_miner.wire.frames import MAX_FRAME, FrameReader
from quantus_miner.wire.messages import JobResult, Ready, parse_fingerprint, parse_token

from .conftest import vectors
from .node_frames import CAPTURED, cut, frame, jobs, results, text

EXAMPLES: Final = vectors("protocol_examples")
OLDER: Final = {"pre-auth (ALPN quantus-miner) Ready", "NewJob of api 0.0.3/0.1.0 (miners v3.0.x, v3.1.0)"}
"""Frames of earlier protocols, which this one refuses."""


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
