"""Several hubs on NATS servers of the operator: who leads, what the next one takes over, and what can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import pytest

from quantus_miner.hub import lease as lease_module
from quantus_miner.hub import outbox as outbox_module
from quantus_miner.hub.roster import Roster
from quantus_miner.parts import cluster as cluster_part
from quantus_miner.sources import hub as hub_source
from quantus_miner.sources import nats
from quantus_miner.sources.link import Handover
from quantus_miner.wire import fleet

from .cluster import Place, settings_for, share_key, url_of
from .hub import WAIT_S, HubProcess, until
from .rigs import rig_of, run, solve, url_for

if TYPE_CHECKING:
    from pathlib import Path


SLACK_S = 5.0
"""For a machine that is busy with other tests."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are soon over."""
    for module, name, seconds in (
        (lease_module, "LEASE_S", 1.5),
        (lease_module, "VALID_S", 1.2),
        (cluster_part, "VALID_S", 1.2),
        (cluster_part, "RENEW_S", 0.1),
        (hub_source, "RETRY_S", 0.1),
        (hub_source, "FOLLOW_S", 0.1),
        (outbox_module, "DOUBT_S", 0.3),
    ):
        monkeypatch.setattr(module, name, seconds)


@pytest.mark.usefixtures("quick")
def test_a_standby_takes_over_and_sends_what_the_leader_did_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with Place(tmp_path) as place:
            url = url_for(place.roster, "rig", place.server.port)
            place.server.reload()
            hubs = [await place.hub(name) for name in ("hub1", "hub2")]
            async with rig_of(url, tmp_path / "rig") as (link, listener, task):
                job = await listener.job()
                link.submit(job, found := solve(job), 1, 1.0)
                assert await listener.handover() == (found, Handover.SENT)
                await place.node.until(lambda: len(place.node.results) == 1)
                job = await listener.job()
                await until(lambda: sum(hub.leads for hub in hubs) == len(place.node.miners) == 1)
                # The leader ends without a word. The rig goes on, and what it finds meanwhile arrives.
                first, second = sorted(hubs, key=lambda hub: not hub.leads)
                first.crash()
                link.submit(job, found := solve(job), 1, 1.0)
                assert await listener.handover() == (found, Handover.SENT)
                await place.node.until(lambda: place.node.tally.blocks == 2)
                assert second.leads
                # The rig repeats what it has not seen acknowledged: the new leader knows what the former one has sent.
                assert link.submit(job, found, 1, 1.0) is Handover.WAITS
                assert await listener.handover() == (found, Handover.SENT)
                assert (task.done(), listener.opened) == (False, 1)
            assert len(set(place.node.results)) == len(place.node.results) == 2

    run(test)


def test_a_leader_that_stops_hands_over_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with Place(tmp_path) as place:
            first = await place.hub()
            await until(lambda: first.leads)
            second = await place.hub("hub2")
            await until(lambda: second.components.lease.held_by_another)
            began = time.monotonic()
            await first.stop()
            await until(lambda: second.leads)
            assert time.monotonic() - began < lease_module.LEASE_S

    run(test)


@pytest.mark.usefixtures("quick")
def test_solutions_in_doubt_wait_and_are_not_repeated_if_the_node_had_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader ends between writing to the node and noting it, or just before."""

    async def test(*, arrived: bool) -> None:
        async with Place(tmp_path / str(arrived)) as place:
            url = url_for(place.roster, "rig", place.server.port)
            place.server.reload()
            first = await place.hub()
            await until(lambda: first.leads)
            second = await place.hub("hub2")
            async with rig_of(url, tmp_path / "rig") as (link, listener, _):
                job = await listener.job()
                work = first.components.hub.work
                assert work is not None
                send = work.on_solution

                def crash(*args: object) -> None:
                    monkeypatch.setattr(first.components.outbox, "keep", lambda _: Future())
                    if arrived:
                        send(*args)  # type: ignore[arg-type]
                    first.crash()

                work.on_solution = crash
                link.submit(job, found := solve(job), 1, 1.0)
                await until(lambda: second.leads)
                if arrived:
                    assert await listener.handover() == (found, Handover.SENT)
                    assert (await listener.job()).header != job.header
                await place.node.until(lambda: place.node.tally.blocks == 1)
            assert place.node.results == [(job.header.hex(), f"{found.nonce:0128x}")]

    run(lambda: test(arrived=True))
    run(lambda: test(arrived=False))


@pytest.mark.usefixtures("quick")
def test_a_leader_without_nats_stops_and_leads_again_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Place(tmp_path) as place:
            hub = await place.hub()
            await until(lambda: hub.leads)
            await place.server.kill()
            await until(lambda: not hub.leads)
            await place.server.start()
            await until(lambda: hub.leads)

    run(test)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("This hub no longer leads: the NATS servers do not answer" in line for line in lines) == 1
    assert sum("can be used again" in line for line in lines) == 1
    assert sum("Cannot use the NATS servers at tls://127.0.0.1:" in line for line in lines) <= 3


def test_without_room_on_the_servers_solutions_go_up_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Place(tmp_path) as place:
            hub = await place.hub()
            await until(lambda: hub.leads)
            # Nothing larger than a byte can be stored from now on.
            client = await place.client()
            stream = client.jetstream()
            config = (await stream.stream_info(fleet.OUTBOX_STREAM)).config
            await stream.update_stream(config.evolve(max_msg_size=1))
            work = hub.components.hub.work
            assert work is not None
            found = solve(work.job)
            saved = hub.components.hub.solve(work.job.header, found.nonce)
            assert saved is not None
            await asyncio.wait_for(asyncio.wrap_future(saved), WAIT_S)
            await place.node.until(lambda: place.node.tally.blocks == 1)
            await stream.update_stream(config.evolve(max_msg_size=-1))
            await until(lambda: "NATS can store solutions again" in caplog.text)
            await nats.close(client)

    run(test)
    assert caplog.text.count("NATS cannot store solutions: ") == 1


def test_what_is_wrong_with_the_servers_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Place(tmp_path) as place:
            stranger = tmp_path / "stranger"
            settings = settings_for(place.node, stranger, url_of(place.roster, place.server))
            await place.hub("hub3", settings)
            await until(
                lambda: "refuses the hub's login; include what `quantus-miner hub nats-config` prints" in text()
            )
            pin = url_of(place.roster, place.server).replace(place.roster.fingerprint().hex(), "0" * 64)
            await place.hub("hub4", settings_for(place.node, stranger, pin))
            await until(lambda: f"SHA-256 {place.roster.fingerprint().hex()}, not the pinned 000" in text())
            config = place.server.folder / "quantus.conf"
            place.server.configure = lambda: None  # type: ignore[method-assign]
            config.write_text(config.read_text().replace("jetstream: enabled, ", ""))
            await place.server.kill()
            await place.server.start()
            await place.hub()
            await until(lambda: "JetStream cannot be used: " in text())

    def text() -> str:
        return caplog.text

    run(test)
    assert "Traceback" not in caplog.text


def test_rigs_follow_the_standby_of_a_hub_that_is_killed(tmp_path: Path) -> None:
    """With real processes, and the times that users have."""

    async def test() -> None:
        async with Place(tmp_path) as place:
            url = url_for(place.roster, "rig", place.server.port)
            place.server.reload()
            share_key(place.roster, tmp_path / "hub2")
            nats_flag = f"--nats={url_of(place.roster, place.server)}"
            states = [tmp_path / "hub1", tmp_path / "hub2"]
            with contextlib.ExitStack() as stack:
                start = partial(HubProcess, place.node.port, place.node.folder)
                hubs = [stack.enter_context(start(state, nats_flag)) for state in states]
                await until(lambda: any("This hub leads" in line for hub in hubs for line in hub.log))
                first, second = sorted(hubs, key=lambda hub: any("This hub leads" in line for line in hub.log))[::-1]
                async with rig_of(url, tmp_path / "rig") as (link, listener, task):
                    job = await listener.job()
                    first.process.kill()
                    began = time.monotonic()
                    link.submit(job, found := solve(job), 1, 1.0)
                    assert await listener.handover() == (found, Handover.SENT)
                    assert time.monotonic() - began < 5 + SLACK_S
                    await place.node.until(lambda: place.node.tally.blocks == 1)
                    assert (await listener.job()).header != job.header
                    assert (task.done(), listener.opened) == (False, 1)
                assert await asyncio.to_thread(second.stop) == 0
                assert not any("Traceback" in line for line in second.log)

    run(test)


def test_rigs_and_hubs_may_do_only_what_they_need(tmp_path: Path) -> None:
    async def test() -> None:
        async with Place(tmp_path) as place:
            url = url_for(place.roster, "bad", place.server.port)
            place.server.reload()
            errors: list[str] = []
            client = await place.client(url.seed, "_INBOX.bad", errors)
            subjects = [fleet.LEASE, f"{fleet.OUTBOX}.x", "$JS.API.STREAM.DELETE.QUANTUS_LEASE", fleet.JOB]
            subjects += [f"{fleet.SOLUTION}.good", "$KV.x", "$SYS.REQ.SERVER.PING"]
            for subject in subjects:
                await client.publish(subject, b"")
            await client.subscribe(f"_INBOX.{fleet.HUB_INBOX}.>")
            await until(lambda: len(errors) == len(subjects) + 1)
            assert all("permissions violation" in error.lower() for error in errors)
            await nats.close(client)

    run(test)


def test_the_commands_for_servers_that_run_already(tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "quantus_miner", "hub", *arguments, f"--state-dir={tmp_path}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr.count("\n") <= 1, done.stderr
        return done.stdout + done.stderr

    roster = Roster(tmp_path)
    roster.hub_key()
    nats_url = f"tls://nats1,nats2:4223?pin={roster.fingerprint().hex()}"
    said = command("invite", "rig7", f"--nats={nats_url}")
    assert said.endswith("The NATS servers have to know: give them what `quantus-miner hub nats-config` prints now.\n")
    url = fleet.parse_hub_url(said.splitlines()[0].removeprefix("quantus-miner serve --hub "))
    assert (url.servers, url.pin) == ((("nats1", 4222), ("nats2", 4223)), roster.fingerprint())
    config = command("nats-config")
    assert config.count("nkey:") == 2
    assert f"nkey: {roster.load()['rig7']}" in config
    assert f"nkey: {roster.hub_key()[1]}" in config
    roster.folder.joinpath("hub.nk").write_text("x")
    assert f"cannot use {roster.folder / 'hub.nk'}: it is not a key" in command("nats-config")
