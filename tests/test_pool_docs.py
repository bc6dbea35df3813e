"""The pages about pools against the code."""

from __future__ import annotations

import json
import re

import pytest

from quantus_miner import units
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.errors import MAX_REASON
from quantus_miner.sources import addresses, pool
from quantus_miner.wire import lines, shares, stratum, stratum_miner, stratum_pool
from quantus_miner.wire.address import address_warning, compose_login
from quantus_miner.wire.pool_url import SCHEMES, parse_pool_url
from quantus_miner.wire.stratum_miner import Timing

from .pages import PAGES, by_first, code, fenced, table, templates

PROTOCOL, OPERATORS = "docs/pool-protocol.md", "docs/mining-in-a-pool.md"


def test_the_transitions_are_those_of_the_code() -> None:
    for core, header in ((stratum_miner, "step"), (stratum_pool, "step of the pool")):
        rows = table(PROTOCOL, "state", header, "next state")
        documented = [(code(state), step, code(following)) for state, step, following in rows]
        assert documented == [
            (str(state), str(step), str(following)) for (state, step), following in core.TRANSITIONS.items()
        ]


def test_the_limits_are_those_of_the_code() -> None:
    timing = Timing()
    assert [value for _, value, _ in table(PROTOCOL, "limit", "value", "past it")] == [
        f"{limit:,g}"
        for limit in (
            pool.CONNECT_TIMEOUT_S,
            timing.login_s,
            timing.keepalive_s,
            timing.silence_s,
            timing.verdict_s,
            lines.MAX_LINE,
            pool.MAX_UNSENT,
            shares.MAX_PENDING,
            shares.MAX_SHARES,
            shares.MAX_EARLIER,
            stratum_miner.MAX_BAD_JOBS,
            MAX_REASON,
        )
    ]
    for text in (
        f"up to {shares.MAX_EARLIER} earlier jobs",
        f"within {timing.verdict_s:g} s",
        f"After {stratum_miner.MAX_BAD_JOBS} such jobs",
        f"`{stratum_miner.NO_REPLY}`",
    ):
        assert text in PAGES[PROTOCOL]


def test_the_addresses_of_a_name_are_tried_as_the_page_says() -> None:
    for text in (
        f"first {addresses.MAX_ADDRESSES} addresses",
        f"each {addresses.NEXT_ADDRESS_S:g} s after",
        f"ended within {addresses.FAILED_S:g} s",
    ):
        assert text in PAGES[PROTOCOL]
    assert f"ended within {addresses.FAILED_S:g} s" in PAGES["docs/node-protocol.md"]


def test_log_lines_of_the_page_are_in_the_code() -> None:
    said = templates()
    for line, advice in table(OPERATORS, "the log says", "what to do"):
        assert any(template.matches(code(line)) for template in said), line
        assert advice.endswith(".")


def test_the_fields_of_a_job_are_those_of_the_code() -> None:
    assert tuple(by_first(table(PROTOCOL, "field", "form"))) == stratum.JobBody.__struct_fields__


def test_the_messages_of_the_page_are_messages() -> None:
    text = "".join(fenced(PROTOCOL, "text"))
    sent = [line[3:].replace("{…}", "null") for line in text.splitlines() if line.startswith("-> ")]
    came = [line[3:].replace("{…}", "null") for line in text.splitlines() if line.startswith("<- ")]
    assert [stratum.decode(line.encode(), stratum.FromMiner).method for line in sent] == [
        "login",
        "submit",
        "keepalived",
    ]
    assert [stratum.decode(line.encode(), stratum.FromPool).method for line in came] == [None, "job", None, None, None]
    login = json.loads(
        b"".join(stratum_miner.StratumMiner("<wallet>.<worker>", "quantus-miner/<version>", 0.0).data_to_send())
    )
    assert json.loads(sent[0]) == login


def test_the_examples_for_operators_are_valid() -> None:
    rows = {row[0]: row[1:] for row in table(OPERATORS, "setting", "form", "example")}
    pools = [example for name, (_, example) in rows.items() if name.startswith("pool")]
    assert [parse_pool_url(code(example)).scheme for example in pools] == list(SCHEMES)
    wallet, worker = code(rows["wallet"][1]), code(rows["worker name"][1])
    assert address_warning(wallet) is None
    (example,) = fenced(OPERATORS, "ini")
    settings = dict(line.split("=", 1) for line in example.splitlines())
    assert parse_pool_url(settings["MINER_POOL"]).tls
    assert (settings["MINER_WALLET"], settings["MINER_WORKER_NAME"]) == (wallet, worker)
    assert compose_login(wallet, worker)
    (bracketed,) = re.findall(r"`(stratum\S+\[\S+)`", PAGES[OPERATORS])
    assert parse_pool_url(bracketed).host == "2001:db8::1"


RATES = (1e6, 1e7, 1e8, 1e9)


def _span(seconds: float) -> str:
    """Two significant digits in the unit that people would use."""
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= size or unit == "s":
            return f"{seconds / size:.2g} {unit}"
    raise AssertionError


def test_the_share_times_are_difficulty_over_hash_rate() -> None:
    rows = table(OPERATORS, "share difficulty", *map(units.hash_rate, RATES))
    assert len(rows) >= 5
    for difficulty, *times in rows:
        assert times == [_span(int(difficulty.replace(",", "")) / rate) for rate in RATES]


def test_every_misbehaviour_is_documented() -> None:
    rows = by_first(table(OPERATORS, "misbehaviour", "what the pool does"))
    assert list(rows) == list(PoolMisbehaviour)


@pytest.mark.parametrize(
    "reason",
    [
        "Stale share",
        "Invalid job id",
        "job not found",
        "Unknown job",
        "Job expired",
        "Invalid nonce",
        "duplicate share",
    ],
)
def test_what_counts_as_stale_is_what_the_page_says(reason: str) -> None:
    quoted = re.findall(r'"([a-z ]+)"', PAGES[PROTOCOL].partition("## Shares")[2].partition("##")[0])
    assert stratum.is_stale(reason) == any(words in reason.lower() for words in quoted)
