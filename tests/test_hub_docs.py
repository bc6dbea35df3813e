"""docs/fleet.md against the code."""

from __future__ import annotations

from quantus_miner.hub import bans, door, lease, nats_server, outbox, rigs, slots, stratum_server
from quantus_miner.sources import hub
from quantus_miner.web import hub_metrics, server
from quantus_miner.wire import fleet, node, stratum_pool, validator

from .pages import PAGES, ROOT

PAGE = PAGES["docs/fleet.md"]


def test_the_figures_are_those_of_the_code() -> None:
    for text in (
        f"at most {node.MAX_RESULTS} for one header, at least {node.RESULT_GAP_S:g} s apart",
        f"given\nup after {outbox.EXPIRY_S / 60:g} minutes",
        f"longer than {door.AWAY_S:g} s",
        f"for the same header\nfor {outbox.DOUBT_S:g} s",
        f"which the leader writes every {lease.RENEW_S:g} s. It acts as the leader for {lease.VALID_S:g} s",
        f"once it has seen nothing new for {lease.LEASE_S:g} s",
        f"`{door.NOT_READY}`",
        f"more than {door.BURST_BYTES:,} bytes at once, or more than {door.BYTES_PER_S:,} a second",
        f"log in within {stratum_pool.LOGIN_S:g} s, or is silent for {stratum_pool.SILENCE_S:g} s",
        f"does not read {stratum_server.MAX_UNSENT:,} bytes",
        f"{bans.MAX_BAD} bad shares come within {bans.WINDOW_S:g} s",
        f"banned for {bans.BAN_S:g} s",
        f"like {bans.BREACH:g} bad shares",
        f"ends within {door.CHURN_S:g} s, without an\naccepted share, counts like {bans.CHURN:g} bad shares",
        f"an address with {bans.MAX_BAD / bans.CHURN:g} of them",
        f"no share accepted for {door.IDLE_S:g} s",
        f"sends {rigs.MAX_MESSAGES:,} messages at once, or more than {rigs.MESSAGES_PER_S} a second",
        f"locked out for {rigs.LOCKED_OUT_S:g} s",
        f"At most {server.MAX_SESSIONS:,} miners",
        f"goes on with its job for up to {hub.GRACE_S:g} s",
        f"Messages have at most {fleet.MAX_MESSAGE:,} bytes",
        f"sends {rigs.MAX_INVALID} invalid ones in a row is named in the log and\nignored for {rigs.ASIDE_S:g} s",
        f"every {hub.STATUS_S:g} s",
        f"up to {2 * hub.RETRY_S:g} s, and after each failure up to {4 * hub.RETRY_S:g} and then",
        f" then {2 * hub.MAX_RETRY_S:g} s.",
        f"| {int(nats_server.LIMITS.split('max_connections: ')[1].split()[0]):,} connections |",
        f"{hub_metrics.MAX_RIGS:,} rigs | The others are in the sums only.",
        f"not heard of for {rigs.OFFLINE_S:g} s",
    ):
        assert text in PAGE, text
    assert (outbox.KEEP_S, outbox.RETRY_S > node.RESULT_GAP_S) == (3600.0, True)
    assert (slots.HUB_BYTES, slots.SLOT_BYTES) == (3, 3)


def test_the_words_of_refusals_are_those_of_the_code() -> None:
    assert all(f"`{reason}`" in PAGE for reason in validator.REFUSALS)


def test_the_hub_s_unit_is_hardened_like_the_miner_s() -> None:
    """What differs is what it needs: its own state folder, and no system call for workers."""

    def lines(name: str) -> set[str]:
        text = (ROOT / "systemd" / f"{name}.service").read_text(encoding="utf-8")
        return {line for line in text.split("# --- Hardening")[1].splitlines()[1:] if line and not line.startswith("#")}

    miner, hub = lines("quantus-miner"), lines("quantus-hub")
    assert all(line.startswith(("NoExecPaths=", "SystemCallFilter=sched_")) for line in miner - hub)
    assert hub - miner == {"NoExecPaths=/tmp /var/tmp /dev/shm %S/quantus-hub", "SystemCallFilter=pipe pipe2"}
