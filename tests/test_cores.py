"""The shape that all four protocol ends share, and the two protocols joined in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from quantus_miner.model import LiveJob, Solution
from quantus_miner.wire import messages, node, stratum_miner, stratum_pool
from quantus_miner.wire.core import Broken, Core, JobReceived, LocalProtocolError, RemoteProtocolError
from quantus_miner.wire.messages import JobResult, NewJob
from quantus_miner.wire.node import NodeMiner, NodeServer
from quantus_miner.wire.stratum_miner import StratumMiner
from quantus_miner.wire.stratum_pool import LoginAsked, StratumPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

HEADER: Final = bytes(range(32))
JOB: Final = LiveJob("1", HEADER, 1000, b"\0\4\xf0\5")


@dataclass(frozen=True)
class End:
    """One of the four ends: how it is made, what it is called, and its table."""

    make: Callable[[], Core[Any, Any, Any]]
    name: str
    states: type[StrEnum]
    steps: type[StrEnum]
    table: dict[Any, Any]


ENDS: Final = [
    End(
        lambda: StratumMiner("wallet.rig", "test/1", 0.0),
        *("stratum miner", stratum_miner.StratumMinerState, stratum_miner.StratumMinerStep, stratum_miner.TRANSITIONS),
    ),
    End(
        lambda: StratumPool("session", 0.0),
        *("stratum pool", stratum_pool.StratumPoolState, stratum_pool.StratumPoolStep, stratum_pool.TRANSITIONS),
    ),
    End(lambda: NodeMiner("token", 0.0), "QUIC miner", node.MinerState, node.MinerEvent, node.MINER_TRANSITIONS),
    End(lambda: NodeServer("token", 0.0), "QUIC node", node.NodeState, node.NodeEvent, node.NODE_TRANSITIONS),
]
every_end = pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)


@every_end
def test_each_step_leads_where_the_table_says_or_raises_an_error_that_names_it(end: End) -> None:
    for state in end.states:
        for step in end.steps:
            for take, error, text in (
                ("_step", LocalProtocolError, f"{end.name}: not allowed in state '{state}': {step}"),
                ("_peer_step", RemoteProtocolError, f"not allowed in state '{state}': {step}"),
            ):
                core = end.make()
                core.state = state
                if (state, step) in end.table:
                    getattr(core, take)(step)
                    assert core.state is end.table[state, step]
                else:
                    with pytest.raises(error) as raised:
                        getattr(core, take)(step)
                    assert str(raised.value) == text
                    assert core.state is state


@every_end
def test_a_breach_is_the_last_event_and_nothing_counts_after_it(end: End) -> None:
    core = end.make()
    core.data_to_send()
    # A line that is too long, and a frame that is.
    (last,) = core.receive(b"\xff" * 20_000, 1.0)
    assert isinstance(last, Broken)
    assert core.is_over
    assert core.receive(b"\xff" * 20_000, 2.0) == core.receive(b"", 3.0) == core.tick(1e9) == []
    assert core.data_to_send() == []


@every_end
def test_what_is_to_be_sent_is_given_once(end: End) -> None:
    core = end.make()
    assert len(core.data_to_send()) == (end.name in ("stratum miner", "QUIC miner"))
    assert core.data_to_send() == []


def test_what_an_end_must_not_do_raises_and_sends_nothing() -> None:
    pool = StratumPool("session", 0.0)
    pool.receive(StratumMiner("wallet.rig", "test/1", 0.0).data_to_send()[0], 0.0)
    with pytest.raises(LocalProtocolError, match=r"in state 'checking the login': we send a job$"):
        pool.send_job(JOB, clean=True)
    assert pool.data_to_send() == []
    pool.refuse_login("no")
    pool.data_to_send()
    acts: dict[str, Callable[[], None]] = {
        "we take the login": lambda: pool.take_login(JOB),
        "we refuse the login": lambda: pool.refuse_login("no"),
        "we send a job": lambda: pool.send_job(JOB, clean=True),
        "we send a verdict": lambda: pool.send_verdict(1, None),
    }
    for step, act in acts.items():
        with pytest.raises(LocalProtocolError, match=f"^stratum pool: not allowed in state 'refused': {step}$"):
            act()
    server = NodeServer("token", 0.0)
    with pytest.raises(LocalProtocolError, match=r"^QUIC node: not allowed in state 'unknown': send NewJob$"):
        server.send_job(NewJob("1", HEADER.hex(), "1"))
    assert pool.data_to_send() == server.data_to_send() == []


# --- both ends of a protocol, joined ---


class _Watched(Core[Any, Any, Any]):
    """Remembers the transitions that were taken."""

    def __init__(self, *arguments: Any) -> None:
        self.taken: set[tuple[StrEnum, StrEnum]] = set()
        super().__init__(*arguments)

    def _step(self, step: StrEnum) -> None:
        before = self.state
        super()._step(step)
        self.taken.add((before, step))


class WatchedMiner(NodeMiner, _Watched):
    pass


class WatchedServer(NodeServer, _Watched):
    pass


@dataclass
class Joined:
    """A miner and a node with a stream between them that delivers one byte at a time."""

    now: float = 1000.0
    miner_events: list[object] = field(default_factory=list)
    node_events: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.miner = WatchedMiner("token", self.now)
        self.server = WatchedServer("token", self.now)

    def carry(self) -> None:
        """Deliver all bytes, both ways."""
        for byte in b"".join(self.miner.data_to_send()):
            self.node_events += self.server.receive(bytes([byte]), self.now)
        for byte in b"".join(self.server.data_to_send()):
            self.miner_events += self.miner.receive(bytes([byte]), self.now)

    def take(self) -> tuple[list[object], list[object]]:
        """Return the events of the miner and of the node since the last call."""
        events = self.miner_events, self.node_events
        self.miner_events, self.node_events = [], []
        return events


def test_a_conversation_of_a_miner_and_a_node() -> None:
    wire = Joined()
    wire.carry()
    assert wire.take() == ([], [node.Authenticated()])
    wire.server.send_job(NewJob("27", HEADER.hex(), "1000"))
    wire.carry()
    (event,), nothing = wire.take()
    assert isinstance(event, JobReceived)
    assert (event.job, nothing) == (LiveJob("27", HEADER, 1000), [])
    assert wire.miner.submit(event.job, Solution(0x1F, 5), 123456, 1.5, wire.now)
    wire.carry()
    result = JobResult("completed", "27", "1f", f"{0x1F:0128x}", 123456, 1.5)
    assert wire.take() == ([], [node.ResultReceived(result)])


def test_every_transition_of_the_node_protocol_is_taken_and_no_other() -> None:
    miner: set[object] = set()
    server: set[object] = set()

    def watch(wire: Joined) -> None:
        miner.update(wire.miner.taken)
        server.update(wire.server.taken)

    good, bad = NewJob("1", HEADER.hex(), "1000"), NewJob("2", HEADER.hex(), "0")
    for jobs in ([], [good]):
        wire = Joined()
        wire.carry()
        for job in (bad, *jobs, *jobs):
            wire.server.send_job(job)
            wire.carry()
        mined = [event.job for event in wire.miner_events if isinstance(event, JobReceived)]
        assert len(mined) == len(jobs)
        assert all(wire.miner.submit(job, Solution(1, 0), 1, 1.0, wire.now) for job in mined)
        if jobs:
            wire.server.send_job(bad)
        wire.carry()
        if jobs:
            wire.server.send_job(good)
            wire.carry()
        wire.miner.receive(b"\xff" * 4, wire.now)
        wire.server.receive(b"\xff" * 4, wire.now)
        watch(wire)

    wire = Joined()
    wire.carry()
    wire.server.receive(messages.encode(JobResult("failed", "1", None, None, 0, 0.0)), wire.now)
    wire.server.receive(b"\xff" * 4, wire.now)
    watch(wire)

    wrong, late, garbage = WatchedServer("other", 0.0), WatchedServer("token", 0.0), WatchedServer("token", 0.0)
    assert wrong.receive(NodeMiner("token", 0.0).data_to_send()[0], 0.0) == [node.Closed(node.AUTH_FAILED)]
    assert late.tick(node.READY_TIMEOUT_S) == [node.Closed(node.AUTH_TIMEOUT)]
    garbage.receive(b"\xff" * 4, 0.0)
    for core in (wrong, late, garbage):
        server.update(core.taken)

    assert miner == set(node.MINER_TRANSITIONS)
    assert server == set(node.NODE_TRANSITIONS)


def test_what_a_miner_sends_before_its_login_is_answered_breaks_the_protocol() -> None:
    pool = StratumPool("session", 0.0)
    (login,) = StratumMiner("wallet.rig", "test/1", 0.0).data_to_send()
    asked, last = pool.receive(login + b'{"id":2,"method":"keepalived","params":{"id":"session"}}\n', 0.0)
    assert isinstance(asked, LoginAsked)
    assert last == Broken("not allowed in state 'checking the login': a keepalive comes, which is answered")
    assert pool.is_over
