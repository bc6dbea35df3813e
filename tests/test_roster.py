"""The invitations of rigs, and the commands for them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from quantus_miner.errors import MinerError
from quantus_miner.hub.roster import RIGS, Roster
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from pathlib import Path


def test_invitations_are_kept_and_end(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    assert (roster.load(), roster.stamp()) == ({}, 0)
    first = roster.invite("a", (("hub.lan", 4222),), roster.fingerprint())
    assert fleet.parse_hub_url(first.secret) == first
    assert first.pin == roster.fingerprint() == Roster(tmp_path).fingerprint()
    second = roster.invite("a", (("hub.lan", 4222),), roster.fingerprint())
    assert second.seed != first.seed
    roster.invite("b", (("::1", 1),), None)
    assert list(roster.load()) == ["a", "b"]
    assert not {first.seed, second.seed} & set(roster.load().values())
    assert (roster.folder / RIGS).stat().st_mode & 0o077 == 0
    roster.revoke("a")
    with pytest.raises(MinerError, match=r"^there is no rig a; rigs: b$"):
        roster.revoke("a")
    for damage in (b"{", b"[]", b'{"a": 1}', b'{"a b": "x"}', b'{"a": "U"}', b"\xff"):
        (roster.folder / RIGS).write_bytes(damage)
        with pytest.raises(MinerError, match=r"^cannot read .*rigs.json: .*invite the rigs again$"):
            roster.load()
    (roster.folder / "hub.pem").write_text("x")
    with pytest.raises(MinerError, match=r"^cannot use .*hub.pem; remove it"):
        roster.fingerprint()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantus_miner", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_commands_for_invitations(tmp_path: Path) -> None:
    state = f"--state-dir={tmp_path}"
    done = command("hub", "invite", "rig7", "--address", "192.168.1.10", state)
    assert (done.returncode, done.stderr) == (0, "")
    url = fleet.parse_hub_url(done.stdout.removeprefix("quantus-miner serve --hub "))
    assert (url.name, url.servers) == ("rig7", (("192.168.1.10", 4222),))
    assert command("hub", "revoke", "rig7", state).stdout.startswith("rig7 is disconnected")
    for arguments, reason in (
        (("revoke", "rig7", state), "there is no rig rig7; rigs: none"),
        (("invite", "a b", state), "a rig's name must be 1 to 64 letters, digits, '_' and '-'"),
        (("invite", "a", "--address=:", state), "allowed: HOST:PORT, such as 192.168.1.10:4222 or [::1]:4222"),
    ):
        done = command("hub", *arguments)
        assert done.returncode in (1, 2)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
