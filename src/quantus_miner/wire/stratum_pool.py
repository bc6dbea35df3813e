"""A pool's side of a stratum connection: bytes of the miner in, events out. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.wire import stratum
from quantus_miner.wire.lines import LineSplitter, LineTooLongError
from quantus_miner.wire.stratum import BreachError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantus_miner.model import LiveJob

SILENCE_S: Final = 90.0
"""Seconds without a byte after which a miner counts as gone."""

RequestId = int | str | None


class State(StrEnum):
    """Where a pool stands with a miner."""

    CONNECTED = "connected"
    JUDGING = "judging the login"
    OPEN = "open"
    REFUSED = "refused"
    BROKEN = "broken"


class Step(StrEnum):
    """What can happen on the connection."""

    LOGIN = "the miner logs in"
    TAKE_LOGIN = "we take the login"
    REFUSE_LOGIN = "we refuse the login"
    JOB = "we send a job"
    SHARE = "a share comes"
    VERDICT = "we judge a share"
    KEEPALIVE = "a keepalive comes, which is answered"
    BREACH = "the miner breaks the protocol or is silent for too long"


TRANSITIONS: Final = {
    (State.CONNECTED, Step.LOGIN): State.JUDGING,
    (State.CONNECTED, Step.BREACH): State.BROKEN,
    (State.JUDGING, Step.TAKE_LOGIN): State.OPEN,
    (State.JUDGING, Step.REFUSE_LOGIN): State.REFUSED,
    (State.JUDGING, Step.BREACH): State.BROKEN,
    (State.OPEN, Step.JOB): State.OPEN,
    (State.OPEN, Step.SHARE): State.OPEN,
    (State.OPEN, Step.VERDICT): State.OPEN,
    (State.OPEN, Step.KEEPALIVE): State.OPEN,
    (State.OPEN, Step.BREACH): State.BROKEN,
}
"""Where a step leads. Of the miner's steps one that is not listed is a breach; of our own it raises KeyError."""


@dataclass(frozen=True, slots=True)
class LoginAsked:
    """To be answered by ``take_login`` or ``refuse_login``. ``login``: ``<wallet>.<worker>``."""

    login: str
    agent: str


@dataclass(frozen=True, slots=True)
class ShareCame:
    """To be answered by ``judge`` with this ``request``. The other fields are as the miner wrote them."""

    request: RequestId
    job_id: str
    nonce: str
    result: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The end: nothing more can be done on this connection."""

    reason: str


Event = LoginAsked | ShareCame | Broken


class PoolCore:
    """One connection of a miner. ``session``: its id; no share with another is taken."""

    def __init__(self, session: str, now: float, *, silence_s: float = SILENCE_S) -> None:
        self.state = State.CONNECTED
        self._session = session
        self._silence_s = silence_s
        self._lines = LineSplitter()
        self._login_request: RequestId = None
        self._out = bytearray()
        self._heard = now

    @property
    def deadline(self) -> float:
        """When ``tick`` has something to do next, if nothing happens before."""
        return self._heard + self._silence_s

    def data_to_send(self) -> bytes:
        """What is to be written to the miner now; it is given once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """What the miner's bytes mean; each event is to be answered before the next is asked for, to the end."""
        self._heard = now
        try:
            for line in self._lines.feed(data):
                if self._is_over:
                    return
                event = self._on_message(stratum.decode(line, stratum.FromMiner))
                if event is not None:
                    yield event
        except (BreachError, LineTooLongError) as error:
            yield self._break(str(error))

    def tick(self, now: float) -> Broken | None:
        """What the time means; to be called at ``deadline``, harmless at any other time."""
        if self._is_over or now < self.deadline:
            return None
        return self._break(f"no byte for {self._silence_s:g} s")

    def take_login(self, job: LiveJob | None) -> None:
        """Lets the miner in, with its first job; None: that comes later."""
        self._step(Step.TAKE_LOGIN)
        body = None if job is None else stratum.job_body(job)
        result = {"id": self._session, "status": stratum.OK, "extensions": ["keepalive"], "job": body}
        self._reply(self._login_request, result)

    def refuse_login(self, message: str) -> None:
        """Sends the miner away; the connection is to be closed."""
        self._step(Step.REFUSE_LOGIN)
        self._reply_error(self._login_request, message)

    def send_job(self, job: LiveJob, *, clean: bool) -> None:
        """Gives the miner another job. ``clean``: shares of earlier ones are stale from now on."""
        self._step(Step.JOB)
        self._write({"jsonrpc": "2.0", "method": "job", "params": {"clean_jobs": clean, "job": stratum.job_body(job)}})

    def judge(self, request: RequestId, refusal: str | None) -> None:
        """The verdict of a share; ``refusal``: why it is not taken."""
        self._step(Step.VERDICT)
        if refusal is None:
            self._reply(request, {"status": stratum.OK})
        else:
            self._reply_error(request, refusal)

    @property
    def _is_over(self) -> bool:
        return self.state in (State.REFUSED, State.BROKEN)

    def _on_message(self, message: stratum.FromMiner) -> Event | None:
        match message.method:
            case "login":
                self._peer_step(Step.LOGIN)
                self._login_request = message.id
                login = stratum.decode(message.params, stratum.LoginParams)
                return LoginAsked(stratum.legible(login.login), stratum.legible(login.agent))
            case "submit":
                self._peer_step(Step.SHARE)
                share = stratum.decode(message.params, stratum.SubmitParams)
                if share.id == self._session:
                    return ShareCame(message.id, share.job_id, share.nonce, share.result)
                self.judge(message.id, "Invalid session")
            case "keepalived":
                self._peer_step(Step.KEEPALIVE)
                self._reply(message.id, {"status": stratum.KEEPALIVED})
        # Pools do not answer what is left, such as mining.subscribe and mining.authorize.
        return None

    def _break(self, reason: str) -> Broken:
        self._step(Step.BREACH)
        return Broken(reason)

    def _step(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state, step]

    def _peer_step(self, step: Step) -> None:
        if (self.state, step) not in TRANSITIONS:
            raise BreachError(f"{step} while the connection is {self.state}")
        self._step(step)

    def _reply(self, request: RequestId, result: dict[str, Any]) -> None:
        self._write({"id": request, "error": None, "result": result})

    def _reply_error(self, request: RequestId, message: str) -> None:
        self._write({"id": request, "error": {"code": -1, "message": message}, "result": None})

    def _write(self, message: dict[str, Any]) -> None:
        self._out += stratum.encode(message)
