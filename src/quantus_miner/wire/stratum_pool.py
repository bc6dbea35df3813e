"""The pool's side of a stratum connection. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.errors import legible
from quantus_miner.wire import stratum
from quantus_miner.wire.core import Broken, Core
from quantus_miner.wire.lines import LineSplitter

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob

SILENCE_S: Final = 90.0
"""Seconds without a byte after which a miner is disconnected."""
LOGIN_S: Final = 10.0
"""Seconds that a miner has to log in."""

RequestId = int | str | None


class StratumPoolState(StrEnum):
    """States of the pool's side."""

    CONNECTED = "connected"
    CHECKING = "checking the login"
    OPEN = "open"
    REFUSED = "refused"
    BROKEN = "broken"


class StratumPoolStep(StrEnum):
    """What can happen on the connection."""

    LOGIN = "the miner logs in"
    TAKE_LOGIN = "we take the login"
    REFUSE_LOGIN = "we refuse the login"
    JOB = "we send a job"
    SHARE = "a share comes"
    VERDICT = "we send a verdict"
    KEEPALIVE = "a keepalive comes, which is answered"
    BREACH = "the miner breaks the protocol or is silent for too long"


TRANSITIONS: Final = {
    (StratumPoolState.CONNECTED, StratumPoolStep.LOGIN): StratumPoolState.CHECKING,
    (StratumPoolState.CONNECTED, StratumPoolStep.BREACH): StratumPoolState.BROKEN,
    (StratumPoolState.CHECKING, StratumPoolStep.TAKE_LOGIN): StratumPoolState.OPEN,
    (StratumPoolState.CHECKING, StratumPoolStep.REFUSE_LOGIN): StratumPoolState.REFUSED,
    (StratumPoolState.CHECKING, StratumPoolStep.BREACH): StratumPoolState.BROKEN,
    (StratumPoolState.OPEN, StratumPoolStep.JOB): StratumPoolState.OPEN,
    (StratumPoolState.OPEN, StratumPoolStep.SHARE): StratumPoolState.OPEN,
    (StratumPoolState.OPEN, StratumPoolStep.VERDICT): StratumPoolState.OPEN,
    (StratumPoolState.OPEN, StratumPoolStep.KEEPALIVE): StratumPoolState.OPEN,
    (StratumPoolState.OPEN, StratumPoolStep.BREACH): StratumPoolState.BROKEN,
}
"""Where a step leads. A step of the miner's that is not listed is a breach; one of ours raises LocalProtocolError."""


@dataclass(frozen=True, slots=True)
class LoginAsked:
    """A miner logs in. Answer it with ``take_login`` or ``refuse_login``. ``login``: ``<wallet>.<worker>``."""

    login: str
    agent: str


@dataclass(frozen=True, slots=True)
class ShareCame:
    """A share. Answer it with ``send_verdict`` and this ``request``. The other fields are as the miner wrote them."""

    request: RequestId
    job_id: str
    nonce: str
    result: str


Event = LoginAsked | ShareCame | Broken


class StratumPool(Core[StratumPoolState, StratumPoolStep, Event]):
    """The pool's side. ``session``: the id that every share of this connection must carry."""

    def __init__(self, session: str, now: float, *, login_s: float = LOGIN_S, silence_s: float = SILENCE_S) -> None:
        super().__init__(
            "stratum pool", TRANSITIONS, StratumPoolState.CONNECTED, StratumPoolStep.BREACH, LineSplitter(), now
        )
        self._session = session
        self._began = now
        self._login_s = login_s
        self._silence_s = silence_s
        self._login_request: RequestId = None

    @property
    def deadline(self) -> float:
        """See ``Core.deadline``."""
        silence = self._heard + self._silence_s
        return min(silence, self._began + self._login_s) if self.state is StratumPoolState.CONNECTED else silence

    def take_login(self, job: LiveJob | None) -> None:
        """Accept the login and send the first job. None: it follows later."""
        self._step(StratumPoolStep.TAKE_LOGIN)
        body = None if job is None else stratum.job_body(job)
        result = {"id": self._session, "status": stratum.OK, "extensions": ["keepalive"], "job": body}
        self._reply(self._login_request, result)

    def refuse_login(self, message: str) -> None:
        """Refuse the login. Close the connection once this is sent."""
        self._step(StratumPoolStep.REFUSE_LOGIN)
        self._reply_error(self._login_request, message)

    def send_job(self, job: LiveJob, *, clean: bool) -> None:
        """Send another job. ``clean``: shares of earlier jobs are stale from now on."""
        self._step(StratumPoolStep.JOB)
        self._write({"jsonrpc": "2.0", "method": "job", "params": {"clean_jobs": clean, "job": stratum.job_body(job)}})

    def send_verdict(self, request: RequestId, refusal: str | None) -> None:
        """Send the verdict on a share. ``refusal``: why it does not count, None if it does."""
        self._step(StratumPoolStep.VERDICT)
        if refusal is None:
            self._reply(request, {"status": stratum.OK})
        else:
            self._reply_error(request, refusal)

    def _on_time(self, now: float, events: list[Event]) -> None:
        if now >= self._heard + self._silence_s:
            self._break(f"no byte for {self._silence_s:g} s", events)
        elif now >= self.deadline:
            self._break(f"no login within {self._login_s:g} s", events)

    def _on_message(self, line: bytes, events: list[Event]) -> None:
        message = stratum.decode(line, stratum.FromMiner)
        match message.method:
            case "login":
                self._peer_step(StratumPoolStep.LOGIN)
                self._login_request = message.id
                login = stratum.decode(message.params, stratum.LoginParams)
                events.append(LoginAsked(legible(login.login), legible(login.agent)))
            case "submit":
                self._peer_step(StratumPoolStep.SHARE)
                share = stratum.decode(message.params, stratum.SubmitParams)
                if share.id == self._session:
                    events.append(ShareCame(message.id, share.job_id, share.nonce, share.result))
                else:
                    self.send_verdict(message.id, "Invalid session")
            case "keepalived" | "keepalive":
                self._peer_step(StratumPoolStep.KEEPALIVE)
                self._reply(message.id, {"status": stratum.KEEPALIVED})
        # Like real pools, this one ignores every other method, such as mining.subscribe and mining.authorize.

    def _reply(self, request: RequestId, result: dict[str, Any]) -> None:
        self._write({"id": request, "error": None, "result": result})

    def _reply_error(self, request: RequestId, message: str) -> None:
        self._write({"id": request, "error": {"code": -1, "message": message}, "result": None})

    def _write(self, message: dict[str, Any]) -> None:
        self._out.append(stratum.encode(message))
