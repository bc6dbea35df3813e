"""The hub with its stratum door, over real sockets: a client that is written from the specification, our own miner, a
development node and a development pool."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import pow as reference
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.dev.pool import DEV_WALLET, DevPool
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.errors import SettingError
from quantus_miner.events import SolutionSent, SolutionUnsent
from quantus_miner.host.certificate import self_signed
from quantus_miner.hub import door as door_module
from quantus_miner.hub import outbox as outbox_module
from quantus_miner.hub.bans import BAN_S, BREACH, MAX_ADDRESSES, MAX_BAD, WINDOW_S, Bans
from quantus_miner.hub.door import AWAY_S, Door, worker_name
from quantus_miner.hub.hashing import ShareHasher
from quantus_miner.hub.tallies import MAX_WORKERS, OTHERS, Tallies
from quantus_miner.hub.work import Hub
from quantus_miner.model import MAX, LiveJob, Pow, Solution
from quantus_miner.parts.door import tls_context
from quantus_miner.settings import load
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.store.writer import Store
from quantus_miner.web.server import listen
from quantus_miner.wire import validator
from quantus_miner.wire.pool_url import parse_pool_url

from .conftest import MinerProcess
from .stratum_client import StratumClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from quantus_miner.sources.searcher import LiveSearch

WAIT_S = 60.0
HEADER, OTHER_HEADER = bytes(range(32)), bytes(range(1, 33))
HARD = 2**100
"""A network difficulty that no share meets by chance."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fixture:
    """A hub with its door on a free port. The test is the live source: it gives jobs, and takes solutions."""

    def __init__(self, folder: Path, difficulty: int = 2, max_sessions: int = 100) -> None:
        self.clock = Clock()
        self.store = Store(folder, history_days=30)
        self.store.start()
        self.hub = Hub(self.store, clock=self.clock)
        self.hub.outbox.restore(self.store.outbox)
        self.door = Door(self.hub, share_time=5.0, difficulty=difficulty, wallet=DEV_WALLET)
        self.sent: asyncio.Queue[tuple[LiveJob, Solution]] = asyncio.Queue()
        self.takes: Callable[[Solution], bool] = lambda _: True
        self.node = NodeLink("127.0.0.1", 9833, "token", None)
        self.max_sessions = max_sessions
        self.port = 0

    def start(self, context: ssl.SSLContext | None = None) -> None:
        sock = listen("127.0.0.1", 0, "--stratum-port")
        self.port = sock.getsockname()[1]
        self.door.start(sock, context, max_sessions=self.max_sessions)

    def give(self, job_id: str = "1", header: bytes = HEADER, difficulty: int = HARD, link: Any = None) -> LiveJob:
        job = LiveJob(job_id, header, difficulty)

        def on_solution(search: LiveSearch, solution: Solution) -> None:
            assert search.elapsed >= 0
            event = SolutionSent if self.takes(solution) else SolutionUnsent
            if event is SolutionSent:
                self.sent.put_nowait((job, solution))
            self.hub.outbox.on_event(event("node", job, solution))

        self.hub.search(link or self.node, job, on_solution, priority=0, replaces=self.hub.work)
        return job

    async def next_sent(self) -> Solution:
        return (await asyncio.wait_for(self.sent.get(), WAIT_S))[1]

    def refusals(self) -> dict[str, int]:
        return dict(self.door.stats().refusals)


@contextlib.asynccontextmanager
async def hub_at(folder: Path, **options: Any) -> AsyncIterator[Fixture]:
    context = options.pop("context", None)
    fixture = Fixture(folder, **options)
    fixture.start(context)
    try:
        yield fixture
    finally:
        await fixture.door.close()
        fixture.store.close(WAIT_S)


@contextlib.asynccontextmanager
async def client_of(fixture: Fixture, login: str = "wallet.rig", **options: Any) -> AsyncIterator[StratumClient]:
    client = await StratumClient.logged_in(fixture.port, login, **options)
    try:
        yield client
    finally:
        await client.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def watched() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched(), debug=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is observed has no event
            await asyncio.sleep(0.005)


# --- solo: for a node ---


def test_a_share_is_accepted_and_one_that_meets_the_network_s_target_goes_up_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            network = fixture.give(difficulty=40)
            async with client_of(fixture) as client:
                assert (client.job["mining_hash"], client.job["difficulty"]) == (HEADER.hex(), 2)
                assert await client.submit(client.share(at_least=network.target + 1)) == "OK"
                block = client.share(below=network.target + 1)
                assert await client.submit(block) == "OK"
                solution = await fixture.next_sent()
                assert f"{solution.nonce:0128x}" == block["nonce"]
                assert solution.value == reference.evaluate(Pow.POSEIDON2, HEADER, solution.nonce) <= network.target
                assert await client.submit(block) == validator.DUPLICATE
            assert fixture.sent.empty()
            (worker,) = fixture.door.stats().workers
            assert (worker.name, worker.accepted, worker.rejected, worker.blocks, worker.work) == ("rig", 2, 1, 1, 4)
            assert fixture.hub.work is not None
            assert fixture.hub.work.hashes == 4

    run(test)


def test_what_a_share_can_get_wrong_is_said_in_the_usual_words(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                good = client.share()
                wrong = {
                    validator.UNKNOWN_JOB: good | {"job_id": "x"},
                    validator.BAD_NONCE: good | {"nonce": "00" * 64},
                    validator.BAD_RESULT: good | {"result": "00" * 64},
                    validator.LOW: client.share(below=MAX, at_least=int(client.job["target"], 16)),
                    "Invalid session": good | {"id": "x"},
                }
                for reason, share in wrong.items():
                    assert await client.submit(share) == reason
                assert await client.submit(good | {"nonce": good["nonce"][:-1]}) == validator.BAD_NONCE
                assert await client.submit(good | {"result": "x"}) == validator.BAD_RESULT
                fixture.give("2", OTHER_HEADER)
                assert await client.submit(good) == validator.STALE
                assert client.job["mining_hash"] == OTHER_HEADER.hex()
                assert await client.submit(client.share()) == "OK"
            counted = Counter(fixture.refusals())
            assert counted == {reason: 1 for reason in wrong if reason != "Invalid session"} | {
                validator.BAD_NONCE: 2,
                validator.BAD_RESULT: 2,
                validator.STALE: 1,
            }

    run(test)


def test_every_connection_has_an_extranonce_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture, contextlib.AsyncExitStack() as stack:
            fixture.give()
            clients = [await stack.enter_async_context(client_of(fixture)) for _ in range(20)]
            first = {client.job["extranonce"] for client in clients}
            await clients[0].close()
            async with client_of(fixture) as late:
                assert len({*first, late.job["extranonce"]}) == 21
            # The nonce of one is not valid for another.
            assert await clients[2].submit(clients[1].share() | {"id": clients[2].session}) == validator.BAD_NONCE

    run(test)


def test_a_share_is_never_harder_than_a_block_and_a_job_of_the_same_header_keeps_earlier_shares(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path, difficulty=1000) as fixture:
            fixture.give(difficulty=4)
            async with client_of(fixture) as client:
                assert client.job["difficulty"] == 4
                before = client.share()
                fixture.give("2", difficulty=3)
                assert (await client.next_job())["difficulty"] == 3
                assert await client.submit(before) == "OK"
                assert (await fixture.next_sent()).nonce == int(before["nonce"], 16)

    run(test)


def test_the_difficulty_follows_the_miner_s_speed_and_is_kept_for_its_return(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                for _ in range(4 * 8):
                    fixture.clock.now += int(client.job["difficulty"]) / 4.0  # 4 hashes a second
                    assert await client.submit(client.share()) == "OK"
                await client.call("keepalived", {"id": client.session})
                assert 20 / 2 < client.job["difficulty"] < 20 * 2  # 5 s times 4 hashes a second
                aim = client.job["difficulty"]
                # A miner that has become too slow gets easier shares, though none comes.
                fixture.clock.now += 60.0
                fixture.door.tick()
                assert (await client.next_job())["difficulty"] == aim // 4
            async with client_of(fixture) as client:
                assert client.job["difficulty"] == aim // 4

    run(test)


def test_without_work_a_login_is_refused_and_after_a_while_miners_are_sent_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            client = await StratumClient.connect(fixture.port)
            assert (await client.login("w.r"))["error"]["message"] == door_module.NOT_READY
            assert await client.is_dropped()
            await client.close()
            fixture.give()
            async with client_of(fixture) as client:
                assert fixture.hub.work is not None
                fixture.hub.work.cancel()
                fixture.clock.now += AWAY_S - 1
                fixture.door.tick()
                # The node may come back with the same job.
                assert await client.submit(client.share()) == "OK"
                fixture.clock.now += 1
                fixture.door.tick()
                assert await client.is_dropped()

    run(test)


def test_over_tls(tmp_path: Path) -> None:
    certificate = self_signed()
    (tmp_path / "own.pem").write_bytes(certificate.pem)

    async def test() -> None:
        trusting = ssl.create_default_context(cadata=certificate.pem.decode().split("-----BEGIN PRIVATE")[0])
        async with hub_at(tmp_path, context=certificate.server_context()) as fixture:
            fixture.give()
            async with client_of(fixture, context=trusting) as client:
                assert await client.submit(client.share()) == "OK"
            plain = await StratumClient.connect(fixture.port)
            plain.send({"id": 1, "method": "login", "params": {"login": "a.b"}})
            assert await plain.is_dropped()
            await plain.close()

    run(test)


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "own.pem"
    flags = {"node_addr": "a", "auth_token": "t", "tls_cert_sha256": "00" * 32, "stratum_port": "0"}
    settings = load(flags | {"stratum_cert": str(path)}, {"HOME": "/"}, None, command="hub")
    with pytest.raises(SettingError, match=r"^--stratum-cert: cannot use .*own.pem: No such file or directory$"):
        tls_context(settings)
    path.write_text("x")
    with pytest.raises(SettingError, match=r"own.pem: it must hold a certificate and its private key, without a pass"):
        tls_context(settings)
    path.write_bytes(self_signed().pem)
    assert tls_context(settings) is not None


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("node_addr", "the hub needs --node-addr or --pool"),
        ("stratum_port", "the hub needs --stratum-port or --nats-port"),
        ("stratum_cert", "--stratum-key needs --stratum-cert"),
    ],
)
def test_what_a_hub_cannot_do_without(missing: str, reason: str) -> None:
    flags = {
        "node_addr": "a",
        "auth_token": "t",
        "tls_cert_sha256": "00" * 32,
        "stratum_port": "0",
        "stratum_cert": "c",
        "stratum_key": "k",
    }
    assert load(flags, {"HOME": "/"}, None, command="hub").stratum_port == 0
    with pytest.raises(SettingError, match=f"^{reason}$"):
        load({name: text for name, text in flags.items() if name != missing}, {"HOME": "/"}, None, command="hub")


def test_settings_of_the_other_command_have_their_defaults() -> None:
    environ = {"HOME": "/", "MINER_STRATUM_PORT": "nonsense", "MINER_WORKERS": "3", "MINER_STRATUM_BIND": "::1"}
    assert (load({}, environ, None).stratum_bind, load({}, environ, None).workers) == ("127.0.0.1", 3)
    flags = {"pool": "stratum+tcp://a:1", "wallet": "w", "stratum_port": "1"}
    settings = load(flags, environ | {"MINER_WORKERS": "nonsense"}, None, command="hub")
    assert (settings.stratum_bind, settings.workers) == ("::1", None)


# --- hostile miners ---


def test_an_address_that_sends_mostly_bad_shares_is_banned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client, client_of(fixture) as neighbour:
                bad = client.share() | {"result": "00" * 64}
                for _ in range(MAX_BAD - 1):
                    assert await client.submit(bad) == validator.BAD_RESULT
                client.send({"id": 9, "method": "submit", "params": bad})
                assert await client.is_dropped()
                assert await neighbour.is_dropped()
            again = await StratumClient.connect(fixture.port)
            assert await again.is_dropped()
            await again.close()
            assert fixture.door.stats().banned_addresses == 1
            fixture.clock.now += BAN_S
            async with client_of(fixture) as client:
                assert await client.submit(client.share()) == "OK"

    run(test)
    assert "Banned 127.0.0.1 for 600 s: most of its shares are bad, the last one: Invalid result" in caplog.text


@pytest.mark.parametrize("flood", [b"x" * 20_000, b"{}\n", b'{"id":1,"method":"submit","params":{}}\n', b"\xff\n"])
def test_whoever_breaks_the_protocol_is_dropped(tmp_path: Path, flood: bytes) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            client = await StratumClient.connect(fixture.port)
            client.writer.write(flood)
            assert await client.is_dropped()
            await client.close()

    run(test)


def test_a_miner_that_sends_too_much_or_does_not_read_is_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                client.writer.write(b'{"method":"mining.ping"}\n' * 40_000)
                assert await client.is_dropped()
            async with client_of(fixture) as client:
                (session,) = fixture.door.sessions
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await until(lambda: session.is_open)
                number = 0
                while session.is_open:
                    number += 1
                    fixture.give(str(number), number.to_bytes(32))
                    await asyncio.sleep(0)
                    assert session.transport.get_write_buffer_size() < 200_000
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]

    run(test)


def test_a_full_server_gives_up_a_miner_that_has_not_logged_in_and_else_turns_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path, max_sessions=2) as fixture:
            fixture.give()
            idle = await StratumClient.connect(fixture.port)
            await until(lambda: len(fixture.door.sessions) == 1)
            async with client_of(fixture), client_of(fixture) as last:
                assert await idle.is_dropped()
                turned_away = await StratumClient.connect(fixture.port)
                assert await turned_away.is_dropped()
                assert await last.submit(last.share()) == "OK"
                await turned_away.close()
            await idle.close()

    run(test)


def test_bans_are_by_rate_and_bounded() -> None:
    bans = Bans()
    for _ in range(MAX_BAD * 3):
        bans.good("farm", 0.0)
    assert not any(bans.bad("farm", 1.0) for _ in range(MAX_BAD * 3))
    # Spread over windows, and breaches count more.
    assert not any(bans.bad("slow", WINDOW_S * number) for number in range(MAX_BAD * 2))
    assert [bans.bad("rude", 0.0, BREACH) for _ in range(MAX_BAD // BREACH)] == [False] * (MAX_BAD // BREACH - 1) + [
        True
    ]
    assert not bans.bad("rude", 1.0, BREACH)
    assert (bans.is_banned("rude", BAN_S - 1), bans.is_banned("rude", BAN_S), bans.count(1.0)) == (True, False, 1)
    for number in range(MAX_ADDRESSES):
        bans.bad(str(number), 1.0)
    assert len(bans._records) == MAX_ADDRESSES
    assert not bans.is_banned("farm", 1.0)


def test_worker_names_are_bounded_and_clean() -> None:
    assert [worker_name(login) for login in ("w.rig-1", "rig", "w.", "w.a b/é", "w." + "x" * 99)] == [
        *("rig-1", "rig", "miner", "a-b--"),
        "x" * 64,
    ]
    book = Tallies()
    for number in range(MAX_WORKERS):
        book.accept(book.of(f"rig{number}"), 10, 5.0)
    assert book.of("one more") is book.of("another") is book.of(OTHERS)
    assert len(book.stats(7.0)) == MAX_WORKERS + 1
    assert book.stats(7.0)[0].accepted_age_s == 2.0
    book = Tallies()
    for number in range(MAX_WORKERS):
        book.of(f"guest{number}")
    # Names that came to nothing make room.
    assert book.of("rig").name == "rig"
    assert len(book._tallies) == MAX_WORKERS
    book.refuse(book.of("rig"), "whatever a pool says", tallies_known := ("Stale share",))
    book.refuse(book.of("rig"), "Stale share", tallies_known)
    assert (book.of("rig").rejected, book.of("rig").stale, book.refusals) == (1, 1, {"other": 1, "Stale share": 1})


def test_the_fast_check_of_a_hash_agrees_with_the_reference() -> None:
    hasher = ShareHasher()
    for nonce in (1, 2**64, 2**511 + 7, MAX):
        value = reference.evaluate(Pow.POSEIDON2, HEADER, nonce)
        assert [hasher.is_hash(HEADER, nonce, value + delta) for delta in (-1, 0, 1)] == [False, True, False]
        assert not hasher.is_hash(HEADER, nonce, 0)


# --- solutions on their way up ---


def a_solution(header: bytes = HEADER, nonce: int = 1) -> Solution:
    return Solution(nonce, reference.evaluate(Pow.POSEIDON2, header, nonce))


def test_a_solution_waits_for_its_header_and_is_sent_once_also_after_restarts(tmp_path: Path) -> None:
    async def test() -> None:
        solution = a_solution()
        async with hub_at(tmp_path) as fixture:
            fixture.give(header=OTHER_HEADER, difficulty=1)
            saved = fixture.hub.solve(HEADER, solution.nonce)
            assert saved is not None
            await asyncio.wrap_future(saved)
            assert fixture.door.stats().solutions_waiting == 1
        async with hub_at(tmp_path) as fixture:
            fixture.give("2", difficulty=1)
            assert await fixture.next_sent() == solution
            # It is known: whoever brings it again gets the same answer.
            assert fixture.hub.solve(HEADER, solution.nonce) is not None
            fixture.give("3", difficulty=1)
            fixture.hub.tick()
            assert fixture.sent.empty()
        async with hub_at(tmp_path) as fixture:
            fixture.give(difficulty=1)
            again = fixture.hub.solve(HEADER, solution.nonce)
            assert again is not None
            await asyncio.wrap_future(again)
            fixture.hub.tick()
            assert fixture.sent.empty()
            assert fixture.door.stats().solutions_waiting == 0
            # After an hour it is forgotten.
            fixture.clock.now += outbox_module.KEEP_S
            fixture.hub.tick()
            assert not fixture.hub.outbox._entries
        async with hub_at(tmp_path) as fixture:
            assert fixture.store.outbox == []

    run(test)


def test_a_node_that_wants_no_more_for_now_gets_the_next_one_later(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give(difficulty=1)
            offered: list[int] = []
            fixture.takes = lambda solution: offered.append(solution.nonce) or len(offered) != 2  # type: ignore[func-returns-value]
            for nonce in (1, 2, 3):
                saved = fixture.hub.solve(HEADER, nonce)
                assert saved is not None
                await asyncio.wrap_future(saved)
            await until(lambda: len(offered) == 2)
            fixture.hub.tick()
            assert (offered, fixture.hub.outbox.waiting) == ([1, 2], 2)
            fixture.clock.now += outbox_module.RETRY_S
            fixture.hub.tick()
            assert (offered, fixture.hub.outbox.waiting) == ([1, 2, 2, 3], 0)
            # Those of a header that does not come back are given up, at once if one of them was sent.
            fixture.hub.solve(OTHER_HEADER, 5)
            saved = fixture.hub.solve(HEADER, 4)
            assert saved is not None
            fixture.takes = lambda _: False
            await asyncio.wrap_future(saved)
            fixture.give("2", bytes(32))
            assert fixture.hub.outbox.waiting == 1
            fixture.clock.now += outbox_module.EXPIRY_S
            fixture.hub.tick()
            assert (fixture.hub.outbox.waiting, fixture.hub.outbox.expired) == (0, 1)

    run(test)


def test_the_reference_has_the_last_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            assert fixture.hub.solve(HEADER, 1) is None
            assert fixture.hub.solve(OTHER_HEADER, 0) is None

    run(test)
    assert caplog.text.count("which the reference refuses") == 2


def test_the_outbox_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_SOLUTIONS", 3)

    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            for nonce in range(1, 6):
                fixture.hub.solve(HEADER, nonce)
            assert [nonce for _, nonce in fixture.hub.outbox._entries] == [3, 4, 5]
            await until(lambda: all(entry.saved.done() for entry in fixture.hub.outbox._entries.values()))

    run(test)


# --- in a pool: an upstream connection for each miner ---


@contextlib.asynccontextmanager
async def pool_behind_hub(
    folder: Path, misbehaviour: PoolMisbehaviour | None = None
) -> AsyncIterator[tuple[DevPool, Fixture]]:
    pool = DevPool(Chain(Pow.POSEIDON2, HARD, 3600.0), 2, 3600.0, misbehaviour=misbehaviour)
    await pool.start()
    try:
        async with hub_at(folder) as fixture:
            link = PoolLink(parse_pool_url(pool.url), f"{DEV_WALLET}.hub")
            source = LiveSource(fixture.hub, [link], priority=0, publish=fixture.hub.outbox.on_event)
            task = asyncio.create_task(source.run())
            try:
                await until(lambda: fixture.hub.work is not None)
                yield pool, fixture
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    finally:
        await pool.close()


def test_in_a_pool_every_miner_has_a_connection_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with pool_behind_hub(tmp_path) as (pool, fixture):
            async with client_of(fixture, "x.one") as one, client_of(fixture, "x.two") as two:
                assert one.job["extranonce"] != two.job["extranonce"]
                await until(lambda: len(pool.miners) == 3)
                assert {miner.worker for miner in pool.miners} == {"hub", "one", "two"}
                share = one.share()
                assert await one.submit(share) == "OK"
                assert await one.submit(share) == validator.DUPLICATE
                assert await two.submit(two.share()) == "OK"
                assert (pool.accepted, pool.rejected) == (2, {})
                pool.refresh(clean=True)
                old = one.share()
                await one.next_job()
                assert await one.submit(old) == validator.STALE
                assert await one.submit(one.share()) == "OK"
                workers = {worker.name: worker for worker in fixture.door.stats().workers}
                assert (workers["one"].accepted, workers["one"].stale, workers["two"].accepted) == (2, 1, 1)
            # With the miner, its connection to the pool ends.
            await until(lambda: {miner.worker for miner in pool.miners} == {"hub"})

    run(test)


def test_what_a_pool_says_of_a_share_is_passed_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            pool_behind_hub(tmp_path, PoolMisbehaviour.REFUSE_SHARES) as (_, fixture),
            client_of(fixture) as client,
        ):
            assert await client.submit(client.share()) == "Invalid nonce"
            # The pool's refusals are no reason for a ban.
            assert not fixture.door.bans._records

    run(test)


def test_a_miner_whose_pool_goes_away_or_refuses_it_is_sent_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with pool_behind_hub(tmp_path) as (pool, fixture):
            async with client_of(fixture) as client:
                await until(lambda: len(pool.miners) == 2)
                for miner in list(pool.miners):
                    if miner.worker == "rig":
                        miner.transport.abort()
                assert await client.is_dropped()
            pool.misbehaviour = PoolMisbehaviour.REFUSE_LOGIN
            refused = await StratumClient.connect(fixture.port)
            assert (await refused.login("x.rig"))["error"]["message"] == door_module.NOT_READY
            await refused.close()

    run(test)


def test_a_pool_that_sends_its_first_job_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantus_miner.hub.proxy.FIRST_JOB_S", 0.0)

    async def test() -> None:
        async with pool_behind_hub(tmp_path) as (pool, fixture):
            pool.misbehaviour, pool.share_time = PoolMisbehaviour.SLOW_JOB, 0.3
            async with client_of(fixture) as client:
                assert client.job == {}
                await client.next_job()
                assert await client.submit(client.share()) == "OK"

    run(test)


def test_miners_log_in_again_when_the_hub_changes_between_node_and_pool(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                fixture.give("2", link=NodeLink("127.0.0.1", 9833, "token", None))
                await client.next_job()
                fixture.give("3", link=PoolLink(parse_pool_url("stratum+tcp://127.0.0.1:1"), "w.hub"))
                assert await client.is_dropped()

    run(test)


# --- real processes ---


class HubProcess(MinerProcess):
    """A hub for the node in ``folder``."""

    def __init__(self, port: int, folder: Path, state: Path, *flags: str) -> None:
        super().__init__(
            "hub",
            f"--node-addr=127.0.0.1:{port}",
            f"--auth-token-file={folder / 'miner-auth-token'}",
            f"--tls-cert-sha256-file={folder / 'miner-tls-cert-sha256'}",
            "--stratum-share-time=1",
            *flags,
            MINER_STATE_DIR=str(state),
        )

    @property
    def stratum_port(self) -> int:
        return self._port("Stratum miners can connect to ")


def test_our_own_miner_and_a_client_from_the_specification_seal_blocks_through_a_hub(tmp_path: Path) -> None:
    """All as processes but the node. The hub is killed and started again in between: nothing is lost or sent twice."""

    async def test() -> None:
        lines: list[str] = []
        node = QuicNode(Chain(Pow.POSEIDON2, 60, 0.2), tmp_path, report=lines.append)
        await node.start()
        state, flags = tmp_path / "hub", ("--stratum-difficulty=20", "--metrics-port=0")
        try:
            with HubProcess(node.port, node.folder, state, "--stratum-port=0", *flags) as hub:
                port = await asyncio.to_thread(lambda: hub.stratum_port)
                await asyncio.to_thread(hub.wait_for_line, "Connected to node")
                await until(lambda: bool(node.miners))
                client = await StratumClient.logged_in(port, "anything.spec")
                while node.chain.height < 2:
                    assert await client.submit(client.share()) in ("OK", validator.STALE)
                await client.close()
                metrics = await asyncio.to_thread(hub.metrics)
                worker = frozenset({("worker", "spec")})
                assert metrics["miner_hub_worker_solutions_total", worker] >= 2
                source = ("source", f"node 127.0.0.1:{node.port}")
                assert metrics["miner_source_solutions_total", frozenset({source, ("result", "sent")})] >= 2
                height = node.chain.height
                hub.process.kill()
                with (
                    MinerProcess(
                        "--port=0",
                        "--workers=1",
                        f"--pool=stratum+tcp://127.0.0.1:{port}",
                        "--wallet=w",
                        "--worker-name=own",
                    ) as miner,
                    HubProcess(node.port, node.folder, state, f"--stratum-port={port}", *flags) as again,
                ):
                    await until(lambda: node.chain.height >= height + 5)
                    await asyncio.to_thread(miner.wait_for_line, "accepted (")
                    metrics = await asyncio.to_thread(again.metrics)
                    assert metrics["miner_hub_worker_solutions_total", frozenset({("worker", "own")})] >= 1
                    assert await asyncio.to_thread(miner.stop) == 0
                    assert await asyncio.to_thread(again.stop) == 0
        finally:
            await node.stop()
        assert (node.tally.invalid, node.failed) == (0, 0), lines

    asyncio.run(test())
