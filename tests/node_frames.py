"""Frames and messages between node and miner, for tests."""

from __future__ import annotations

import itertools
from typing import Final

from hypothesis import strategies as st

from quantus_miner.model import MAX
from quantus_miner.wire import messages
from quantus_miner.wire.messages import JobResult, NewJob, Ready

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
