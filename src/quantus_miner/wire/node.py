"""Both ends of the node protocol as state machines without I/O: bytes in, events out, and frames to be sent.

Each frame in an outbox is to be written to the stream in one piece: a node's reader can lose its place on a split one.
"""

from __future__ import annotations

import hmac
import re
import sys
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from quantus_miner.model import MAX, LiveJob, Solution
from quantus_miner.wire import messages
from quantus_miner.wire.frames import FrameError, FrameReader
from quantus_miner.wire.messages import JobResult, NewJob, Ready

ALPN: Final = "quantus-miner/2"
SERVER_NAME: Final = "localhost"
AUTH_FAILED: Final = "auth failed"
"""Why a node closes: it does not know our token."""
AUTH_TIMEOUT: Final = "auth timeout"
PROTOCOL_ERROR: Final = "protocol error"
MAX_EARLIER: Final = 256
"""Jobs before the current one, of the same header, whose solutions may still count."""
MAX_RESULTS: Final = 4
"""Results of one job that a node is sent: half of the 8 in a row after which one that cannot queue them disconnects."""
RESULT_GAP_S: Final = 5.0
"""Seconds between two of them: longer than a node takes to import a block, in which it takes none from its queue."""


class MinerState(Enum):
    """Where the miner's end stands."""

    CONNECTED = "connected"
    WAITING = "waiting"
    MINING = "mining"
    BROKEN = "broken"


class MinerEvent(Enum):
    """What can happen at the miner's end."""

    SEND_READY = "send Ready"
    JOB = "NewJob"
    BAD_JOB = "invalid NewJob"
    SEND_RESULT = "send JobResult"
    VIOLATION = "violation"


MINER_TRANSITIONS: Final = {
    (MinerState.CONNECTED, MinerEvent.SEND_READY): MinerState.WAITING,
    (MinerState.CONNECTED, MinerEvent.VIOLATION): MinerState.BROKEN,
    (MinerState.WAITING, MinerEvent.JOB): MinerState.MINING,
    (MinerState.WAITING, MinerEvent.BAD_JOB): MinerState.WAITING,
    (MinerState.WAITING, MinerEvent.VIOLATION): MinerState.BROKEN,
    (MinerState.MINING, MinerEvent.JOB): MinerState.MINING,
    (MinerState.MINING, MinerEvent.BAD_JOB): MinerState.WAITING,
    (MinerState.MINING, MinerEvent.SEND_RESULT): MinerState.MINING,
    (MinerState.MINING, MinerEvent.VIOLATION): MinerState.BROKEN,
}
"""Where an event leads. Whatever the peer does wrong is a violation; an unlisted event is our error, a KeyError."""


class NodeState(Enum):
    """Where the node's end stands with one miner."""

    UNKNOWN = "unknown"
    IDLE = "idle"
    WORKING = "working"
    CLOSED = "closed"


class NodeEvent(Enum):
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
class JobReceived:
    """``job`` replaces the one before."""

    job: LiveJob


@dataclass(frozen=True, slots=True)
class JobRefused:
    """The node sent a job that cannot be mined, and there is none now. ``reason``: one line for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the protocol: the last event there is. ``reason``: what it sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The miner's token is right."""


@dataclass(frozen=True, slots=True)
class ResultReceived:
    """The miner says how a job went; ``result`` may be of any job, or of none."""

    result: JobResult


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is to be closed, with application code 0. ``reason``: what to tell the miner."""

    reason: str


class MinerCore:
    """The miner's end of one connection. ``outbox``: frames to be sent, in order; whoever sends them clears it.

    ``paced``: the peer is a node, which wants one solution of a job and has a short queue for those of all its miners.
    """

    def __init__(self, token: str, *, paced: bool = False) -> None:
        self.state = MinerState.CONNECTED
        self.outbox: list[bytes] = []
        self._token = token
        self._paced = paced
        self._reader = FrameReader()
        self._job: LiveJob | None = None
        self._job_id = ""  # the latest that the peer gave the job
        self.result_bytes = 0
        """Length of the longest frame that a result of the present job can be."""
        self._earlier: deque[LiveJob] = deque(maxlen=MAX_EARLIER)
        self._results = 0  # sent under this id
        self._result_at = 0.0

    def start(self) -> None:
        """Sends the credentials; the first thing to do."""
        self._happen(MinerEvent.SEND_READY)
        self.outbox.append(messages.encode(Ready(self._token)))

    def receive(self, data: bytes) -> list[JobReceived | JobRefused | Violation]:
        """What the node's bytes mean. Nothing may be received after a Violation."""
        if self.state is MinerState.CONNECTED:
            return [self._violate("data before our first message")]
        events: list[JobReceived | JobRefused | Violation] = []
        bodies, error = self._reader.feed(data)
        try:
            for body in bodies:
                message = messages.decode(body)
                if not isinstance(message, NewJob):
                    raise FrameError(f"a {type(message).__name__}, which only miners send")  # noqa: TRY301
                if (event := self._take(message)) is not None:
                    events.append(event)
            if error is not None:
                raise error
        except FrameError as violation:
            events.append(self._violate(str(violation)))
        return events

    def counts(self, job: LiveJob, solution: Solution) -> bool:
        """Whether a solution is one of the present job.

        ``job`` is known as an object. One that only had another difficulty had the same solutions, of which those
        count that meet the present difficulty.
        """
        if self._job is None:
            return False
        earlier = any(job is known for known in self._earlier)
        return job is self._job or (earlier and solution.value <= self._job.limit)

    def has_enough(self, now: float) -> bool:
        """Whether the peer is to get no more results of the present job, or none yet. ``now``: seconds."""
        early = now < self._result_at + RESULT_GAP_S
        return self._paced and self._results > 0 and (early or self._results >= MAX_RESULTS)

    def result(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float, now: float) -> bool:
        """Sends a solution; False if it does not count, or if the peer has enough of them.

        ``hashes``: 0 .. 2^64 - 1; ``elapsed``: finite seconds. Raises ValueError if they are not.
        """
        if not self.counts(job, solution) or self.has_enough(now):
            return False
        frame = messages.encode(_completed(self._job_id, solution.nonce, hashes, float(elapsed)))
        self._happen(MinerEvent.SEND_RESULT)
        self.outbox.append(frame)
        self._results += 1
        self._result_at = now
        return True

    def _take(self, message: NewJob) -> JobReceived | JobRefused | None:
        """None if the job goes on: it is the same, though maybe under another id."""
        before, self._job = self._job, None
        try:
            job, self.result_bytes = _live_job(message)
        except ValueError as error:
            self._happen(MinerEvent.BAD_JOB)
            self._earlier.clear()
            try:
                self.outbox.append(messages.encode(JobResult("failed", message.job_id, None, None, 0, 0.0)))
            except ValueError:  # its id leaves no room for an answer
                return JobRefused(f"invalid job, not answered: {error}")
            return JobRefused(f"invalid job {message.job_id[:40]!r}, answered as failed: {error}")
        self._happen(MinerEvent.JOB)
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

    def _violate(self, reason: str) -> Violation:
        self._job = None
        self._happen(MinerEvent.VIOLATION)
        return Violation(reason)

    def _happen(self, event: MinerEvent) -> None:
        self.state = MINER_TRANSITIONS[self.state, event]


def _live_job(message: NewJob) -> tuple[LiveJob, int]:
    """The job that a message describes, and the length of its longest result. Raises ValueError, one line."""
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


class NodeCore:
    """The node's end of one connection, with one miner that has to know ``token``; ``outbox`` as with MinerCore."""

    def __init__(self, token: str) -> None:
        self.state = NodeState.UNKNOWN
        self.outbox: list[bytes] = []
        self._token = token
        self._reader = FrameReader()

    def receive(self, data: bytes) -> list[Authenticated | ResultReceived | Closed]:
        """What the miner's bytes mean. Nothing may be received after Closed."""
        events: list[Authenticated | ResultReceived | Closed] = []
        bodies, error = self._reader.feed(data)
        try:
            for body in bodies:
                events.append(self._take(messages.decode(body)))
                if self.state is NodeState.CLOSED:
                    return events
            if error is not None:
                raise error
        except FrameError:
            events.append(self._close(NodeEvent.VIOLATION, PROTOCOL_ERROR))
        return events

    def time_out(self) -> Closed | None:
        """The time for Ready is over; None if it came."""
        return self._close(NodeEvent.TIMEOUT, AUTH_TIMEOUT) if self.state is NodeState.UNKNOWN else None

    def send_job(self, job: NewJob) -> None:
        """Sends a job to an authenticated miner, in place of the one before."""
        self._happen(NodeEvent.SEND_JOB)
        self.outbox.append(messages.encode(job))

    def _take(self, message: messages.Message) -> Authenticated | ResultReceived | Closed:
        if isinstance(message, JobResult) and self.state is not NodeState.UNKNOWN:
            self._happen(NodeEvent.RESULT)
            return ResultReceived(message)
        if not isinstance(message, Ready) or self.state is not NodeState.UNKNOWN:
            raise FrameError(f"a {type(message).__name__} out of turn")
        if not hmac.compare_digest(message.token.encode(), self._token.encode()):
            return self._close(NodeEvent.BAD_TOKEN, AUTH_FAILED)
        self._happen(NodeEvent.READY)
        return Authenticated()

    def _close(self, event: NodeEvent, reason: str) -> Closed:
        self._happen(event)
        return Closed(reason)

    def _happen(self, event: NodeEvent) -> None:
        self.state = NODE_TRANSITIONS[self.state, event]
