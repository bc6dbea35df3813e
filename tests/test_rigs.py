"""The hub's rigs over a real NATS server: jobs, solutions, permissions, and what happens when any of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.errors import LinkLostError, LinkRefusedError, MinerError
from quantus_miner.hub import rigs as rigs_module
from quantus_miner.hub.nats_server import NatsServer, find_program
from quantus_miner.hub.rigs import ASIDE_S, MAX_INVALID, OFFLINE_S
from quantus_miner.hub.roster import Roster, new_key
from quantus_miner.model import MAX, LiveJob, Pow, Solution
from quantus_miner.sources import hub as hub_source
from quantus_miner.sources import nats
from quantus_miner.sources.link import Handover
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire import fleet
from quantus_miner.wire.pool_url import parse_pool_url

from .conftest import MinerProcess
from .hub import HEADER, OTHER_HEADER, WAIT_S, HubProcess, until
from .rigs import STATUS, Fleet, fleet_and_rig, fleet_at, known, rig_of, run, solve, url_for


def test_a_rig_gets_jobs_and_its_solutions_go_up_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            fleet_and_rig(tmp_path) as (each, first, url),
            rig_of(url, tmp_path / "rig") as (link, listener, _),
        ):
            job = await listener.job()
            assert (job, listener.opened) == (first, 1)
            solution = solve(job)
            assert link.submit(job, solution, 1, 1.0) is Handover.WAITS
            assert link.submit(job, solution, 1, 1.0) is Handover.LATE
            assert await each.next_sent() == solution
            assert await listener.handover() == (solution, Handover.SENT)
            # The hub knows it, so it is not sent again, but the rig gets its answer.
            assert link.submit(job, solution, 1, 1.0) is Handover.WAITS
            assert await listener.handover() == (solution, Handover.SENT)
            each.give("2", OTHER_HEADER, 4)
            assert (await listener.job()).header == OTHER_HEADER
            for number in range(rigs_module.MAX_TARGETS):
                each.give(str(number + 3), bytes([number]) * 32)
                await listener.job()
            link.submit(job, solve(job, 1000), 1, 1.0)
            assert (await listener.handover())[1] is Handover.LATE
            await until(lambda: each.rigs.stats()[0].hash_rate == 5e6)
            (rig,) = each.rigs.stats()
            assert (rig.name, rig.online, rig.kept, rig.stale, rig.invalid) == ("rig", True, 2, 1, 0)
            assert (rig.status, rig.temperature, rig.power) == (STATUS, 60.0, None)
            each.clock.now += OFFLINE_S
            (rig,) = each.rigs.stats()
            assert (rig.online, rig.hash_rate, rig.temperature) == (False, None, None)
            assert each.sent.empty()

    run(test)


def test_in_a_pool_each_rig_has_its_own_nonces_also_after_the_hub_has_started_again(tmp_path: Path) -> None:
    async def test() -> None:
        pool = PoolLink(parse_pool_url("stratum+tcp://127.0.0.1:1"), "w.hub")

        def give(each: Fleet, job_id: str) -> LiveJob:
            job = LiveJob(job_id, HEADER, 2, b"\1\2\3\4")
            each.hub.search(pool, job, lambda *_: None, priority=0, replaces=each.hub.work)
            return job

        prefixes = []
        for _ in range(2):
            async with fleet_at(tmp_path / "hub") as each, contextlib.AsyncExitStack() as stack:
                give(each, "1")
                urls = [each.invite(f"rig{number}") for number in range(3)]
                await known(each, urls[-1], tmp_path / "rig2")
                for number, url in enumerate(urls):
                    _, listener, _ = await stack.enter_async_context(rig_of(url, tmp_path / f"rig{number}"))
                    prefixes.append((await listener.job()).prefix)
        assert all(prefix.startswith(b"\1\2\3\4") and len(prefix) == 10 for prefix in prefixes)
        assert len(set(prefixes)) == 6

    run(test)


def test_a_rig_can_do_nothing_in_the_name_of_another(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet_and_rig(tmp_path) as (each, _, url):
            errors: list[str] = []

            async def on_error(error: Exception) -> None:
                errors.append(str(error))

            async def on_end() -> None:
                pass

            pem = each.roster.certificate().read_text().partition("-----BEGIN PRIVATE")[0]
            address = ("127.0.0.1", each.server.port)
            client = await nats.connect(
                address, nats.trusting(pem), seed=url.seed, inbox="_INBOX.rig", on_error=on_error, on_end=on_end
            )
            forbidden = [f"{fleet.STATUS}.good", f"{fleet.SOLUTION}.good", fleet.JOB, f"{fleet.RIG}.good", "other"]
            for subject in forbidden:
                await client.publish(subject, b"{}")
            for subject in (f"{fleet.SOLUTION}.*", f"{fleet.RIG}.good", "_INBOX.good.>", ">"):
                await client.subscribe(subject)
            await until(lambda: len(errors) == len(forbidden) + 4)
            assert all("permissions violation" in error.lower() for error in errors)
            # And what it may say is checked.
            for data in (b"", b"{}", b"[]", b"\xff", b"x" * fleet.MAX_MESSAGE):
                await client.publish(f"{fleet.STATUS}.rig", data)
                await client.publish(f"{fleet.SOLUTION}.rig", data)
            await client.flush()
            await client.close()
            assert [rig.name for rig in each.rigs.stats()] == ["rig"]

    run(test)


def test_a_rig_that_lies_is_named_and_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with (
            fleet_and_rig(tmp_path) as (each, job, url),
            rig_of(url, tmp_path / "rig") as (link, listener, _),
        ):
            await listener.job()
            good = solve(job)
            for number in range(MAX_INVALID):
                bad = next(
                    n for n in range(100 * (number + 1), MAX) if not each.rigs._hasher.meets(HEADER, n, job.target)
                )
                link.submit(job, Solution(bad, 1), 1, 1.0)
                assert await listener.handover() == (Solution(bad, 1), Handover.LATE)
            assert each.rigs.stats()[0].aside
            link.submit(job, good, 1, 1.0)
            assert (await listener.handover())[1] is Handover.LATE
            each.clock.now += ASIDE_S
            link.submit(job, good, 1, 1.0)
            assert (await listener.handover())[1] is Handover.SENT
            assert each.sent.qsize() == 1

    run(test)
    assert "Rig rig has sent 5 invalid solutions in a row; ignored for 600 s" in caplog.text


def test_a_rig_goes_on_while_the_server_restarts_and_delivers_what_it_found_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_source, "RETRY_S", 0.05)

    async def test() -> None:
        async with (
            fleet_and_rig(tmp_path) as (each, job, url),
            rig_of(url, tmp_path / "rig") as (link, listener, task),
        ):
            assert await listener.job() == job
            await each.close()
            solution = solve(job)
            assert link.submit(job, solution, 1, 1.0) is Handover.WAITS
            await each.open_again()
            assert await listener.handover() == (solution, Handover.SENT)
            assert await each.next_sent() == solution
            assert (task.done(), listener.opened, listener.jobs.qsize()) == (False, 1, 0)

    run(test)


def test_the_newest_solutions_come_first_and_those_that_wait_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_source, "RETRY_S", 0.05)
    monkeypatch.setattr(hub_source, "MAX_PENDING", 3)

    async def test() -> None:
        async with (
            fleet_and_rig(tmp_path, difficulty=1) as (each, job, url),
            rig_of(url, tmp_path / "rig") as (link, listener, _),
        ):
            await listener.job()
            await each.close()
            solutions = [solve(job, number) for number in range(1, 6)]
            for solution in solutions:
                assert link.submit(job, solution, 1, 1.0) is Handover.WAITS
            assert [await listener.handover() for _ in range(2)] == [(late, Handover.LATE) for late in solutions[:2]]
            await each.open_again()
            assert [await listener.handover() for _ in range(3)] == [
                (sent, Handover.SENT) for sent in reversed(solutions[2:])
            ]

    run(test)


def test_without_the_hub_for_long_the_link_is_lost_and_a_later_run_delivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_source, "RETRY_S", 0.02)
    monkeypatch.setattr(hub_source, "GRACE_S", 0.2)

    async def test() -> None:
        async with fleet_and_rig(tmp_path) as (each, job, url):
            solution = solve(job)
            async with rig_of(url, tmp_path / "rig") as (link, listener, task):
                await listener.job()
                await each.close()
                link.submit(job, solution, 1, 1.0)
                with pytest.raises(LinkLostError, match="no connection"):
                    await asyncio.wait_for(task, WAIT_S)
            await each.open_again()
            # Another process of the rig, with the same state folder.
            async with rig_of(url, tmp_path / "rig"):
                assert await each.next_sent() == solution

    run(test)


def test_who_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet_and_rig(tmp_path) as (each, _, url):
            async with rig_of(url, tmp_path / "rig") as (_, listener, task):
                await listener.job()
                each.roster.revoke("rig")
                each.reload()
                with pytest.raises(LinkRefusedError, match="it refuses our token: invite this rig again"):
                    await asyncio.wait_for(task, WAIT_S)
            assert each.rigs.stats() == ()
            assert url.pin is not None
            other = fleet.HubUrl(url.name, url.seed, bytes(32), url.servers)
            async with rig_of(other, tmp_path / "rig") as (_, _, task):
                with pytest.raises(
                    LinkRefusedError, match=f"its certificate has SHA-256 {url.pin.hex()}, not the pinned 0"
                ):
                    await asyncio.wait_for(task, WAIT_S)
        async with rig_of(url, tmp_path / "rig") as (_, _, task):
            with pytest.raises(LinkLostError, match="no connection"):
                await asyncio.wait_for(task, WAIT_S)

    run(test)


def test_a_server_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet_at(tmp_path / "hub") as each:
            second = NatsServer(tmp_path, each.roster.certificate(), "127.0.0.1", each.server.port, new_key()[1])
            with pytest.raises(MinerError, match=r"^--nats-port: nats-server does not start: .*address already in use"):
                await second.start({})
            await second.stop()

    run(test)
    assert Path(find_program()).exists()


def test_rigs_mine_through_a_hub_that_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        lines: list[str] = []
        node = QuicNode(Chain(Pow.POSEIDON2, 2_000, 0.3), tmp_path, report=lines.append)
        await node.start()
        state = tmp_path / "hub"
        try:
            with HubProcess(node.port, node.folder, state, "--nats-port=0", "--metrics-port=0") as hub:
                line = await asyncio.to_thread(hub.wait_for_line, "Rigs can connect to port ")
                port = int(line.split("Rigs can connect to port ")[1].split()[0])
                urls = [url_for(Roster(state), f"rig{number}", port).secret for number in range(2)]
                await asyncio.to_thread(hub.wait_for_line, "2 rigs are invited")
                with contextlib.ExitStack() as stack:
                    rigs = [
                        stack.enter_context(MinerProcess("--port=0", "--workers=1", f"--hub={url}")) for url in urls
                    ]
                    for number, rig in enumerate(rigs):
                        await asyncio.to_thread(rig.wait_for_line, "Connected to hub")
                        await asyncio.to_thread(hub.wait_for_line, f"Rig rig{number} is here")
                        assert not any(urls[number] in line for line in rig.log)
                    await until(lambda: node.chain.height >= 3)
                    hub.process.kill()
                    again = stack.enter_context(HubProcess(node.port, node.folder, state, f"--nats-port={port}"))
                    await asyncio.to_thread(again.wait_for_line, "Connected to node")
                    height = node.chain.height
                    await until(lambda: node.chain.height >= height + 3)
                    for rig in rigs:
                        await asyncio.to_thread(again.wait_for_line, "is here")
                        rig.process.send_signal(signal.SIGTERM)
                        assert await asyncio.to_thread(rig.process.wait, 20) == 0
                        assert not any("Lost hub" in line for line in rig.log)
                    assert await asyncio.to_thread(again.stop) == 0
        finally:
            await node.stop()
        assert (node.tally.invalid, node.failed) == (0, 0), lines

    asyncio.run(test())
