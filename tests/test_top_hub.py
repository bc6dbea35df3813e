"""``quantus-miner top`` of a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from quantus_miner.client import Client
from quantus_miner.top import faces, fleet, text
from quantus_miner.wire.commands import CommandReply, CommandRequest
from quantus_miner.wire.hub_status import HubStatus

from .test_top import HOSTILE, SHOWN, column, drive, server, source, until

if TYPE_CHECKING:
    from textual.pilot import Pilot

MINER_OF_HUB: dict[str, Any] = {
    "kind": "rig", "name": "a", "tags": ["farm1"], "state": "mining", "orders": "", "pauses": [], "rate_10s": 1234.5,
    "rate_60s": 1200, "rate_15m": None, "proven_rate": 1100, "luck": 0.9, "accepted": 3, "rejected": 2, "stale": 1,
    "blocks": 3, "temperature_celsius": 61, "power_watts": 200, "devices": [], "version": "0.2.0", "source": "",
    "uptime_seconds": 90, "contact": 1.7e9 - 3, "connections": 1, "difficulty": None,
}  # fmt: skip


def hub_status(*miners: dict[str, Any], **fields: Any) -> HubStatus:
    """The status of a hub with these miners."""
    rates = {"current": 1234.5, "average_10s": 1234.5, "average_60s": 1200, "average_15m": None, "highest": None}
    totals = {
        "rigs": 3, "online": 2, "offline": 1, "paused": 0, "waiting": 1, "connections": 4, "hash_rate": rates,
        "proven_rate": rates, "accepted": 10, "rejected": 1, "stale": 2, "power_watts": 400, "hottest_celsius": 70,
    }  # fmt: skip
    made = {
        "role": "hub", "version": "0.2.0", "host": "hub1", "time": 1.7e9, "uptime_seconds": 90.0, "state": "mining",
        "reason": "", "totals": totals, "miners": [MINER_OF_HUB | each for each in miners], "miners_left_out": 0,
        "sources": [source("node 127.0.0.1:9833", mined=True)], "solutions_waiting": 0, "solutions_expired": 0,
        "banned_addresses": 0, "store_ok": True,
    }  # fmt: skip
    return msgspec.convert(made | fields, HubStatus)


def test_nothing_that_a_hub_sends_steers_the_terminal() -> None:
    texts = dict.fromkeys(("name", "orders", "version", "source"), HOSTILE)
    hostile = {"tags": [HOSTILE] * 50, "pauses": [HOSTILE], "difficulty": 10**400, "contact": -1e300, "luck": 1e308}
    miners = [texts | hostile | {"state": state} for state in ("mining", "paused", "ignored")]
    sent = hub_status(*miners, host=HOSTILE, reason=HOSTILE, sources=[source(HOSTILE, refusal=HOSTILE)])
    shown = faces.plain(msgspec.json.decode(msgspec.json.encode(sent), type=HubStatus))
    assert shown.count(SHOWN) >= 9
    assert all(line.isprintable() for line in shown.splitlines())
    for made in (fleet.miners(sent), text.shares(sent)):
        assert {len(row) for row in made.rows} == {len(made.titles)}
        assert max(len(cell) for row in made.rows for cell in row) <= text.MAX_CHARACTERS


def test_a_hub_shows_what_needs_a_look_first_and_how_it_is_said() -> None:
    status = hub_status(
        {"name": "b"}, {"name": "a"}, {"name": "c", "state": "offline", "contact": 1.7e9 - 7200, "rate_10s": None},
        {"name": "d", "state": "paused", "pauses": ["hub", "user"], "orders": "no pools"},
        {"name": "w", "kind": "stratum"},
    )  # fmt: skip
    table = fleet.miners(status)
    assert column(table, "MINER") == ["all", "c", "d", "a", "b", "w (stratum)"]
    assert column(table, "STATE") == ["mining", "offline", "paused (hub, user)", "mining", "mining", "mining"]
    assert column(table, "HEARD") == ["", "2 h 0 min", "3 s", "3 s", "3 s", "3 s"]
    assert fleet.faults(status) == ["1 rigs are offline: c", "rig d refuses what it was asked to: no pools"]
    assert fleet.speed(status) == "mining 1.23 kH/s | 60 s 1.20 kH/s | 15 min - | proven 1.23 kH/s"
    assert fleet.totals(status) == "rigs: 2/3 | stratum: 4 | 10 accepted, 1 rejected, 2 stale | 400 W"


def test_a_hub_fits_and_p_is_for_the_selected_rig() -> None:
    many = hub_status(*({"name": f"rig{number:04}"} for number in range(400)), {"name": "w", "kind": "stratum"})
    asked: list[list[str]] = []

    class Recorder(Client):
        def command(self, command: CommandRequest) -> CommandReply:
            asked.append([command.action, *command.targets])
            return CommandReply("ok", 1, 0, [])

    async def steps(pilot: Pilot[None]) -> None:
        lines = await until(pilot, "rig0003", "OK/BAD/LATE", "HEARD", "rigs: 2/3")
        assert lines[0].startswith(" hub1 | quantus-miner 0.2.0 | up 90 s | http://127.0.0.1:")
        assert not any(" j Jobs" in line or " h Hash rate" in line for line in lines)
        await pilot.press("p")
        await until(pilot, "Pause: 1 rigs, 0 of them offline")
        await pilot.press("down", "down", "r")
        await until(pilot, "Resume: 1 rigs")
        await pilot.press("ctrl+end", "p")
        await until(pilot, "w (stratum) ", "is not a rig")
        await pilot.press("h", "c")
        await until(pilot, "REASON")
        await pilot.press("question_mark")
        await until(pilot, "PROVEN  ")

    with server(lambda: msgspec.json.encode(many)) as url:
        drive(Recorder(url, None), steps, (80, 24))
    assert asked == [["pause", "all"], ["resume", "rig0001"]]
