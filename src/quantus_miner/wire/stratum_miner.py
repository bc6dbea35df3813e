"""A miner's side of a stratum connection: bytes of the pool in, events out. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.wire import stratum
from quantus_miner.wire.lines import LineSplitter, LineTooLongError
from quantus_miner.wire.shares import ShareBook
from quantus_miner.wire.stratum import BadJobError, BreachError

if TYPE_CHECKING:
    import msgspec

    from quantus_miner.model import LiveJob
    from quantus_miner.wire.shares import PendingShare

NO_REPLY: Final = "no reply"
"""Reason of a share whose verdict never came."""
MAX_BAD_JOBS: Final = 3
"""Jobs in a row that cannot be mined before the pool is given up: what is mined meanwhile is likely worth nothing."""
LOGIN_REQUEST: Final = 1
"""Id of the first request."""


class State(StrEnum):
    """Where a miner stands with its pool."""

    CONNECTED = "connected"
    LOGGING_IN = "logging in"
    WAITING = "waiting for a job"
    MINING = "mining"
    REFUSED = "refused"
    BROKEN = "broken"


class Step(StrEnum):
    """What can happen on the connection."""

    LOGIN = "we log in"
    LOGIN_TAKEN = "the pool takes our login"
    LOGIN_REFUSED = "the pool refuses our login"
    JOB = "a job comes"
    BAD_JOB = "a job comes that cannot be mined"
    SHARE = "we send a share"
    VERDICT = "a share is judged"
    UNJUDGED = "a share's time is up"
    SESSION_LOST = "the pool says that it does not know our session any more"
    KEEPALIVE = "we send a keepalive"
    BREACH = "the pool breaks the protocol or is silent for too long"


TRANSITIONS: Final = {
    (State.CONNECTED, Step.LOGIN): State.LOGGING_IN,
    (State.LOGGING_IN, Step.LOGIN_TAKEN): State.WAITING,
    (State.LOGGING_IN, Step.LOGIN_REFUSED): State.REFUSED,
    (State.LOGGING_IN, Step.BREACH): State.BROKEN,
    (State.WAITING, Step.JOB): State.MINING,
    (State.WAITING, Step.BAD_JOB): State.WAITING,
    (State.WAITING, Step.KEEPALIVE): State.WAITING,
    (State.WAITING, Step.SESSION_LOST): State.BROKEN,
    (State.WAITING, Step.BREACH): State.BROKEN,
    (State.MINING, Step.JOB): State.MINING,
    (State.MINING, Step.BAD_JOB): State.MINING,
    (State.MINING, Step.SHARE): State.MINING,
    (State.MINING, Step.VERDICT): State.MINING,
    (State.MINING, Step.UNJUDGED): State.MINING,
    (State.MINING, Step.SESSION_LOST): State.BROKEN,
    (State.MINING, Step.KEEPALIVE): State.MINING,
    (State.MINING, Step.BREACH): State.BROKEN,
}
"""Where a step leads. Of the pool's steps one that is not listed is a breach; of our own it raises KeyError."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: for the reply to the login, between keepalives, of silence, for a verdict, and for the first job."""

    login_s: float = 10.0
    keepalive_s: float = 30.0
    silence_s: float = 90.0
    verdict_s: float = 30.0
    first_job_s: float = 600.0


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The pool knows us."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """``job`` replaces the one before."""

    job: LiveJob


@dataclass(frozen=True, slots=True)
class BadJob:
    """A job that cannot be mined. ``mining``: there is one before, which stays in force."""

    reason: str
    mining: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a share of ``job``. ``latency_s``: seconds since it was sent."""

    job: LiveJob
    accepted: bool
    stale: bool
    reason: str
    latency_s: float
    nonce: int


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The end: the pool will not have us."""

    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The end: nothing more can be done on this connection."""

    reason: str


Event = LoggedIn | NewJob | BadJob | Judged | LoginRefused | Broken


class MinerCore:
    """One connection, from the login on, which is in ``data_to_send`` at once. After LoginRefused or Broken it is over.

    ``login``: ``<wallet>.<worker>``. ``agent``: ``<name>/<version>``.
    """

    def __init__(self, login: str, agent: str, now: float, timing: Timing | None = None) -> None:
        self.state = State.CONNECTED
        self._timing = timing or Timing()
        self._lines = LineSplitter()
        self._book = ShareBook()
        self._session = ""
        self._requests = LOGIN_REQUEST - 1
        self._bad_jobs = 0
        self._out = bytearray()
        self._began = self._heard = self._kept = now
        self._step(Step.LOGIN)
        self._send("login", {"login": login, "pass": "x", "agent": agent})

    @property
    def deadline(self) -> float:
        """When ``tick`` has something to do next, if nothing happens before."""
        if self.state is State.LOGGING_IN:
            return self._began + self._timing.login_s
        times = [self._kept + self._timing.keepalive_s, self._heard + self._timing.silence_s]
        if self.state is State.WAITING:
            times.append(self._began + self._timing.first_job_s)
        if self._book.oldest_sent is not None:
            times.append(self._book.oldest_sent + self._timing.verdict_s)
        return min(times)

    def data_to_send(self) -> bytes:
        """What is to be written to the pool now; it is given once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What the pool's bytes mean."""
        events: list[Event] = []
        self._heard = now
        if self._is_over:
            return events
        try:
            for line in self._lines.feed(data):
                self._on_message(stratum.decode(line, stratum.FromPool), now, events)
                if self._is_over:
                    break
        except (BreachError, LineTooLongError) as error:
            self._break(str(error), events)
        return events

    def tick(self, now: float) -> list[Event]:
        """What the time means; to be called at ``deadline``, harmless at any other time."""
        events: list[Event] = []
        if self._is_over:
            return events
        if self.state is State.LOGGING_IN:
            if now >= self._began + self._timing.login_s:
                self._break(f"no reply to the login within {self._timing.login_s:g} s", events)
            return events
        if now >= self._heard + self._timing.silence_s:
            self._break(f"no byte for {self._timing.silence_s:g} s", events)
            return events
        if self.state is State.WAITING and now >= self._began + self._timing.first_job_s:
            # Another login may get one, or lead to another machine of the pool.
            self._break(f"no job within {self._timing.first_job_s:g} s", events)
            return events
        self._give_up(now - self._timing.verdict_s, now, events)
        if now >= self._kept + self._timing.keepalive_s:
            self._kept = now
            self._step(Step.KEEPALIVE)
            self._send("keepalived", {"id": self._session})
        return events

    def submit(self, job: LiveJob, nonce: int, value: int, now: float) -> bool:
        """Sends a share; False where ``job``, by identity, can no longer count, or this nonce was sent before.

        ``value``: the hash of ``nonce``. Raises ValueError for a nonce that does not begin with the job's extranonce.
        """
        raw = nonce.to_bytes(64)
        if not raw.startswith(job.prefix):
            raise ValueError(f"nonce {raw.hex()} does not begin with extranonce {job.prefix.hex()}")
        if self.state is not State.MINING or not self._book.enter(self._requests + 1, job, nonce, now):
            return False
        self._step(Step.SHARE)
        share = {"id": self._session, "job_id": job.id, "nonce": raw.hex(), "result": f"{value:0128x}"}
        self._send("submit", share)
        return True

    def close(self, now: float) -> list[Event]:
        """The connection has ended: the shares that will get no verdict any more."""
        events: list[Event] = []
        self._judge_late(self._book.expire(float("inf")), now, events)
        return events

    @property
    def _is_over(self) -> bool:
        return self.state in (State.REFUSED, State.BROKEN)

    def _on_message(self, message: stratum.FromPool, now: float, events: list[Event]) -> None:
        if message.method == "job":
            params = stratum.decode(message.params, stratum.JobParams)
            # Some pools put the job's fields where others have "job".
            body = params.job if bytes(params.job) != b"null" else message.params
            self._on_job(body, events, clean=params.clean_jobs)
        elif message.method is None and self.state is State.LOGGING_IN and message.id == LOGIN_REQUEST:
            self._on_login_reply(message, events)
        elif message.method is None and (share := self._book.settle(message.id)) is not None:
            self._step(Step.VERDICT)
            reason, code = _refusal(message)
            stale = stratum.is_stale(reason, code)
            events.append(Judged(share.job, not reason, stale, reason, now - share.sent, share.nonce))
            self._look_for_lost_session(message, events)
        elif message.method is None and self.state is not State.LOGGING_IN:
            self._look_for_lost_session(message, events)
        # What is left: keepalives' replies, verdicts that come too late, methods that we do not know.

    def _look_for_lost_session(self, reply: stratum.FromPool, events: list[Event]) -> None:
        """The reply may be to a share or a keepalive."""
        reason, _ = _refusal(reply)
        if stratum.is_session_lost(reason):
            self._step(Step.SESSION_LOST)
            events.append(Broken(f"it has lost our session: {reason}"))

    def _on_login_reply(self, message: stratum.FromPool, events: list[Event]) -> None:
        if (error := stratum.parse_error(message.error)) is not None:
            self._step(Step.LOGIN_REFUSED)
            events.append(LoginRefused(error[0]))
            return
        result = stratum.decode(message.result, stratum.LoginResult)
        if result.status != stratum.OK or len(result.id) > stratum.MAX_ID:
            raise BreachError("a reply to the login that is neither OK nor an error")
        self._step(Step.LOGIN_TAKEN)
        self._session = result.id
        events.append(LoggedIn())
        if bytes(result.job) != b"null":
            self._on_job(result.job, events, clean=True)

    def _on_job(self, body: msgspec.Raw, events: list[Event], *, clean: bool) -> None:
        try:
            job = stratum.parse_job(body)
        except BadJobError as error:
            self._peer_step(Step.BAD_JOB)
            self._bad_jobs += 1
            if self._bad_jobs == MAX_BAD_JOBS:
                raise BreachError(
                    f"{MAX_BAD_JOBS} jobs in a row that cannot be mined, the last because {error}"
                ) from None
            events.append(BadJob(str(error), self.state is State.MINING))
            return
        self._peer_step(Step.JOB)
        self._bad_jobs = 0
        if (new := self._book.take_job(job, clean=clean)) is not None:
            events.append(NewJob(new))

    def _give_up(self, before: float, now: float, events: list[Event]) -> None:
        late = self._book.expire(before)
        for _ in late:
            self._step(Step.UNJUDGED)
        self._judge_late(late, now, events)

    @staticmethod
    def _judge_late(shares: list[PendingShare], now: float, events: list[Event]) -> None:
        events += [Judged(share.job, False, False, NO_REPLY, now - share.sent, share.nonce) for share in shares]

    def _break(self, reason: str, events: list[Event]) -> None:
        self._step(Step.BREACH)
        events.append(Broken(reason))

    def _step(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state, step]

    def _peer_step(self, step: Step) -> None:
        if (self.state, step) not in TRANSITIONS:
            raise BreachError(f"{step} while we are {self.state}")
        self._step(step)

    def _send(self, method: str, params: dict[str, Any]) -> None:
        self._requests += 1
        self._out += stratum.encode({"id": self._requests, "method": method, "params": params})


def _refusal(message: stratum.FromPool) -> tuple[str, object]:
    """Why a share was refused, and the code of the error; an empty text if it was accepted.

    A reply that cannot be understood is a refusal.
    """
    if (error := stratum.parse_error(message.error)) is not None:
        return error
    if bytes(message.result) == b"true":
        return "", None
    try:
        status = stratum.decode(message.result, stratum.StatusResult).status
    except BreachError as breach:
        return str(breach), None
    return ("" if status == stratum.OK else stratum.legible(status) or stratum.NO_REASON), None
