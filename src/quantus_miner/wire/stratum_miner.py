"""The miner's side of a stratum connection. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.errors import legible
from quantus_miner.wire import stratum
from quantus_miner.wire.core import Broken, Core, JobReceived, JobRefused, RemoteProtocolError
from quantus_miner.wire.lines import LineSplitter
from quantus_miner.wire.shares import ShareBook
from quantus_miner.wire.stratum import BadJobError

if TYPE_CHECKING:
    import msgspec

    from quantus_miner.model import LiveJob
    from quantus_miner.wire.shares import PendingShare

NO_REPLY: Final = "no reply"
"""The reason given for a share whose verdict never came."""
MAX_BAD_JOBS: Final = 3
"""Jobs in a row that cannot be mined before we disconnect: what is mined meanwhile is likely worth nothing."""
LOGIN_REQUEST: Final = 1
"""The id of the first request."""


class StratumMinerState(StrEnum):
    """States of the miner's side."""

    CONNECTED = "connected"
    LOGGING_IN = "logging in"
    WAITING = "waiting for a job"
    MINING = "mining"
    REFUSED = "refused"
    BROKEN = "broken"


class StratumMinerStep(StrEnum):
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
    (StratumMinerState.CONNECTED, StratumMinerStep.LOGIN): StratumMinerState.LOGGING_IN,
    (StratumMinerState.LOGGING_IN, StratumMinerStep.LOGIN_TAKEN): StratumMinerState.WAITING,
    (StratumMinerState.LOGGING_IN, StratumMinerStep.LOGIN_REFUSED): StratumMinerState.REFUSED,
    (StratumMinerState.LOGGING_IN, StratumMinerStep.BREACH): StratumMinerState.BROKEN,
    (StratumMinerState.WAITING, StratumMinerStep.JOB): StratumMinerState.MINING,
    (StratumMinerState.WAITING, StratumMinerStep.BAD_JOB): StratumMinerState.WAITING,
    (StratumMinerState.WAITING, StratumMinerStep.KEEPALIVE): StratumMinerState.WAITING,
    (StratumMinerState.WAITING, StratumMinerStep.SESSION_LOST): StratumMinerState.BROKEN,
    (StratumMinerState.WAITING, StratumMinerStep.BREACH): StratumMinerState.BROKEN,
    (StratumMinerState.MINING, StratumMinerStep.JOB): StratumMinerState.MINING,
    (StratumMinerState.MINING, StratumMinerStep.BAD_JOB): StratumMinerState.MINING,
    (StratumMinerState.MINING, StratumMinerStep.SHARE): StratumMinerState.MINING,
    (StratumMinerState.MINING, StratumMinerStep.VERDICT): StratumMinerState.MINING,
    (StratumMinerState.MINING, StratumMinerStep.UNJUDGED): StratumMinerState.MINING,
    (StratumMinerState.MINING, StratumMinerStep.SESSION_LOST): StratumMinerState.BROKEN,
    (StratumMinerState.MINING, StratumMinerStep.KEEPALIVE): StratumMinerState.MINING,
    (StratumMinerState.MINING, StratumMinerStep.BREACH): StratumMinerState.BROKEN,
}
"""Where a step leads. A step of the pool's that is not listed is a breach; one of ours raises LocalProtocolError."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for the reply to the login, between keepalives, of silence, for a verdict, and for the first job."""

    login_s: float = 10.0
    keepalive_s: float = 30.0
    silence_s: float = 90.0
    verdict_s: float = 30.0
    first_job_s: float = 600.0


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The pool has accepted our login."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on a share of ``job``. ``latency_s``: seconds since it was sent."""

    job: LiveJob
    accepted: bool
    stale: bool
    reason: str
    latency_s: float
    nonce: int


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """The last event: the pool refuses our login."""

    reason: str


Event = LoggedIn | JobReceived | JobRefused | Judged | LoginRefused | Broken


class StratumMiner(Core[StratumMinerState, StratumMinerStep, Event]):
    """The miner's side. The login is in ``data_to_send`` at once. LoginRefused and Broken are last events.

    ``login``: ``<wallet>.<worker>``. ``agent``: ``<name>/<version>``.
    """

    def __init__(self, login: str, agent: str, now: float, timing: Timing | None = None) -> None:
        super().__init__(
            "stratum miner", TRANSITIONS, StratumMinerState.CONNECTED, StratumMinerStep.BREACH, LineSplitter(), now
        )
        self._timing = timing or Timing()
        self._book = ShareBook()
        self._session = ""
        self._requests = LOGIN_REQUEST - 1
        self._bad_jobs = 0
        self._began = self._kept = now
        self._step(StratumMinerStep.LOGIN)
        self._send("login", {"login": login, "pass": "x", "agent": agent})

    @property
    def deadline(self) -> float:
        """See ``Core.deadline``."""
        if self.state is StratumMinerState.LOGGING_IN:
            return self._began + self._timing.login_s
        times = [self._kept + self._timing.keepalive_s, self._heard + self._timing.silence_s]
        if self.state is StratumMinerState.WAITING:
            times.append(self._began + self._timing.first_job_s)
        if self._book.oldest_sent is not None:
            times.append(self._book.oldest_sent + self._timing.verdict_s)
        return min(times)

    def _on_time(self, now: float, events: list[Event]) -> None:
        if self.state is StratumMinerState.LOGGING_IN:
            if now >= self._began + self._timing.login_s:
                self._break(f"no reply to the login within {self._timing.login_s:g} s", events)
            return
        if now >= self._heard + self._timing.silence_s:
            self._break(f"no byte for {self._timing.silence_s:g} s", events)
            return
        if self.state is StratumMinerState.WAITING and now >= self._began + self._timing.first_job_s:
            # Another login may get one, or lead to another machine of the pool.
            self._break(f"no job within {self._timing.first_job_s:g} s", events)
            return
        self._give_up(now - self._timing.verdict_s, now, events)
        if now >= self._kept + self._timing.keepalive_s:
            self._kept = now
            self._step(StratumMinerStep.KEEPALIVE)
            self._send("keepalived", {"id": self._session})

    def submit(self, job: LiveJob, nonce: int, value: int, now: float) -> bool:
        """Send a share. Return False if ``job``, by identity, no longer counts, or if this nonce was sent before.

        ``value``: the hash of ``nonce``. Raises ValueError for a nonce that does not begin with the job's extranonce.
        """
        raw = nonce.to_bytes(64)
        if not raw.startswith(job.prefix):
            raise ValueError(f"nonce {raw.hex()} does not begin with extranonce {job.prefix.hex()}")
        if self.state is not StratumMinerState.MINING or not self._book.enter(self._requests + 1, job, nonce, now):
            return False
        self._step(StratumMinerStep.SHARE)
        share = {"id": self._session, "job_id": job.id, "nonce": raw.hex(), "result": f"{value:0128x}"}
        self._send("submit", share)
        return True

    def close(self, now: float) -> list[Judged]:
        """Return a verdict for each share still pending. Call it once the connection has ended."""
        return self._judge_late(self._book.expire(float("inf")), now)

    def _on_message(self, line: bytes, events: list[Event]) -> None:
        message = stratum.decode(line, stratum.FromPool)
        if message.method == "job":
            params = stratum.decode(message.params, stratum.JobParams)
            # Some pools put the job's fields where others have "job".
            body = params.job if bytes(params.job) != b"null" else message.params
            self._on_job(body, events, clean=params.clean_jobs)
        elif message.method is None and self.state is StratumMinerState.LOGGING_IN and message.id == LOGIN_REQUEST:
            self._on_login_reply(message, events)
        elif message.method is None and (share := self._book.settle(message.id)) is not None:
            self._peer_step(StratumMinerStep.VERDICT)
            reason, code = _refusal(message)
            stale = stratum.is_stale(reason, code)
            events.append(Judged(share.job, not reason, stale, reason, self._heard - share.sent, share.nonce))
            self._look_for_lost_session(message, events)
        elif message.method is None and self.state is not StratumMinerState.LOGGING_IN:
            self._look_for_lost_session(message, events)
        # Everything else is ignored: replies to keepalives, verdicts that come too late, unknown methods.

    def _look_for_lost_session(self, reply: stratum.FromPool, events: list[Event]) -> None:
        """End the connection if a reply, to a share or a keepalive, says that the pool no longer knows our login."""
        reason, _ = _refusal(reply)
        if stratum.is_session_lost(reason):
            self._peer_step(StratumMinerStep.SESSION_LOST)
            events.append(Broken(f"it has lost our session: {reason}"))

    def _on_login_reply(self, message: stratum.FromPool, events: list[Event]) -> None:
        if (error := stratum.parse_error(message.error)) is not None:
            self._peer_step(StratumMinerStep.LOGIN_REFUSED)
            events.append(LoginRefused(error[0]))
            return
        result = stratum.decode(message.result, stratum.LoginResult)
        if result.status != stratum.OK or len(result.id) > stratum.MAX_ID:
            raise RemoteProtocolError("a reply to the login that is neither OK nor an error")
        self._peer_step(StratumMinerStep.LOGIN_TAKEN)
        self._session = result.id
        events.append(LoggedIn())
        if bytes(result.job) != b"null":
            self._on_job(result.job, events, clean=True)

    def _on_job(self, body: msgspec.Raw, events: list[Event], *, clean: bool) -> None:
        try:
            job = stratum.parse_job(body)
        except BadJobError as error:
            self._peer_step(StratumMinerStep.BAD_JOB)
            self._bad_jobs += 1
            if self._bad_jobs == MAX_BAD_JOBS:
                raise RemoteProtocolError(
                    f"{MAX_BAD_JOBS} jobs in a row that cannot be mined, the last because {error}"
                ) from None
            events.append(JobRefused(str(error), self.state is StratumMinerState.MINING))
            return
        self._peer_step(StratumMinerStep.JOB)
        self._bad_jobs = 0
        if (new := self._book.take_job(job, clean=clean)) is not None:
            events.append(JobReceived(new))

    def _give_up(self, before: float, now: float, events: list[Event]) -> None:
        late = self._book.expire(before)
        for _ in late:
            self._step(StratumMinerStep.UNJUDGED)
        events += self._judge_late(late, now)

    @staticmethod
    def _judge_late(shares: list[PendingShare], now: float) -> list[Judged]:
        return [Judged(share.job, False, False, NO_REPLY, now - share.sent, share.nonce) for share in shares]

    def _send(self, method: str, params: dict[str, Any]) -> None:
        self._requests += 1
        self._out.append(stratum.encode({"id": self._requests, "method": method, "params": params}))


def _refusal(message: stratum.FromPool) -> tuple[str, object]:
    """Return why a reply refuses a share, and its error code. The reason is empty if the share was accepted.

    A reply that cannot be understood is a refusal.
    """
    if (error := stratum.parse_error(message.error)) is not None:
        return error
    if bytes(message.result) == b"true":
        return "", None
    try:
        status = stratum.decode(message.result, stratum.StatusResult).status
    except RemoteProtocolError as breach:
        return str(breach), None
    return ("" if status == stratum.OK else legible(status) or stratum.NO_REASON), None
