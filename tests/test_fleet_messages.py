"""Messages between a hub and its rigs, and the URL of an invitation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.model import MAX, LiveJob
from quantus_miner.wire import fleet
from quantus_miner.wire.core import RemoteProtocolError


@given(st.integers(1, MAX), st.binary(max_size=8), st.integers(0, MAX), st.binary(min_size=32, max_size=32))
def test_a_job_arrives_as_it_was_sent(difficulty: int, prefix: bytes, target: int, header: bytes) -> None:
    for job in (LiveJob("1", header, difficulty, prefix), LiveJob("1", header, difficulty, prefix, target)):
        message = fleet.decode(fleet.encode(fleet.job_message(job, "run", 7, b"hub")), fleet.JobMessage)
        arrived = fleet.live_job(message, b"abc")
        assert arrived is not None
        assert (arrived.header, arrived.difficulty, arrived.target) == (job.header, job.difficulty, job.target)
        assert arrived.prefix == (prefix + b"hubabc" if prefix else b"")
        assert (fleet.live_job(message, None) is None) == bool(prefix)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * 5000, "a message of more than 4,096 bytes"),
        (b"{", "a message that is not JSON"),
        (b'{"header":"00"}', "a malformed message: Expected `str` matching regex"),
    ],
)
def test_messages_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(reason)):
        fleet.decode(data, fleet.SolutionMessage)


@pytest.mark.parametrize("text", ["", "tls://host", "tls://a.b.c@host", "nats://x@y", "tls://a.SU.00@h:1"])
def test_urls_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fleet.URL_FORM)):
        fleet.parse_hub_url(text)
