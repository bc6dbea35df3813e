"""Commands to the rigs of a hub: what follows for each rig, what is kept, who may do what, and what is written down."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.errors import MinerError
from quantus_miner.hub import control as control_module
from quantus_miner.hub import record as record_module
from quantus_miner.hub.control import DAY_S, MAX_RESTARTS, Control
from quantus_miner.hub.desired import Desired
from quantus_miner.hub.hashing import ShareHasher
from quantus_miner.hub.record import FILE, Record
from quantus_miner.hub.rigs import OFFLINE_S, Rigs
from quantus_miner.hub.tags import MAX_TAGS, TAGS, Tags
from quantus_miner.hub.work import Hub
from quantus_miner.store.writer import Store
from quantus_miner.wire import fleet
from quantus_miner.wire.commands import ALL, CommandEntry, CommandRequest, parse_tag, parse_target
from quantus_miner.wire.fleet import NO_ORDERS, Orders

from .hub import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

RIGS = {"a": ("farm1", "nvidia"), "b": ("farm1",), "c": ()}
POOL = "stratum+tcp://pool.example:3333"


def command(action: Any, *targets: str, pools: list[str] | None = None) -> CommandRequest:
    return CommandRequest(action, list(targets), "alice", pools or [], DEV_WALLET if pools else "")


def paused(desired: Desired) -> set[str]:
    return {name for name, tags in RIGS.items() if desired.orders(name, tags).paused}


# --- what follows from what was said ---


def test_a_rig_counts_before_its_tags_and_these_before_all() -> None:
    desired = Desired()
    assert all(
        desired.orders(name, tags) is not None and desired.orders(name, tags) == NO_ORDERS
        for name, tags in RIGS.items()
    )
    assert desired.apply(command("pause", "tag:farm1"), RIGS) == (["a", "b"], [])
    assert paused(desired) == {"a", "b"}
    assert desired.apply(command("resume", "b"), RIGS) == (["b"], [])
    assert paused(desired) == {"a"}
    # What was said for a rig counts whatever is said for its tag, or for all, later.
    assert desired.apply(command("pause", ALL), RIGS) == (["a", "b", "c"], ["b"])
    assert paused(desired) == {"a", "c"}
    desired.apply(command("clear", "b"), RIGS)
    assert paused(desired) == {"a", "b", "c"}
    assert desired.apply(command("resume", ALL), RIGS).exceptions == ["a", "b"]
    desired.apply(command("clear", "tag:farm1"), RIGS)
    assert paused(desired) == set()
    # The first tag that says something counts.
    desired.apply(command("pause", "tag:nvidia"), RIGS)
    desired.apply(command("resume", "tag:farm1"), RIGS)
    assert (desired.orders("a", ("farm1", "nvidia")).paused, desired.orders("a", ("nvidia", "farm1")).paused) == (
        False,
        True,
    )


def test_pools_and_pauses_are_independent_and_an_empty_list_is_the_rigs_own() -> None:
    desired = Desired()
    desired.apply(command("set-pools", ALL, pools=[POOL]), RIGS)
    desired.apply(command("pause", "a"), RIGS)
    orders = desired.orders("a", RIGS["a"])
    assert (orders.paused, orders.pools, orders.wallet) == (True, [POOL], DEV_WALLET)
    assert desired.apply(command("set-pools", "a"), RIGS).exceptions == []
    assert desired.orders("a", RIGS["a"]).pools is None
    assert desired.orders("b", RIGS["b"]).pools == [POOL]
    assert desired.apply(command("set-pools", ALL, pools=[POOL, POOL]), RIGS).exceptions == ["a"]


def test_reload_and_restart_are_counted_for_each_rig() -> None:
    desired = Desired()
    desired.apply(command("reload", "tag:farm1"), RIGS)
    desired.apply(command("reload", "a"), RIGS)
    desired.apply(command("restart", "c"), RIGS)
    counts = [(orders.reloads, orders.restarts) for orders in (desired.orders(name, ()) for name in RIGS)]
    assert counts == [(2, 0), (1, 0), (0, 1)]
    desired.forget(["b"])
    assert [desired.orders(name, ()).reloads for name in RIGS] == [0, 1, 0]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("d", "there is no rig d; rigs: a, b, c"),
        ("tag:x", "no rig has the tag x; tags: farm1, nvidia"),
    ],
)
def test_targets_that_there_are_not(target: str, reason: str) -> None:
    with pytest.raises(MinerError, match=f"^{re.escape(reason)}$"):
        Desired().apply(command("pause", target), RIGS)


def test_a_tag_that_no_rig_has_any_more_can_be_cleared() -> None:
    desired = Desired()
    desired.apply(command("pause", "tag:nvidia"), RIGS)
    assert desired.apply(command("clear", "tag:nvidia"), {"b": ()}) == ([], [])
    assert desired == Desired()


ACTIONS = st.sampled_from(["pause", "resume", "clear", "set-pools", "reload", "restart"])
TARGETS = st.lists(st.sampled_from([ALL, "tag:farm1", "tag:nvidia", "a", "b", "c"]), min_size=1, max_size=3)
COMMANDS = st.builds(
    lambda action, targets, pool: command(action, *targets, pools=[POOL] if action == "set-pools" and pool else []),
    *(ACTIONS, TARGETS, st.booleans()),
)


@given(st.lists(COMMANDS, max_size=8), COMMANDS)
def test_a_rig_does_what_was_said_last_for_it_and_the_file_says_the_same(
    before: list[CommandRequest], last: CommandRequest
) -> None:
    desired = Desired()
    for each in before:
        desired.apply(each, RIGS)
    scope = desired.apply(last, RIGS)
    again = msgspec.json.decode(msgspec.json.encode(desired), type=Desired)
    for name, tags in RIGS.items():
        orders = desired.orders(name, tags)
        assert again.orders(name, tags) == orders
        # The id stands for the content.
        assert (orders.id == "") == (msgspec.structs.replace(orders, id="") == NO_ORDERS)
        assert fleet.decode(fleet.encode(fleet.RigMessage(None, orders)), fleet.RigMessage).orders == orders
        if name in scope.rigs and name not in scope.exceptions:
            if last.action in ("pause", "resume"):
                assert orders.paused == (last.action == "pause")
            elif last.action == "set-pools":
                assert (orders.pools or []) == last.pools
        if name in last.targets:
            assert name not in scope.exceptions


def test_the_largest_orders_fit_into_a_message() -> None:
    orders = Orders("f" * 16, True, ["x" * fleet.MAX_POOL_URL] * fleet.MAX_POOLS, "w" * 128, 2**63 - 1, 2**63 - 1)
    job = fleet.JobMessage("r" * 32, 2**63 - 1, "j" * 1024, "0" * 64, "9" * 155, "f" * 128, "00" * 31, True)
    assert len(fleet.encode(fleet.Welcome(job, "00" * 31, orders))) < fleet.MAX_MESSAGE
    device = fleet.DeviceMessage("0000:01:00.0" + "x" * 20, 1e18, -273.123456, 1e18)
    status = fleet.StatusMessage(
        "v" * 64, 1e18, 1e18, 2**63 - 1, 2**63 - 1, 2**63 - 1, 999.123456, 1e18, 1e18, 1e18,
        [device] * fleet.MAX_DEVICES, ["schedule"] * 8, True, "s" * 128, 2**63 - 1, 2**63 - 1, 2**63 - 1,
        "d" * 32, "r" * 128,
    )  # fmt: skip
    assert len(fleet.encode(status)) < fleet.MAX_MESSAGE
    assert fleet.decode(fleet.encode(status), fleet.StatusMessage) == status


def test_an_older_rig_and_an_older_hub_understand_what_they_know() -> None:
    old = b'{"version":"0.1","uptime_s":1,"hash_rate":2,"hashes":3,"solutions":4,"workers":5,"power":null}'
    assert fleet.decode(old, fleet.StatusMessage) == fleet.StatusMessage("0.1", 1, 2, 3, 4, 5)
    assert fleet.decode(b'{"job":null,"slot":null}', fleet.Welcome).orders is None


# --- what is kept, and written down ---


class Fixture:
    """The commands of a hub whose rigs a and b are invited; the test is the rigs."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store(folder, history_days=30)
        self.hub = Hub(self.store, clock=self.clock)
        self.rigs = Rigs(self.hub, ShareHasher())
        self.now = Clock()
        self.control = Control(folder / "hub", self.rigs, now=self.now)
        self.control.load()
        self.control.invite(["a", "b"], {"a": ["farm1"]})

    async def say(self, name: str, **fields: Any) -> None:
        """Have a rig report."""
        values: dict[str, Any] = {"uptime_s": self.clock.now, "hash_rate": 0.0, "hashes": 0}

        class Message:
            data = fleet.encode(fleet.StatusMessage("1", **{"solutions": 0, "workers": 1, **values, **fields}))

        await self.rigs._on_status(self.rigs._rig(name), Message)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_commands_outlive_the_hub_and_are_written_down(tmp_path: Path) -> None:
    async def test() -> None:
        each = Fixture(tmp_path)
        seen: list[CommandEntry] = []
        each.control.on_command = seen.append
        await each.say("a")
        reply = await each.control.command(command("pause", ALL), "127.0.0.1")
        assert (reply.rigs, reply.offline, reply.exceptions) == (2, 1, [])
        reply = await each.control.command(command("resume", "a"), "127.0.0.1")
        again = Fixture(tmp_path)
        assert (again.control.orders("a").paused, again.control.orders("b").paused) == (False, True)
        entries = again.control.record.last()
        assert entries == seen
        assert [(entry.by, entry.what, entry.target, entry.result) for entry in entries] == [
            ("alice (127.0.0.1)", "pause", "all", "2 rigs, 1 of them offline"),
            ("alice (127.0.0.1)", "resume", "a", "1 rigs, 0 of them offline"),
        ]
        assert (tmp_path / "hub" / FILE).stat().st_mode & 0o077 == 0
        # A rig whose invitation has ended is forgotten.
        again.control.invite(["a"], {})
        again.control.invite(["a", "b"], {})
        assert again.control.orders("b").paused  # all are paused
        assert again.control.orders("a").paused is False

    run(test)


def test_what_cannot_be_done_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        each = Fixture(tmp_path)
        for wrong, reason in (
            (command("pause", "x"), "there is no rig x"),
            (command("set-pools", "a", pools=["ftp://x"]), "stratum"),
            (CommandRequest("set-pools", ["a"], "me", [POOL]), "needs pools and the wallet"),
            (CommandRequest("set-pools", ["a"], "me", [POOL], "a b"), "a wallet must be"),
            (CommandRequest("pause", ["a"], "me", [POOL]), "pause takes no pools"),
        ):
            with pytest.raises(MinerError, match=reason):
                await each.control.command(wrong, "::1")
        (tmp_path / "hub").mkdir()
        (tmp_path / "hub" / "orders.json.new").mkdir()  # nothing can be written under that name
        with pytest.raises(MinerError, match=r"^cannot write .*orders.json: "):
            await each.control.command(command("pause", "a"), "::1")
        assert each.control.orders("a") == NO_ORDERS
        assert each.control.record.last() == []

    run(test)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    async def test() -> None:
        each = Fixture(tmp_path)
        path = tmp_path / "hub" / control_module.FILE
        path.parent.mkdir()
        for damage in (b"{", b"[]", b"\xff", b'{"all":{"paused":1}}'):
            path.write_bytes(damage)
            with pytest.raises(
                MinerError, match=r"^cannot read .*orders.json: .*; remove it and give the commands again$"
            ):
                each.control.load()

    run(test)


def test_the_record_is_bounded_and_a_line_that_is_cut_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "MAX_BYTES", 1_000)
    record = Record(tmp_path)
    entries = [CommandEntry(float(number), "me", "pause", "all", "") for number in range(100)]
    for entry in entries:
        record.write(entry)
    sizes = [path.stat().st_size for path in (tmp_path / FILE, tmp_path / f"{FILE}.1")]
    assert all(0 < size < 1_200 for size in sizes)
    again = Record(tmp_path)
    again.load()
    kept = again.last()
    assert kept == entries[-len(kept) :]
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"time":1')
    cut = Record(tmp_path)
    cut.load()
    assert cut.last() == kept


def test_silent_rigs_are_restarted_a_few_times_a_day(tmp_path: Path) -> None:
    async def test() -> None:
        each = Fixture(tmp_path)

        async def settle() -> None:
            await asyncio.gather(*each.control._tasks)

        async def report(name: str, **fields: Any) -> None:
            await each.say(name, **fields)
            each.control.restart_silent(300.0)
            await settle()

        each.hub.work = object()  # type: ignore[assignment]  # there is a job
        for _ in range(MAX_RESTARTS + 2):
            await report("a")
            await report("b", hash_rate=0.0, pauses=["user"])
            each.clock.now += 299
            await report("a")
            before = each.control.orders("a").restarts
            each.clock.now += 1
            await report("a")
            after = each.control.orders("a").restarts
            await report("a", hash_rate=5.0)
            assert after - before == (before < MAX_RESTARTS)
        assert (each.control.orders("a").restarts, each.control.orders("b").restarts) == (MAX_RESTARTS, 0)
        assert {(entry.by, entry.what, entry.target) for entry in each.control.record.last()} == {
            ("the hub", "restart", "a")
        }
        each.now.now += DAY_S
        await report("a")
        each.clock.now += 300
        each.control.restart_silent(300.0)  # it was not heard of for so long: it is offline
        await settle()
        assert (OFFLINE_S < 300, each.control.orders("a").restarts) == (True, MAX_RESTARTS)
        await report("a")
        assert each.control.orders("a").restarts == MAX_RESTARTS + 1

    run(test)


def test_what_a_rig_has_not_done_is_told_again_and_shown(tmp_path: Path) -> None:
    async def test() -> None:
        each = Fixture(tmp_path)
        await each.say("a")
        assert [(rig.name, rig.waits) for rig in each.rigs.stats()] == [("a", False)]
        await each.control.command(command("pause", ALL), "::1")
        assert each.rigs.stats()[0].waits
        each.rigs._untold.clear()
        await each.say("a", done="other")
        assert each.rigs._untold == {"a"}
        each.rigs._untold.clear()
        await each.say("a", done=each.control.orders("a").id)
        assert (each.rigs._untold, each.rigs.stats()[0].waits) == (set(), False)

    run(test)


def test_luck_counts_the_nonces_since_the_hub_has_heard_of_the_rig(tmp_path: Path) -> None:
    async def test() -> None:
        each = Fixture(tmp_path)
        for hashes in (1_000, 1_500, 200, 300):  # it has started again in between
            await each.say("a", hashes=hashes)
        (rig,) = each.rigs.stats()
        assert (rig.hashes, rig.luck) == (800, None)
        each.rigs._rigs["a"].work = 1_600
        each.clock.now += 100
        (rig,) = each.rigs.stats()
        assert (rig.luck, rig.proven_rate, rig.online, rig.hash_rate) == (2.0, 16.0, False, None)

    run(test)


# --- tags ---


def test_tags_are_kept(tmp_path: Path) -> None:
    tags = Tags(tmp_path)
    assert (tags.load(), tags.stamp()) == ({}, 0)
    tags.set("a", ["farm1", "nvidia"])
    tags.set("b", ["farm1"])
    assert Tags(tmp_path).load() == {"a": ["farm1", "nvidia"], "b": ["farm1"]}
    tags.set("a", [])
    stamp = tags.stamp()
    tags.set("x", [])
    assert (tags.load(), tags.stamp()) == ({"b": ["farm1"]}, stamp)
    with pytest.raises(MinerError, match=f"at most {MAX_TAGS} tags, got 9"):
        tags.set("a", list("abcdefghi"))
    for damage in (b"{", b"[]", b'{"a":1}', b'{"a b":[]}', b'{"a":["b c"]}', b"\xff"):
        (tmp_path / TAGS).write_bytes(damage)
        with pytest.raises(MinerError, match=r"^cannot read .*tags.json: .*tag the rigs again$"):
            tags.load()


@pytest.mark.parametrize("text", ["", "a b", "tag:", "tag:a:b", "x" * 65, "é"])
def test_targets_and_tags_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="all, tag:NAME for all rigs with a tag, or the name of a rig"):
        parse_target(text)
    with pytest.raises(ValueError, match="a tag must be 1 to 64 letters"):
        parse_tag(text)
