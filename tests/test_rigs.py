"""The hub's rigs over a real NATS server: jobs, solutions, permissions, and what happens when any of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner import pow as reference
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.errors import LinkLostError, LinkRefusedError, MinerError
from quantus_miner.hub import rigs as rigs_module
from quantus_miner.hub.hashing import ShareHasher
from quantus_miner.hub.nats_server import NatsServer, find_program
from quantus_miner.hub.rigs import ASIDE_S, MAX_INVALID, OFFLINE_S, Rigs
from quantus_miner.hub.roster import RIGS, Roster, new_key
from quantus_miner.model import MAX, LiveJob, Pow, Solution
from quantus_miner.sources import hub as hub_source
from quantus_miner.sources import nats
from quantus_miner.sources.hub import HubLink
from quantus_miner.sources.link import Handover
from quantus_miner.sources.pool import PoolLink
from quantus_miner.store.writer import Store
from quantus_miner.wire import fleet
from quantus_miner.wire.core import RemoteProtocolError
from quantus_miner.wire.pool_url import parse_pool_url

from .conftest import MinerProcess
from .test_hub import HEADER, OTHER_HEADER, WAIT_S, Fixture, HubProcess, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

pytest.importorskip("nats", reason="needs the extra hub")
pytest.importorskip("nkeys", reason="needs the extra hub")
if not (shutil.which("nats-server") or Path(sys.executable).with_name("nats-server").exists()):
    pytest.skip("needs nats-server (apt install nats-server)", allow_module_level=True)

STATUS = fleet.StatusMessage("1.0", 10.0, 5e6, 50, 1, 4, 60.0, None)


class RigListener:
    """What the live source of a rig learns."""

    def __init__(self) -> None:
        self.opened = 0
        self.jobs: asyncio.Queue[LiveJob | None] = asyncio.Queue()
        self.handovers: asyncio.Queue[tuple[Solution, Handover]] = asyncio.Queue()

    def on_open(self) -> None:
        self.opened += 1

    def on_alive(self) -> None:
        pass

    def on_job(self, job: LiveJob) -> None:
        self.jobs.put_nowait(job)

    def on_no_job(self) -> None:
        self.jobs.put_nowait(None)

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        self.handovers.put_nowait((solution, handover))

    def on_verdict(self, verdict: object) -> None:
        raise AssertionError

    async def job(self) -> LiveJob:
        job = await asyncio.wait_for(self.jobs.get(), WAIT_S)
        assert job is not None
        return job

    async def handover(self) -> tuple[Solution, Handover]:
        return await asyncio.wait_for(self.handovers.get(), WAIT_S)


class Fleet(Fixture):
    """A hub with a NATS server; the test is its live source."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.roster = Roster(folder)
        self.rigs = Rigs(self.hub, ShareHasher())
        self.seed, key = new_key()
        self.server = NatsServer(self.roster.folder, self.roster.certificate(), "127.0.0.1", 0, key)
        self.serving: asyncio.Task[None] | None = None
        self.client: Any = None

    async def open(self) -> None:
        await self.server.start(self.roster.load())
        await self.serve()

    async def serve(self) -> None:
        async def nothing(*_: object) -> None:
            pass

        pem = self.roster.certificate().read_text().partition("-----BEGIN PRIVATE")[0]
        self.client = await nats.connect(
            ("127.0.0.1", self.server.port),
            nats.trusting(pem),
            seed=self.seed,
            inbox="_INBOX.-hub-",
            on_error=nothing,
            on_end=nothing,
        )
        self.serving = asyncio.create_task(self.rigs.serve(self.client))

    async def close(self) -> None:
        if self.serving is not None:
            self.serving.cancel()
            await asyncio.gather(self.serving, return_exceptions=True)
            await self.client.close()
        await self.server.stop()

    def invite(self, name: str) -> fleet.HubUrl:
        url = self.roster.invite(name, "127.0.0.1", self.server.port)
        self.reload()
        return url

    def reload(self) -> None:
        self.server.reload(self.roster.load())
        self.rigs.invite(self.roster.load())

    async def open_again(self) -> None:
        """With a new server on the same port."""
        self.seed, key = new_key()
        self.server = NatsServer(self.roster.folder, self.roster.certificate(), "127.0.0.1", self.server.port, key)
        await self.open()


@contextlib.asynccontextmanager
async def fleet_at(folder: Path) -> AsyncIterator[Fleet]:
    each = Fleet(folder)
    try:
        await each.open()
        yield each
    finally:
        await each.close()
        each.store.close(WAIT_S)


@contextlib.asynccontextmanager
async def rig_of(url: fleet.HubUrl, state: Path) -> AsyncIterator[tuple[HubLink, RigListener, asyncio.Task[Any]]]:
    store = Store(state, history_days=30)
    store.begin()
    link, listener = HubLink(url, store, lambda: STATUS), RigListener()
    task: asyncio.Task[Any] = asyncio.create_task(link.run(listener))
    try:
        yield link, listener, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close(WAIT_S)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def known(each: Fleet, url: fleet.HubUrl, state: Path) -> None:
    """Wait until the server knows a rig that was just invited: it reads its file again by itself."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with rig_of(url, state) as (_, listener, task):
                waiting = asyncio.create_task(listener.jobs.get())
                await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not task.done():
                    return


def solve(job: LiveJob, number: int = 1) -> Solution:
    nonce = int.from_bytes(job.prefix.ljust(64, b"\0")) + number
    while (value := reference.evaluate(Pow.POSEIDON2, job.header, nonce)) > job.target:
        nonce += 1
    return Solution(nonce, value)


# --- over a real server ---


def test_a_rig_gets_jobs_and_its_solutions_go_up_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with fleet_at(tmp_path / "hub") as each:
            first = each.give("1", difficulty=3)
            url = each.invite("rig7")
            await known(each, url, tmp_path / "rig")
            async with rig_of(url, tmp_path / "rig") as (link, listener, _):
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
                assert (rig.name, rig.online, rig.kept, rig.stale, rig.invalid) == ("rig7", True, 2, 1, 0)
                assert (rig.version, rig.temperature, rig.power) == ("1.0", 60.0, None)
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
        async with fleet_at(tmp_path / "hub") as each:
            each.give("1")
            url = each.invite("bad")
            await known(each, url, tmp_path / "rig")
            errors: list[str] = []

            async def on_error(error: Exception) -> None:
                errors.append(str(error))

            async def on_end() -> None:
                pass

            pem = each.roster.certificate().read_text().partition("-----BEGIN PRIVATE")[0]
            address = ("127.0.0.1", each.server.port)
            client = await nats.connect(
                address, nats.trusting(pem), seed=url.seed, inbox="_INBOX.bad", on_error=on_error, on_end=on_end
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
                await client.publish(f"{fleet.STATUS}.bad", data)
                await client.publish(f"{fleet.SOLUTION}.bad", data)
            await client.flush()
            await client.close()
            assert [rig.name for rig in each.rigs.stats()] == ["bad"]

    run(test)


def test_a_rig_that_lies_is_named_and_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with fleet_at(tmp_path / "hub") as each:
            job = each.give("1", difficulty=3)
            url = each.invite("liar")
            await known(each, url, tmp_path / "rig")
            async with rig_of(url, tmp_path / "rig") as (link, listener, _):
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
    assert "Rig liar has sent 5 invalid solutions in a row; ignored for 600 s" in caplog.text


def test_a_rig_goes_on_while_the_server_restarts_and_delivers_what_it_found_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_source, "RETRY_S", 0.05)

    async def test() -> None:
        async with fleet_at(tmp_path / "hub") as each:
            job = each.give("1", difficulty=3)
            url = each.invite("rig")
            await known(each, url, tmp_path / "rig")
            async with rig_of(url, tmp_path / "rig") as (link, listener, task):
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
        async with fleet_at(tmp_path / "hub") as each:
            job = each.give("1", difficulty=1)
            url = each.invite("rig")
            await known(each, url, tmp_path / "rig")
            async with rig_of(url, tmp_path / "rig") as (link, listener, _):
                await listener.job()
                await each.close()
                solutions = [solve(job, number) for number in range(1, 6)]
                for solution in solutions:
                    assert link.submit(job, solution, 1, 1.0) is Handover.WAITS
                assert [await listener.handover() for _ in range(2)] == [
                    (late, Handover.LATE) for late in solutions[:2]
                ]
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
        async with fleet_at(tmp_path / "hub") as each:
            job = each.give("1", difficulty=3)
            url = each.invite("rig")
            await known(each, url, tmp_path / "rig")
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
        async with fleet_at(tmp_path / "hub") as each:
            each.give("1")
            url = each.invite("rig")
            await known(each, url, tmp_path / "rig")
            async with rig_of(url, tmp_path / "rig") as (_, listener, task):
                await listener.job()
                each.roster.revoke("rig")
                each.reload()
                with pytest.raises(LinkRefusedError, match="it refuses our token: invite this rig again"):
                    await asyncio.wait_for(task, WAIT_S)
            assert each.rigs.stats() == ()
            other = fleet.HubUrl(url.name, url.seed, bytes(32), url.host, url.port)
            async with rig_of(other, tmp_path / "rig") as (_, _, task):
                with pytest.raises(LinkRefusedError, match=f"its certificate has SHA-256 {url.pin.hex()}, not the one"):
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


# --- the roster ---


def test_invitations_are_kept_and_end(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    assert (roster.load(), roster.stamp()) == ({}, 0)
    first = roster.invite("a", "hub.lan", 4222)
    assert fleet.parse_hub_url(first.secret) == first
    assert first.pin == roster.fingerprint() == Roster(tmp_path).fingerprint()
    second = roster.invite("a", "hub.lan", 4222)
    assert second.seed != first.seed
    roster.invite("b", "::1", 1)
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
    assert (url.name, url.host, url.port) == ("rig7", "192.168.1.10", 4222)
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


# --- messages ---


@given(st.integers(1, MAX), st.binary(max_size=8), st.integers(0, MAX), st.binary(min_size=32, max_size=32))
def test_a_job_arrives_as_it_was_sent(difficulty: int, prefix: bytes, target: int, header: bytes) -> None:
    for job in (LiveJob("1", header, difficulty, prefix), LiveJob("1", header, difficulty, prefix, target)):
        message = fleet.decode(fleet.encode(fleet.job_message(job, "run", 7, b"hub")), fleet.JobMessage)
        arrived = fleet.live_job(message, b"abc")
        assert arrived is not None
        assert (arrived.header, arrived.difficulty, arrived.target) == (job.header, job.difficulty, job.target)
        assert arrived.prefix == (prefix + b"hubabc" if prefix else b"")
        assert (fleet.live_job(message, None) is None) == bool(prefix)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * 5000, "a message of more than 4,096 bytes"),
        (b"{", "a message that is not JSON"),
        (b'{"header":"00"}', "a malformed message: Expected `str` matching regex"),
    ],
)
def test_messages_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(reason)):
        fleet.decode(data, fleet.SolutionMessage)


@pytest.mark.parametrize("text", ["", "tls://host", "tls://a.b.c@host", "nats://x@y", "tls://a.SU.00@h:1"])
def test_urls_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fleet.URL_FORM)):
        fleet.parse_hub_url(text)


# --- real processes ---


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
                urls = [Roster(state).invite(f"rig{number}", "127.0.0.1", port).secret for number in range(2)]
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
