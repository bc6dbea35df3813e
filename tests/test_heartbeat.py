"""Signs of life for the service manager: over real sockets, from a real miner, against what can get stuck."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends.base import EngineStatus
from quantus_miner.heartbeat import Heartbeat
from quantus_miner.host.notify import STATUS_S, Notifier
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.stats import LinkStats
from quantus_miner.mining.worker import STALL_S
from quantus_miner.model import Job, NonceRange, Pow, Rates
from quantus_miner.monitor import Snapshot
from quantus_miner.native import Outcome
from quantus_miner.wording import MAX_STATUS

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from quantus_miner.backends.backend import EngineOptions
    from quantus_miner.backends.base import Control

WAIT_S = 30.0


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(WAIT_S)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def environ(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address} | more

    def next(self) -> dict[str, str]:
        """The next message's assignments."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def waiting(self) -> list[dict[str, str]]:
        """All messages that have arrived."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            self.socket.settimeout(WAIT_S)
            return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@quantus-miner-{os.getpid()}"
    manager = Manager(address)
    with closing(manager.socket):
        yield manager


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class StuckEngine:
    """Its kernel does not come back, however it is asked, until the test lets it."""

    name = "stuck"
    workers = 2

    def __init__(self, *, asleep: bool = False) -> None:
        self.begun = threading.Semaphore(0)
        self.release = threading.Event()
        self._asleep = asleep

    def status(self) -> EngineStatus:
        return EngineStatus()

    def kernel(self, pow: Pow) -> str | None:
        return "stuck"

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        self.begun.release()
        if self._asleep:
            assert control.sleep(WAIT_S)
        else:
            assert self.release.wait(WAIT_S)
        return Outcome(count, None)

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        return None

    def close(self) -> None:
        pass


def look(miner: Miner, links: tuple[LinkStats, ...] = (), *, store_ok: bool = True) -> Snapshot:
    rates = Rates(0.0, None, None, None, None)
    return Snapshot(0.0, 8000.0, 2, miner.stats(), links, store_ok=store_ok, rates=rates)


def job() -> Job:
    return Job("a", Pow.POSEIDON2, bytes(32), 0, (NonceRange(1, 10**9),))


# --- the socket ---


def test_messages_go_to_path_and_abstract_sockets(manager: Manager) -> None:
    Notifier(manager.environ()).send("READY=1", "STATUS=well")
    assert manager.next() == {"READY": "1", "STATUS": "well"}


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens", "vsock:2:1234"])
def test_without_a_listener_nothing_happens(address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address}).send("READY=1")


@pytest.mark.parametrize(
    ("environ", "watchdog", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, True, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, True, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, False, STATUS_S),
        ({"WATCHDOG_USEC": "0"}, False, STATUS_S),
        ({"WATCHDOG_USEC": "soon"}, False, STATUS_S),
        ({"WATCHDOG_USEC": "9" * 5000}, False, STATUS_S),
        ({"WATCHDOG_USEC": "0" * 5000 + "1"}, False, STATUS_S),
        ({}, False, STATUS_S),
    ],
)
def test_the_watchdog_wants_a_sign_in_half_its_time(environ: dict[str, str], watchdog: bool, interval: float) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/run/notify"} | environ)
    assert (notifier.watchdog, notifier.interval_s) == (watchdog, interval)


def test_a_full_socket_does_not_block_the_service(manager: Manager) -> None:
    notifier = Notifier(manager.environ())
    for _ in range(10_000):
        notifier.send("WATCHDOG=1")
    assert manager.waiting()


# --- what is judged ---


def test_the_dog_is_fed_only_while_workers_with_work_advance(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager, clock, engine = Manager(str(tmp_path / "notify")), Clock(), StuckEngine()
    miner = Miner([engine], chunk_s=1.0, clock=clock)
    heartbeat = Heartbeat(Notifier(manager.environ(WATCHDOG_USEC="4000000")), clock)

    def tick(seconds: float) -> list[dict[str, str]]:
        clock.now += seconds
        miner.tick()
        heartbeat.on_snapshot(look(miner))
        return manager.waiting()

    miner.start()
    heartbeat.ready(look(miner))
    ready, first = manager.waiting()
    assert ready == {"READY": "1"}
    assert first["WATCHDOG"] == "1"
    assert first["STATUS"] == "idle: no source has work: no node or pool is set; jobs come over HTTP | up 2 h 13 min"
    # Without work nothing has to advance.
    assert [message["WATCHDOG"] for message in tick(100)] == ["1"]
    search = miner.submit(job(), lambda _: None)
    assert all(engine.begun.acquire(timeout=WAIT_S) for _ in range(2))
    assert [message["WATCHDOG"] for message in tick(1)] == ["1"]
    assert "WATCHDOG" in tick(STALL_S - 1)[0]
    assert miner.stats().stalled == []
    (last,) = tick(1)
    assert miner.stats().stalled == [0, 1]
    assert last == {"STATUS": "Worker 0, 1 has work and has not advanced for 10 s"}
    assert tick(1) == tick(50) == []
    assert [record.getMessage() for record in caplog.records] == [last["STATUS"]]
    # It comes back to life: the next tick says so at once.
    miner.cancel(search)
    engine.release.set()
    while miner.stats().busy_workers:
        pass
    assert [message["WATCHDOG"] for message in tick(0.1)] == ["1"]
    heartbeat.stopping()
    assert manager.next()["STOPPING"] == "1"
    assert miner.close(WAIT_S)
    manager.socket.close()


def test_a_worker_that_sleeps_as_it_should_is_not_stuck() -> None:
    clock, engine = Clock(), StuckEngine(asleep=True)
    miner = Miner([engine], chunk_s=1.0, clock=clock)
    miner.start()
    miner.submit(job(), lambda _: None)
    assert all(engine.begun.acquire(timeout=WAIT_S) for _ in range(2))
    while not all(worker.control.sleeping for worker in miner._workers):
        pass
    for _ in range(3):
        clock.now += STALL_S
        miner.tick()
        assert miner.stats().stalled == []
    assert miner.close(WAIT_S)


def test_a_miner_without_workers_left_is_no_sign_of_life(tmp_path: Path) -> None:
    manager, clock, engine = Manager(str(tmp_path / "notify")), Clock(), StuckEngine()
    miner = Miner([engine], chunk_s=1.0, clock=clock)
    heartbeat = Heartbeat(Notifier(manager.environ(WATCHDOG_USEC="4000000")), clock)
    for worker in miner._workers:
        worker.alive = False
    heartbeat.on_snapshot(look(miner))
    assert manager.waiting() == [{"STATUS": "No worker is left"}]
    manager.socket.close()


def test_a_miner_that_cannot_be_asked_is_no_sign_of_life(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    heartbeat = Heartbeat(Notifier(manager.environ(WATCHDOG_USEC="4000000")), Clock())
    heartbeat.on_snapshot(Snapshot(0.0, 0.0, 2))
    assert manager.waiting() == [{"STATUS": "The state of the workers is unknown"}]
    manager.socket.close()


# --- what the status says beside the workers ---


def test_the_status_says_which_source_is_down_and_since_when(tmp_path: Path) -> None:
    manager, clock, engine = Manager(str(tmp_path / "notify")), Clock(), StuckEngine()
    miner = Miner([engine], chunk_s=1.0, clock=clock)
    first, second, third = (LinkStats(f"pool {letter}", connected=True, jobs=1) for letter in "abc")
    third.connected = False  # not needed
    first.mined = True
    store_ok = True
    links = (first, second, third)
    heartbeat = Heartbeat(Notifier(manager.environ(WATCHDOG_USEC="4000000")), clock)
    search = miner.submit(job(), lambda _: None)
    speed, ended = "speed 10s/60s/15m n/a n/a n/a H/s | up 2 h 13 min", "idle: no source has work: "

    def status(seconds: float) -> str:
        clock.now += seconds
        for link in links:
            link.now = clock.now
        miner.tick()
        heartbeat.on_snapshot(look(miner, links, store_ok=store_ok))
        (message,) = manager.waiting()
        assert message["WATCHDOG"] == "1"  # a restart would mend nothing
        return message["STATUS"]

    heartbeat.ready(look(miner, links))
    assert manager.waiting()[-1]["STATUS"] == speed
    # At once, not with the next sign of life.
    miner.cancel(search)
    for link in links:
        link.mined = link.connected = False
        link.changed_at = clock.now
    down = ", ".join(f"pool {letter} not connected for 0 s" for letter in "abc")
    assert status(0.25) == f"{ended}{down} | up 2 h 13 min"
    second.connected, second.failing = True, "no job"
    assert status(90).startswith(f"{ended}pool a not connected for 90 s, pool b is failing (no job), pool c not ")
    search = miner.submit(job(), lambda _: None)
    second.mined, second.failing = True, ""
    assert status(150) == f"{speed}; pool a not connected for 4 min; mining for pool b instead"
    first.connected, first.failing = True, "shares refused"
    assert status(90) == f"{speed}; pool a is failing (shares refused); mining for pool b instead"
    first.failing = ""
    assert status(90) == f"{speed}; pool a is not mined yet; mining for pool b instead"
    first.jobs = 0
    assert status(90) == f"{speed}; pool a has not sent a job yet; mining for pool b instead"
    first.refusal = "it refuses the login: Invalid\nMAINPID=1 address" + "!" * 1000
    refused = status(8000).removeprefix(
        f"{speed}; pool a refuses us: it refuses the login: Invalid\\nMAINPID=1 address"
    )
    assert set(refused.partition(";")[0]) == {"!"}
    assert len(refused) < 250
    first.refusal, first.connected = "", True
    first.mined, second.mined = True, False
    assert status(1) == speed
    first.failing = "old job"
    assert status(90) == f"{speed}; pool a is failing (old job)"
    first.failing = ""
    store_ok = False
    next(worker for worker in miner._workers if worker.index == 1).alive = False
    assert status(100) == f"{speed}; worker 1 has failed; jobs are kept in memory only"
    miner.cancel(search)
    manager.socket.close()


def test_a_status_names_days_and_stays_short(tmp_path: Path) -> None:
    manager, clock, engine = Manager(str(tmp_path / "notify")), Clock(), StuckEngine()
    links = tuple(LinkStats(f"pool {number} {'x' * 250}", changed_at=clock.now) for number in range(100))
    miner = Miner([engine], chunk_s=1.0, clock=clock)
    heartbeat = Heartbeat(Notifier(manager.environ()), clock)
    heartbeat.on_snapshot(look(miner, links))
    manager.waiting()
    for seconds, words in ((119, "119 s"), (1, "2 min"), (7079, "119 min"), (1, "2 h 0 min"), (165_600, "2 days 0 h")):
        clock.now += seconds
        for link in links:
            link.now = clock.now
        miner.tick()
        heartbeat._next = 0.0
        heartbeat.on_snapshot(look(miner, links))
        (message,) = manager.waiting()
        assert f"not connected for {words}" in message["STATUS"]
        assert len(message["STATUS"]) <= MAX_STATUS
    manager.socket.close()


# --- the service ---


def test_a_service_whose_pool_is_down_says_so(manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    wallet = "qzjTEwCDN6vQ6g4C5dq2NBJ2yxkZ9XtJzprerRgPpmj3ay16V"
    flags = ("--port=0", "--workers=1", f"--pool=stratum+tcp://127.0.0.1:{port}", f"--wallet={wallet}")
    with MinerProcess(*flags, **manager.environ(WATCHDOG_USEC="2000000")) as miner:
        assert manager.next() == {"READY": "1"}
        assert f"pool stratum+tcp://127.0.0.1:{port} not connected for " in manager.next()["STATUS"]
        assert miner.stop() == 0


def test_a_service_says_ready_when_it_answers_and_stopping_when_it_ends(manager: Manager) -> None:
    with MinerProcess("--port", "0", "--workers", "1", **manager.environ(WATCHDOG_USEC="2000000")) as miner:
        assert manager.next() == {"READY": "1"}
        # Said before it was: whoever was told has only to connect.
        assert miner.call("GET", "/health")[0] == 200
        assert [manager.next()["WATCHDOG"] for _ in range(3)] == ["1"] * 3
        assert miner.stop() == 0
        messages = manager.waiting()
        assert messages[-1] == {"STOPPING": "1", "STATUS": "Stopping"}


def test_a_service_that_cannot_start_is_never_ready(manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "quantus_miner", "--port", port],
            env=os.environ | manager.environ(),
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
    assert ended.returncode == 1
    assert manager.waiting() == []
