"""The base of both ends of both protocols: bytes and times in, events and messages out, and a transition table.

A core is one end of one connection. Its owner hands it what arrives (``receive``) and the time (``tick``), handles the
events that come back, and sends what ``data_to_send`` holds. Only the owner does I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from quantus_miner.model import LiveJob

StateT = TypeVar("StateT", bound=StrEnum)
StepT = TypeVar("StepT", bound=StrEnum)
EventT = TypeVar("EventT")


class LocalProtocolError(Exception):
    """We tried a step that the connection's state does not allow: a bug. Names the core, the state and the step."""


class RemoteProtocolError(Exception):
    """The peer broke the protocol. ``str()`` says how, in one line.

    Parsers raise it. A core turns it into its last event, Broken, so that the events before it are not lost.
    """


@dataclass(frozen=True, slots=True)
class Broken:
    """The last event: the connection cannot continue and must be closed."""

    reason: str


@dataclass(frozen=True, slots=True)
class JobReceived:
    """At a miner's end: ``job`` replaces the previous one."""

    job: LiveJob


@dataclass(frozen=True, slots=True)
class JobRefused:
    """At a miner's end: a job arrived that cannot be mined. ``mining``: the previous one stays in force."""

    reason: str
    mining: bool


class Reader(Protocol):
    """Splits a stream into messages."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that ``data`` completes, then raise RemoteProtocolError if what follows is invalid."""


class Core(ABC, Generic[StateT, StepT, EventT]):
    """One end of one connection. It is over once it reaches a state that no transition leaves.

    ``name`` is for errors. ``breach`` is the step that is taken when the peer breaks the protocol.
    """

    def __init__(
        self,
        name: str,
        transitions: Mapping[tuple[StateT, StepT], StateT],
        state: StateT,
        breach: StepT,
        reader: Reader,
        now: float,
    ) -> None:
        self.state = state
        self._name = name
        self._transitions = transitions
        self._ends = {*transitions.values()} - {left for left, _ in transitions}
        self._breach = breach
        self._reader = reader
        self._heard = now
        self._out: list[bytes] = []

    @property
    def is_over(self) -> bool:
        """Return True if the connection has ended: nothing can be sent any more, and what arrives is ignored."""
        return self.state in self._ends

    @property
    def deadline(self) -> float | None:
        """Return the time at which to call ``tick`` if nothing happens before. None: never."""
        return None

    def receive(self, data: bytes, now: float) -> list[EventT | Broken]:
        """Return what the peer's bytes mean, in order. It does not matter how the stream is cut.

        All of ``data`` is processed at once, so the connection may be over before its first event is handled.
        """
        events: list[EventT | Broken] = []
        if self.is_over:
            return events
        self._heard = now
        try:
            for message in self._reader.feed(data):
                self._on_message(message, events)
                if self.is_over:
                    break
        except RemoteProtocolError as error:
            self._break(str(error), events)
        return events

    def tick(self, now: float) -> list[EventT | Broken]:
        """Return what the time means. Call it at ``deadline``; it is harmless at any other time."""
        events: list[EventT | Broken] = []
        if not self.is_over:
            self._on_time(now, events)
        return events

    def data_to_send(self) -> list[bytes]:
        """Return the messages to send now, each only once. Nodes need each one in a single write."""
        messages, self._out = self._out, []
        return messages

    @abstractmethod
    def _on_message(self, message: bytes, events: list[EventT | Broken]) -> None:
        """Append the events of one message, which arrived at ``_heard``. Raises RemoteProtocolError."""

    def _on_time(self, now: float, events: list[EventT | Broken]) -> None:
        """Append the events of the time."""

    def _break(self, reason: str, events: list[EventT | Broken]) -> None:
        self._step(self._breach)
        events.append(Broken(reason))

    def _step(self, step: StepT) -> None:
        """Take a step of our own. Raises LocalProtocolError if the state does not allow it."""
        following = self._transitions.get((self.state, step))
        if following is None:
            raise LocalProtocolError(f"{self._name}: not allowed in state '{self.state}': {step}")
        self.state = following

    def _peer_step(self, step: StepT) -> None:
        """Take a step of the peer's. Raises RemoteProtocolError if the state does not allow it."""
        if (self.state, step) not in self._transitions:
            raise RemoteProtocolError(f"not allowed in state '{self.state}': {step}")
        self._step(step)
