"""The page of the node's protocol against the code."""

from __future__ import annotations

from typing import Any

import click
import pytest

from quantus_miner.cli import cli
from quantus_miner.dev import quic_node
from quantus_miner.sources import node as link
from quantus_miner.sources import quic
from quantus_miner.wire import messages
from quantus_miner.wire import node as proto
from quantus_miner.wire.frames import MAX_FRAME
from quantus_miner.wire.messages import JobResult, NewJob, Ready
from quantus_miner.wire.node import MINER_TRANSITIONS, NODE_TRANSITIONS, MinerState, NodeState

from .pages import code, fenced, table, tables, templates


@pytest.mark.parametrize(("state", "table"), [(MinerState, MINER_TRANSITIONS), (NodeState, NODE_TRANSITIONS)])
def test_every_state_is_reached_and_only_the_last_one_is_an_end(
    state: type[MinerState] | type[NodeState], table: dict[tuple[Any, Any], Any]
) -> None:
    first, *rest = state
    assert {*table.values()} >= {*rest}
    assert {left for left, _ in table} == {first, *rest[:-1]}


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    documented = tables("docs/node-protocol.md", "state", "event", "next state", "what happens")
    assert [[tuple(map(code, row[:3])) for row in rows] for rows in documented] == [
        [(state.value, event.value, following.value) for (state, event), following in transitions.items()]
        for transitions in (MINER_TRANSITIONS, NODE_TRANSITIONS)
    ]
    assert all(row[3].endswith(".") for rows in documented for row in rows)


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    rows = dict(table("docs/node-protocol.md", "what", "value"))
    assert rows["application protocol (ALPN)"] == f"`{proto.ALPN}`"
    assert rows["server name (SNI)"] == f"`{proto.SERVER_NAME}`"
    assert rows["handshake, with each address of the host"] == f"within {link.HANDSHAKE_S:g} s"
    assert rows["the miner pings"].startswith(f"every {link.PING_S:g} s: ")
    assert f"idle for {quic_node.IDLE_TIMEOUT_S:g} s" in rows["the miner pings"]
    assert rows["the miner gives up an idle node"] == f"after {link.IDLE_S:g} s"
    assert rows["largest frame"] == f"{MAX_FRAME:,} bytes of JSON"
    assert rows["largest token"] == f"{messages.MAX_TOKEN} bytes"
    assert rows["bytes on their way, after which further frames wait"] == f"{quic.MAX_IN_FLIGHT:,}"
    assert rows["bytes of other frames that may wait"] == f"{quic.MAX_WAITING:,}"
    assert rows["results that may wait; more are late"] == str(link.MAX_WAITING)
    assert rows["earlier jobs of the same header whose solutions count"] == str(proto.MAX_EARLIER)
    numbers = {
        row[0]: row[1] for row in table("docs/node-protocol.md", "for a node (`--node-addr`)", "value", "because")
    }
    assert list(numbers.values()) == [str(proto.MAX_RESULTS), f"{proto.RESULT_GAP_S:g}"]


def test_the_examples_of_the_page_are_what_is_sent() -> None:
    examples = [messages.decode(example.strip().encode()) for example in fenced("docs/node-protocol.md", "json")]
    assert [messages.encode(example)[4:].decode() + "\n" for example in examples] == fenced(
        "docs/node-protocol.md", "json"
    )
    assert [type(example) for example in examples] == [Ready, NewJob, JobResult]


def test_quoted_log_lines_are_in_the_code() -> None:
    said = templates()
    quoted = [row[2] for row in table("docs/node-protocol.md", "it ends with", "for the miner", "the log says")]
    quoted += [row[0] for rows in tables("docs/mining-with-a-node.md", "the log says", "what to do") for row in rows]
    assert len(quoted) >= 15
    assert not [line for line in quoted if not any(template.matches(code(line)) for template in said)]


def test_every_misbehaviour_is_documented() -> None:
    rows = table("docs/mining-with-a-node.md", "`--misbehave`", "what it does")
    assert [code(row[0]) for row in rows] == [*map(str, quic_node.NodeMisbehaviour)]
    (option,) = (option for option in cli.commands["dev-node"].params if option.name == "misbehave")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == [*map(str, quic_node.NodeMisbehaviour)]
