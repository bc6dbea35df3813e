"""Both ends of the node protocol. No I/O; times in seconds.

Write each frame of ``data_to_send`` to the stream in one piece: a node loses its place in a frame that is split.
"""

from __future__ import annotations

import hmac
import re
import sys
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from quantus_miner.model import MAX, LiveJob, Solution
from quantus_miner.wire import messages
from quantus_miner.wire.core import Broken, Core, JobReceived, JobRefused, RemoteProtocolError
from quantus_miner.wire.frames import FrameReader
from quantus_miner.wire.messages import JobResult, NewJob, Ready

ALPN: Final = "quantus-miner/2"
SERVER_NAME: Final = "localhost"
AUTH_FAILED: Final = "auth failed"
"""A node closes the connection with this if it does not accept our token."""
AUTH_TIMEOUT: Final = "auth timeout"
PROTOCOL_ERROR: Final = "protocol error"
READY_TIMEOUT_S: Final = 10.0
"""Seconds that a miner has to send Ready."""
MAX_EARLIER: Final = 256
"""Earlier jobs with the header of the current one whose solutions may still count."""
MAX_RESULTS: Final = 4
"""Most results of one job that we send a node. It disconnects after 8 in a row that it cannot queue; this is half."""
RESULT_GAP_S: Final = 5.0
"""Seconds between two of them: longer than a node needs to import a block, when it reads nothing from its queue."""


class MinerState(StrEnum):
    """States of the miner's end."""

    CONNECTED = "connected"
    WAITING = "waiting"
    MINING = "mining"
    BROKEN = "broken"


class MinerEvent(StrEnum):
    """What can happen at the miner's end."""

    SEND_READY = "send Ready"
    JOB = "NewJob"
    BAD_JOB = "invalid NewJob"
    SEND_RESULT = "send JobResult"
    VIOLATION = "violation"


MINER_TRANSITIONS: Final = {
    (MinerState.CONNECTED, MinerEvent.SEND_READY): MinerState.WAITING,
    (MinerState.WAITING, MinerEvent.JOB): MinerState.MINING,
    (MinerState.WAITING, MinerEvent.BAD_JOB): MinerState.WAITING,
    (MinerState.WAITING, MinerEvent.VIOLATION): MinerState.BROKEN,
    (MinerState.MINING, MinerEvent.JOB): MinerState.MINING,
    (MinerState.MINING, MinerEvent.BAD_JOB): MinerState.WAITING,
    (MinerState.MINING, MinerEvent.SEND_RESULT): MinerState.MINING,
    (MinerState.MINING, MinerEvent.VIOLATION): MinerState.BROKEN,
}
"""Where an event leads. One of the peer's that is not listed is a violation; one of ours raises LocalProtocolError."""


class NodeState(StrEnum):
    """States of the node's end of one connection."""

    UNKNOWN = "unknown"
    IDLE = "idle"
    WORKING = "working"
    CLOSED = "closed"


class NodeEvent(StrEnum):
    """What can happen at the node's end."""

    READY = "Ready"
    BAD_TOKEN = "wrong token"  # noqa: S105 - an event
    TIMEOUT = "time-out"
    SEND_JOB = "send NewJob"
    RESULT = "JobResult"
    VIOLATION = "violation"


NODE_TRANSITIONS: Final = {
    (NodeState.UNKNOWN, NodeEvent.READY): NodeState.IDLE,
    (NodeState.UNKNOWN, NodeEvent.BAD_TOKEN): NodeState.CLOSED,
    (NodeState.UNKNOWN, NodeEvent.TIMEOUT): NodeState.CLOSED,
    (NodeState.UNKNOWN, NodeEvent.VIOLATION): NodeState.CLOSED,
    (NodeState.IDLE, NodeEvent.SEND_JOB): NodeState.WORKING,
    (NodeState.IDLE, NodeEvent.RESULT): NodeState.IDLE,
    (NodeState.IDLE, NodeEvent.VIOLATION): NodeState.CLOSED,
    (NodeState.WORKING, NodeEvent.SEND_JOB): NodeState.WORKING,
    (NodeState.WORKING, NodeEvent.RESULT): NodeState.WORKING,
    (NodeState.WORKING, NodeEvent.VIOLATION): NodeState.CLOSED,
}
"""The same for the node's end."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The miner sent the right token."""


@dataclass(frozen=True, slots=True)
class ResultReceived:
    """The miner reports how a job ended. ``result`` may name any job, even one that never existed."""

    result: JobResult


@dataclass(frozen=True, slots=True)
class Closed:
    """The last event: close the connection with application code 0. ``reason``: what to tell the miner."""

    reason: str


MinerSideEvent = JobReceived | JobRefused | Broken
NodeSideEvent = Authenticated | ResultReceived | Closed | Broken


class NodeMiner(Core[MinerState, MinerEvent, MinerSideEvent]):
    """The miner's end. Ready, with the token, is in ``data_to_send`` at once. Broken is its last event.

    ``paced``: the peer is a node, which needs one solution of a job and has a short queue for those of all its miners.
    """

    def __init__(self, token: str, now: float, *, paced: bool = False) -> None:
        super().__init__(
            "QUIC miner", MINER_TRANSITIONS, MinerState.CONNECTED, MinerEvent.VIOLATION, FrameReader(), now
        )
        self._paced = paced
        self._job: LiveJob | None = None
        self._job_id = ""  # the latest one that the peer gave the job
        self.result_bytes = 0
        """Bytes of the longest frame that a result of the current job can need."""
        self._earlier: deque[LiveJob] = deque(maxlen=MAX_EARLIER)
        self._results = 0  # sent under this id
        self._result_at = 0.0
        self._step(MinerEvent.SEND_READY)
        self._out.append(messages.encode(Ready(token)))

    def counts(self, job: LiveJob, solution: Solution) -> bool:
        """Return whether a solution of ``job``, by identity, counts for the current job.

        Jobs that differ only in their difficulty have solutions in common: those that meet the current one count.
        """
        if self._job is None or self.is_over:
            return False
        earlier = any(job is known for known in self._earlier)
        return job is self._job or (earlier and solution.value <= self._job.target)

    def has_enough(self, now: float) -> bool:
        """Return whether the peer should get no more results of the current job, or none yet."""
        early = now < self._result_at + RESULT_GAP_S
        return self._paced and self._results > 0 and (early or self._results >= MAX_RESULTS)

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float, now: float) -> bool:
        """Send a solution. Return False if it does not count, or if the peer has enough of them.

        ``hashes``: 0 to 2^64 - 1. ``elapsed``: finite seconds. Raises ValueError if they are not.
        """
        if not self.counts(job, solution) or self.has_enough(now):
            return False
        frame = messages.encode(_completed(self._job_id, solution.nonce, hashes, float(elapsed)))
        self._step(MinerEvent.SEND_RESULT)
        self._out.append(frame)
        self._results += 1
        self._result_at = now
        return True

    def _on_message(self, body: bytes, events: list[MinerSideEvent]) -> None:
        message = messages.decode(body)
        if not isinstance(message, NewJob):
            raise RemoteProtocolError(f"a {type(message).__name__}, which only miners send")
        if (event := self._on_job(message)) is not None:
            events.append(event)

    def _on_job(self, message: NewJob) -> JobReceived | JobRefused | None:
        """Return None if the job goes on: it is the same one, perhaps under another id."""
        before, self._job = self._job, None
        try:
            job, self.result_bytes = _live_job(message)
        except ValueError as error:
            self._peer_step(MinerEvent.BAD_JOB)
            self._earlier.clear()
            try:
                self._out.append(messages.encode(JobResult("failed", message.job_id, None, None, 0, 0.0)))
            except ValueError:  # its id leaves no room for an answer
                return JobRefused(f"invalid job, not answered: {error}", mining=False)
            return JobRefused(f"invalid job {message.job_id[:40]!r}, answered as failed: {error}", mining=False)
        self._peer_step(MinerEvent.JOB)
        same_header = before is not None and before.header == job.header
        same = before is not None and same_header and before.difficulty == job.difficulty
        if job.id != self._job_id or not same:
            self._results = 0
        self._job_id = job.id
        if same:
            self._job = before
            return None
        if before is not None and same_header:
            self._earlier.append(before)
        else:
            self._earlier.clear()
        self._job = job
        return JobReceived(job)


def _live_job(message: NewJob) -> tuple[LiveJob, int]:
    """Return the job in a message, and the length of its longest result. Raises ValueError, with one line."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", message.mining_hash):
        raise ValueError("mining_hash must be 64 hex characters")
    digits = message.difficulty.lstrip("0") if re.fullmatch(r"[0-9]+", message.difficulty) else ""
    # 155 digits hold every 512-bit number.
    if not 1 <= len(digits) <= 155 or int(digits) > MAX:
        raise ValueError("difficulty must be a decimal number from 1 to 2^512 - 1")
    try:
        longest = messages.encode(_completed(message.job_id, MAX, messages.U64, sys.float_info.min))
    except ValueError:
        raise ValueError("job_id is so long that no result of it would fit into a frame") from None
    return LiveJob(message.job_id, bytes.fromhex(message.mining_hash), int(digits)), len(longest)


def _completed(job_id: str, nonce: int, hashes: int, elapsed: float) -> JobResult:
    return JobResult("completed", job_id, f"{nonce:x}", f"{nonce:0128x}", hashes, elapsed)


class NodeServer(Core[NodeState, NodeEvent, NodeSideEvent]):
    """The node's end, for one miner, which must know ``token``. Closed and Broken are last events."""

    def __init__(self, token: str, now: float, *, ready_timeout_s: float = READY_TIMEOUT_S) -> None:
        super().__init__("QUIC node", NODE_TRANSITIONS, NodeState.UNKNOWN, NodeEvent.VIOLATION, FrameReader(), now)
        self._token = token
        self._ready_by = now + ready_timeout_s

    @property
    def is_authenticated(self) -> bool:
        """Return True if the miner sent the right token and the connection is not over, so that it can be sent jobs."""
        return self.state in (NodeState.IDLE, NodeState.WORKING)

    @property
    def deadline(self) -> float | None:
        """See ``Core.deadline``."""
        return self._ready_by if self.state is NodeState.UNKNOWN else None

    def send_job(self, job: NewJob) -> None:
        """Send an authenticated miner a job, which replaces the previous one. Raises ValueError if it is too large."""
        frame = messages.encode(job)
        self._step(NodeEvent.SEND_JOB)
        self._out.append(frame)

    def _on_time(self, now: float, events: list[NodeSideEvent]) -> None:
        if self.deadline is not None and now >= self.deadline:
            self._step(NodeEvent.TIMEOUT)
            events.append(Closed(AUTH_TIMEOUT))

    def _on_message(self, body: bytes, events: list[NodeSideEvent]) -> None:
        match messages.decode(body):
            case JobResult() as result:
                self._peer_step(NodeEvent.RESULT)
                events.append(ResultReceived(result))
            case Ready(token) if self.state is NodeState.UNKNOWN and not self._knows(token):
                self._peer_step(NodeEvent.BAD_TOKEN)
                events.append(Closed(AUTH_FAILED))
            case Ready():
                self._peer_step(NodeEvent.READY)
                events.append(Authenticated())
            case NewJob():
                raise RemoteProtocolError("a NewJob, which only nodes send")

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())
