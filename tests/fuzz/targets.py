"""One function for each parser of bytes from outside; a target raises nothing, whatever it is given.

A target lets its parser raise what that says it raises, checks what can be checked of the result, and has its seeds in
``corpus/NAME``. Where a target stands for several files or values, they are parts of its input, between ``CUT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aioquic.quic.configuration import QuicConfiguration

from quantus_miner import doctor, native, rpc, unit
from quantus_miner.backends import autotune
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.backends.throttled import ThrottledEngine
from quantus_miner.dev import node_files as files_of_node
from quantus_miner.dev.http_node import MinerClient
from quantus_miner.errors import MAX_REASON, MinerError, SettingError
from quantus_miner.gpu import tuning
from quantus_miner.gpu.device import Device
from quantus_miner.host import cpus, topology
from quantus_miner.host.notify import Notifier
from quantus_miner.hub import nats_server
from quantus_miner.hub.desired import Desired
from quantus_miner.hub.roster import Roster
from quantus_miner.jobs import Jobs
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.stats import GpuStats, LinkStats, MinerStats, WorkerStats
from quantus_miner.model import MAX, Job, LiveJob, NonceRange, Order, Pow, Progress, Solution, Status
from quantus_miner.monitor import Snapshot
from quantus_miner.pow.block import SealedBlock
from quantus_miner.pow.order import last_position, positions_from
from quantus_miner.setting_table import SETTINGS
from quantus_miner.settings import load
from quantus_miner.store import database, history
from quantus_miner.store.database import DamagedError, Database, NewerError
from quantus_miner.store.rows import Find, StoredJob, StoredSolution
from quantus_miner.store.writer import Store
from quantus_miner.web import line_server
from quantus_miner.web.connection import BoundedProtocol
from quantus_miner.web.job_api import JobApi
from quantus_miner.web.routes import Access, Routes
from quantus_miner.web.server import Server
from quantus_miner.web.status import status_of
from quantus_miner.wire import (
    address,
    api,
    cgminer,
    claymore,
    core,
    fleet,
    frames,
    hosts,
    json_rpc,
    lines,
    messages,
    nats_url,
    node,
    pool_url,
    status,
    stratum,
    stratum_miner,
    xmrig,
)
from quantus_miner.wire.commands import CommandRequest
from quantus_miner.wire.stratum_pool import LoginAsked, ShareCame, StratumPool
from quantus_miner.wire.validator import ShareValidator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from starlette.types import Receive, Scope, Send

CUT: Final = b"\n--\n"
HEADER: Final = bytes(range(32))
EXTRANONCE: Final = b"\x00\x04\xf0\x05"


# --- the HTTP job API ---


def http_body(data: bytes) -> None:
    try:
        job = api.parse_mine(data, 7)
    except api.InvalidRequestError as error:
        assert len(error.job_id) <= api.MAX_JOB_ID
        reply = msgspec.json.decode(api.encode_reply("error", error.job_id, error.message))
        assert reply == {"status": "error", "job_id": error.job_id, "message": error.message}
        return
    assert 0 < len(job.id) <= api.MAX_JOB_ID
    assert len(job.header) == 32
    assert 0 <= job.target <= MAX
    assert job.order is Order.COUNTING or job.pow is Pow.POSEIDON2
    assert not api.is_implausible(job) or (job.pow is Pow.SHA3 and 0 < job.target < 2**400)
    reply = msgspec.json.decode(api.encode_result(job.id, Status.RUNNING, None, 0, 0.0))
    assert reply["job_id"] == job.id
    if len(job.ranges) == 1:
        target = {"distance_threshold": str(job.target)} if job.pow is Pow.SHA3 else {"difficulty": _difficulty(data)}
        ends = {"nonce_start": f"{job.ranges[0].start:0128x}", "nonce_end": f"{job.ranges[0].end:0128x}"}
        again = {"job_id": job.id, "mining_hash": job.header.hex(), **target, **ends}
        assert job.order is Order.WALK or api.parse_mine(msgspec.json.encode(again), 8) == job


def _difficulty(data: bytes) -> str:
    return str(msgspec.json.decode(data)["difficulty"])


def http_connection(data: bytes) -> None:
    service = _http_service()
    replies = service.loop.run_until_complete(service.exchange(data))
    assert not service.errors, service.errors
    statuses = rb"HTTP/1\.1 (100|200|400|401|403|404|408|409|413|415|421|503) "
    assert not replies or re.match(statuses, replies), replies[:80]
    assert all(line.isprintable() for line in replies.decode().split("\r\n"))


def http_upgrade(data: bytes) -> None:
    """The rest of a head, a body and what follows: an offered upgrade must change nothing of what they mean."""
    if len(data) > 6_000:  # so that all is parsed at once
        return
    service = _http_service()
    offer = b"connection: Upgrade\r\nupgrade: h2c\r\n"
    meant = []
    for more in (b"", offer):
        head = b"POST /mine HTTP/1.1\r\n" + more + b"host: localhost\r\ncontent-type: application/json\r\n"
        replies = service.loop.run_until_complete(service.exchange(head + data))
        meant.append(re.findall(rb'HTTP/1\.1 \d+|"(?:status|job_id|message)":"[^"]*"', replies))
    assert meant[0] == meant[1], meant
    assert not service.errors, service.errors


def http_hosts(data: bytes) -> None:
    text, _, more = data.decode("latin-1").partition("\n")
    names = frozenset({"localhost", "rig1.lan"})
    for problem in (
        hosts.misdirected([text, *more.split("\n")], names),
        hosts.from_other_page(text, more.split("\n"), [text]),
    ):
        assert problem is None or (problem.isprintable() and len(problem) < 500)
    own = re.sub(r":[0-9]*\Z", "", text).lower().removesuffix(".")
    if own not in {*names, ""} and hosts.misdirected([text], names) is None:
        ipaddress.ip_address(own.strip("[]"))
    try:
        allowed = hosts.parse_names(text)
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert hosts.misdirected(allowed, frozenset(allowed)) is None


class _HttpService(logging.Handler):
    """The job API as the service builds it, on one event loop, without workers; ``errors``: what it logs of them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        logging.getLogger().addHandler(self)
        self.errors: list[str] = []
        self.loop = asyncio.new_event_loop()
        self._miner = Miner([_engine()], chunk_s=1.0)
        # As the second miner of a state folder: it keeps its jobs in memory.
        folder = Path(tempfile.mkdtemp())
        self._owner = Database(folder, history_days=1)
        self._store = Store(folder, history_days=1)
        assert self._store.start() == []
        self._routes: Routes

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._routes(scope, receive, send)

        self._server = Server(app, socket.socket())
        self._server.config.load()

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(self.format(record))

    async def exchange(self, data: bytes) -> bytes:
        """What is answered to ``data`` and the end of it."""
        jobs = Jobs(
            self._miner, self._store, expiry_s=600, clock=time.monotonic, call_soon=self.loop.call_soon_threadsafe
        )
        self._routes = Routes()
        api = JobApi(jobs, self._miner, self._routes, Access(None))
        api.accepting = True
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop, state = self.loop, self._server.server_state
        await loop.connect_accepted_socket(
            lambda: BoundedProtocol(10, config=self._server.config, server_state=state, app_state={}, _loop=loop),
            theirs,
        )
        with ours:
            reading = asyncio.create_task(self._read(ours))
            with contextlib.suppress(ConnectionError):
                await loop.sock_sendall(ours, data)
                ours.shutdown(socket.SHUT_WR)
            replies = await reading
        while state.tasks or state.connections:  # noqa: ASYNC110 - there is no event for that
            await asyncio.sleep(0)
        for entry in jobs.entries:
            jobs.cancel(entry)
        assert not any(code == 500 for _, code in self._routes.requests)
        return replies

    async def _read(self, ours: socket.socket) -> bytes:
        read = bytearray()
        with contextlib.suppress(ConnectionError):
            while part := await self.loop.sock_recv(ours, 65_536):
                read += part
        return bytes(read)


@functools.cache
def _http_service() -> _HttpService:
    return _HttpService()


# --- rig managers ---


def json_rpc_request(data: bytes) -> None:
    request = json_rpc.parse(data)
    if isinstance(request, json_rpc.RpcReply):
        assert not isinstance(request.error, msgspec.UnsetType)
        assert request.id is None
        reply = request
    else:
        reply = json_rpc.success(request, xmrig.Done("OK"))
    encoded = api.encode(reply)
    assert encoded.decode().isprintable()
    assert msgspec.json.decode(encoded, type=json_rpc.RpcReply).id == reply.id


def claymore_request(data: bytes) -> None:
    reply = claymore.answer(data, _rig_status())
    assert reply.endswith(b"\n")
    assert reply[:-1].decode().isprintable()
    decoded = msgspec.json.decode(reply)
    assert "error" in decoded or len(decoded["result"]) in (9, 16)
    assert len(reply) < 4 * len(data) + 1_000
    assert line_server.is_complete(data) in (False, True)


def cgminer_request(data: bytes) -> None:
    data = data[: line_server.MAX_REQUEST]
    reply = cgminer.answer(data, _rig_status())
    assert reply.endswith(b"}\0")
    assert reply[:-1].decode().isprintable()
    assert len(reply) < 6 * len(data) + 50_000
    for part in _answers(msgspec.json.decode(reply[:-1])):
        (status,) = part["STATUS"]
        assert (status["STATUS"] == "S") == (len(part.keys() - {"STATUS", "id"}) == 1)


def _answers(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """One, or those of joined commands, one of which may be called ``id`` or ``STATUS``."""
    return [reply] if isinstance(reply.get("STATUS"), list) else [part for part in reply.values() if part != 1]


@functools.cache
def _rig_status() -> status.Status:
    """Of a rig with a GPU, four CPU workers and a pool."""
    gpu = GpuStats("0000:65:00.0", "gpu-cuda", "a card", "0000:65:00.0", up=True, false_positives=0)
    workers = (WorkerStats(0, "gpu-cuda", 9_000, gpu=gpu), *(WorkerStats(n, "cpu-fast", 100) for n in range(1, 5)))
    miner = MinerStats(workers, 1, 9_400, 0, 0, {}, frozenset())
    return status_of(Snapshot(1e9, 60.0, 4, miner, (LinkStats("pool a:1", mined=True, accepted=5),)))


# --- the node protocol ---


def node_message(data: bytes) -> None:
    try:
        message = messages.decode(data)
    except core.RemoteProtocolError as error:
        assert str(error).isprintable()
        return
    try:
        frame = messages.encode(message)
    except ValueError as error:  # an array, or a number, that is shorter in the input
        assert str(error).startswith("a frame holds")
        return
    assert messages.decode(frame[frames.HEADER :]) == message


def node_miner(data: bytes) -> None:
    for paced in (False, True):
        assert _node_miner([data], paced=paced) == _node_miner(_pieces(data), paced=paced)


def _node_miner(pieces: Sequence[bytes], *, paced: bool) -> object:
    miner = node.NodeMiner("token", 0.0, paced=paced)
    heard = _hear(miner, pieces)
    sent = miner.data_to_send()
    for event in heard:
        match event:
            case core.JobReceived(job):
                assert len(job.header) == 32
                assert 1 <= job.difficulty <= MAX
            case core.JobRefused(reason) | core.Broken(reason):
                assert reason.isprintable()
    assert isinstance(miner._reader, frames.FrameReader)
    assert len(miner._reader._buffer) < frames.HEADER + frames.MAX_FRAME
    if (mined := miner._job) is not None:
        count = sum(miner.submit(mined, Solution(MAX, 0), messages.U64, 1e-300, 1.0 * now) for now in range(100))
        assert count == (0 if miner.is_over else node.MAX_RESULTS if paced else 100)
        assert all(len(frame) <= miner.result_bytes for frame in miner.data_to_send())
        assert all(earlier.header == mined.header for earlier in miner._earlier)
    return heard, sent


def _hear(end: core.Core[Any, Any, Any], pieces: Sequence[bytes]) -> list[object]:
    """The events of the pieces; only the last one may be an end."""
    heard = [event for piece in pieces for event in end.receive(piece, 0.0)]
    last = core.Broken | node.Closed | stratum_miner.LoginRefused
    assert not any(isinstance(event, last) for event in heard[:-1])
    assert end.is_over == bool(heard and isinstance(heard[-1], last))
    return heard


def node_node(data: bytes) -> None:
    assert _node_node([data]) == _node_node(_pieces(data))


def _node_node(pieces: Sequence[bytes]) -> object:
    server = node.NodeServer("deadbeef", 0.0)
    heard = _hear(server, pieces)
    assert all(event.reason.isprintable() for event in heard if isinstance(event, core.Broken))
    assert isinstance(server._reader, frames.FrameReader)
    assert len(server._reader._buffer) < frames.HEADER + frames.MAX_FRAME
    return heard


def _pieces(data: bytes) -> list[bytes]:
    """Cut by the data itself."""
    size = 1 + sum(data[:4]) % 50
    return [data[start : start + size] for start in range(0, len(data), size)]


# --- stratum ---


def stratum_line(data: bytes) -> None:
    """A job, and the same bytes as an error."""
    if (error := stratum.parse_error(msgspec.Raw(data))) is not None:
        assert error[0]
        assert len(error[0]) <= MAX_REASON
        assert error[0].isprintable()
        assert stratum.is_stale(*error) in (False, True)
    try:
        job = stratum.parse_job(msgspec.Raw(data))
    except stratum.BadJobError as error:
        assert str(error).isprintable()
        return
    assert 0 <= job.target < MAX
    assert 1 <= job.difficulty <= MAX
    assert stratum.parse_job(msgspec.Raw(stratum.encode(stratum.job_body(job)))) == job


def stratum_from_pool(data: bytes) -> None:
    whole = _stratum_miner([data], send_shares=False)
    assert whole == _stratum_miner(_pieces(data), send_shares=False)
    _stratum_miner(_pieces(data), send_shares=True)


def _stratum_miner(pieces: Sequence[bytes], *, send_shares: bool) -> object:
    miner = stratum_miner.StratumMiner("wallet.worker", "fuzz/1", 0.0)
    miner.data_to_send()
    heard: list[stratum_miner.Event] = []
    job: LiveJob | None = None
    for number, piece in enumerate(pieces):
        for event in miner.receive(piece, 0.0):
            assert not heard or not isinstance(heard[-1], core.Broken | stratum_miner.LoginRefused)
            heard.append(event)
            match event:
                case core.JobReceived(job):
                    assert stratum.parse_job(msgspec.Raw(stratum.encode(stratum.job_body(job)))) == job
                case stratum_miner.LoggedIn():
                    pass
                case _:
                    assert event.reason.isprintable()
        if send_shares and job is not None:
            nonce = int.from_bytes(job.prefix.ljust(64, b"\1")) + number
            miner.submit(job, nonce, 1, 0.0)
        assert isinstance(miner._reader, lines.LineSplitter)
        assert len(miner._reader._rest) <= lines.MAX_LINE
        assert len(b"".join(miner.data_to_send())) < 1000
    assert miner.deadline > 0
    miner.tick(200.0)
    miner.close(200.0)
    return heard


def stratum_from_miner(data: bytes) -> None:
    # Answers depend on what is answered when, so no piece may hold more than one line.
    whole = re.findall(rb"[^\n]*\n|[^\n]+", data)
    assert _stratum_pool(whole) == _stratum_pool([piece for line in whole for piece in _pieces(line)])
    _stratum_pool([data])


def _stratum_pool(pieces: Sequence[bytes]) -> object:
    pool = StratumPool("session", 0.0)
    validator, job = ShareValidator(), LiveJob("1", HEADER, 1, EXTRANONCE)
    heard: list[object] = []
    sent = b""
    for piece in pieces:
        for event in pool.receive(piece, 0.0):
            heard.append(event)
            match event:
                case core.Broken(reason):
                    assert reason.isprintable()
                case _ if pool.is_over:
                    pass
                case LoginAsked(login, agent):
                    assert login.isprintable()
                    assert agent.isprintable()
                    validator.give(job, clean=True)
                    pool.take_login(job)
                case ShareCame():
                    share = validator.validate(event)
                    pool.send_verdict(event.request, share if isinstance(share, str) else None)
        sent += b"".join(pool.data_to_send())
        assert isinstance(pool._reader, lines.LineSplitter)
        assert len(pool._reader._rest) <= lines.MAX_LINE
    assert all(msgspec.json.decode(line) for line in sent.splitlines())
    return heard, sent


# --- the host ---


def cpu_list(data: bytes) -> None:
    try:
        found = cpus.parse_cpu_list(_text(data))
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert found
    assert found <= set(range(cpus.LARGEST_CPU + 1))
    assert cpus.parse_cpu_list(",".join(map(str, found))) == found


CGROUP_FILES: Final = (
    *("proc/self/cgroup", "sys/fs/cgroup/cpuset.cpus.effective", "sys/fs/cgroup/cpu.max"),
    *("sys/fs/cgroup/cpuset/cpuset.cpus", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def cgroup_files(data: bytes) -> None:
    mine = frozenset(range(4))
    found = cpus.detect(_tree(CGROUP_FILES, data), mine)
    assert found.cpus
    assert found.cpus <= mine
    assert 1 <= found.count <= len(found.cpus)
    assert found.quota is None or (found.quota > 0 and math.isfinite(found.quota))


def cpuinfo_file(data: bytes) -> None:
    name = cpus.processor_name(_tree(("proc/cpuinfo",), data))
    assert name
    assert name.isprintable()


SYSFS_FILES: Final = (
    *("sys/devices/cpu_atom/cpus", "sys/devices/system/node/node0/cpulist", "sys/devices/system/node/node1/cpulist"),
    *(
        f"sys/devices/system/cpu/cpu{number}/{name}"
        for number in range(2)
        for name in ("topology/thread_siblings_list", "cpu_capacity")
    ),
)


def sysfs_files(data: bytes) -> None:
    root = _tree(SYSFS_FILES, data)
    cores = topology.cores(range(4), root)
    assert sorted(cpu for core in cores for cpu in core.cpus) == [0, 1, 2, 3]
    for workers in range(1, 5):
        assert len(topology.affinity(workers, range(4), root)) in (0, workers)


def service_files(data: bytes) -> None:
    """What ``doctor`` reads: the service's environment file, CPUs that are online, the unit's CPU lists."""
    names = ("etc/default/quantus-miner", "sys/devices/system/cpu/online", "affinity", "allowed", "flags")
    root = _tree(names, data)
    affinity, allowed, flags = (
        (root / name).read_text(encoding="utf-8", errors="surrogateescape") if (root / name).exists() else ""
        for name in names[2:]
    )
    host = unit.Host(unit.service_environment({"EXTRA_MINER_FLAGS": flags}, {}, root), {}, root)
    host = unit.Host(host.environ, {"CPUAffinity": affinity, "AllowedCPUs": allowed}, root)
    for finding in (*doctor._files(host), *doctor._cpus(host)):
        assert all(finding.lines())
    with contextlib.suppress(MinerError):
        assert isinstance(unit.extra_flags(host.environ), list)


def notify_environment(data: bytes) -> None:
    parts = [_text(part) for part in _parts(data, 3)]
    notifier = Notifier(dict(zip(("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"), parts, strict=False)))
    assert math.isfinite(notifier.interval_s)
    assert notifier.interval_s > 0
    notifier.send("STATUS=")


# --- settings ---


def settings_environment(data: bytes) -> None:
    """Lines of ``NAME=VALUE``."""
    pairs = dict(line.partition("=")[::2] for line in _text(data).replace("\0", "").split("\n"))
    _load({"XDG_STATE_HOME": "/x"} | pairs, None)


def settings_file(data: bytes) -> None:
    _load({"XDG_STATE_HOME": "/x"}, _tree(("miner.toml",), data) / "miner.toml")


SECRET_FILES: Final = ("auth_token_file", "tls_cert_sha256_file", "api_token_file")


def secret_files(data: bytes) -> None:
    root = _tree(SECRET_FILES, data)
    _load({f"MINER_{name.upper()}": str(root / name) for name in SECRET_FILES if (root / name).exists()}, None)


def _load(environ: dict[str, str], config: Path | None) -> None:
    warnings: list[str] = []
    try:
        settings = load({}, environ, config, warnings.append)
    except SettingError as error:
        _check_line(error)
        return
    assert len(warnings) <= len(SETTINGS)
    assert "\0" not in str(settings.state_dir)
    assert re.fullmatch(r"[!-~]+", settings.bind)
    for name in (setting.name for setting in SETTINGS if setting.secret):
        assert f"{name}={'unset' if getattr(settings, name) is None else '(set)'}" in settings.summary()


def _check_line(error: MinerError) -> None:
    assert str(error)
    assert str(error).isprintable()


def pool_urls(data: bytes) -> None:
    try:
        url = pool_url.parse_pool_url(_text(data))
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert 1 <= url.port <= 65535
    assert url.tls or (url.pin is None and not url.insecure)
    query = f"?pin={url.pin.hex()}" if url.pin else "?insecure=1" if url.insecure else ""
    assert pool_url.parse_pool_url(f"{url}{query}") == url


def hub_url(data: bytes) -> None:
    try:
        url = fleet.parse_hub_url(_text(data))
    except ValueError as error:
        assert str(error) == fleet.URL_FORM
        return
    assert all(1 <= port <= 65535 for _, port in url.servers)
    assert fleet.parse_hub_url(url.secret) == url
    assert url.seed not in str(url)
    assert str(url).isprintable()


def nats_servers(data: bytes) -> None:
    try:
        url = nats_url.parse_nats_url(_text(data))
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert all(1 <= port <= 65535 for _, port in url.servers)
    assert nats_url.parse_nats_url(str(url)).servers == url.servers


def fleet_message(data: bytes) -> None:
    """A message between a hub and a rig, as each kind. A job is one that can be searched."""
    for kind in (
        fleet.JobMessage,
        fleet.Welcome,
        fleet.RigMessage,
        fleet.VerdictMessage,
        fleet.SolutionMessage,
        fleet.SolutionReply,
        fleet.StatusMessage,
        fleet.OutboxMessage,
    ):
        try:
            message = fleet.decode(data, kind)
            assert fleet.decode(fleet.encode(message), kind) == message
            job = (
                message
                if isinstance(message, fleet.JobMessage)
                else message.job
                if isinstance(message, fleet.Welcome)
                else None
            )
            if job is not None and (live := fleet.live_job(job, b"abc")) is not None:
                assert 1 <= live.difficulty <= MAX
                assert 0 <= live.target <= MAX
                assert len(live.header) == 32
                assert positions_from(Order.WALK, live.prefix, 5)
        except core.RemoteProtocolError as error:
            assert str(error).isprintable()


def hub_command(data: bytes) -> None:
    """A command to the rigs of a hub, up to what is told to each of them."""
    try:
        command = msgspec.json.decode(data, type=CommandRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    rigs = {"a": ("farm1", "nvidia"), "b": ("farm1",), "c": ()}
    desired = Desired()
    try:
        scope = desired.apply(command, rigs)
    except MinerError as error:
        _check_line(error)
        return
    assert set(scope.exceptions) <= set(scope.rigs) <= set(rigs)
    for name, tags in rigs.items():
        told = fleet.RigMessage(None, desired.orders(name, tags))
        assert fleet.decode(fleet.encode(told), fleet.RigMessage) == told


def rigs_file(data: bytes) -> None:
    folder = _tree(("hub/rigs.json",), data, whole=True)
    try:
        rigs = Roster(folder).load()
    except MinerError as error:
        _check_line(error)
        return
    text = nats_server.config(folder, folder / "hub.pem", "127.0.0.1", 1, "U", rigs)
    text += nats_server.cluster_config("U", rigs)
    assert text.count("nkey:") == 2 * (len(rigs) + 1)
    assert all(line.isprintable() for line in text.splitlines())


def wallets(data: bytes) -> None:
    text = _text(data)
    warning = address.address_warning(text)
    assert warning is None or warning.isprintable()
    try:
        login = address.compose_login(text, "w")
    except ValueError as error:
        assert str(error).isprintable()
        assert warning is not None
    else:
        assert messages.parse_token(login) == login


# --- files of a state folder, and others ---


def store_file(data: bytes) -> None:
    folder = _tree((database.FILE,), data, whole=True)
    try:
        with contextlib.closing(Database(folder, 36_500, lambda: 0.0)) as opened:
            opened.prepare()
            jobs = opened.load()
            for stored in jobs:
                _check_stored(stored)
            find = Find(2**60, "http", "new", Pow.SHA3, HEADER, Solution(5, 5))
            job = Job("new", Pow.POSEIDON2, HEADER, 5, (NonceRange(0, MAX),))
            new = StoredJob(job, Progress(job.ranges), Status.RUNNING)
            outbox, solution = opened.load_outbox(), StoredSolution(HEADER, Solution(5, 5))
            settled = [kept.key for kept in outbox if len(kept.header) == 32]
            opened.write([new], [stored.job.id for stored in jobs], [find], [("http", 5, "accepted")], settled=settled)
            opened.write([], [], [], [], solutions=[solution])
            assert (opened.load(), opened.load_outbox()) == ([new], [solution])
    except (DamagedError, NewerError) as error:
        assert str(error)
    try:
        entries = history.latest(folder, 20)
        assert all(line.isprintable() for line in history.lines(entries))
        assert all(msgspec.json.encode(entry) for entry in entries)
    except MinerError as error:
        _check_line(error)


def _check_stored(stored: StoredJob) -> None:
    """It can be mined, and served, without another check."""
    job, progress = stored.job, stored.progress
    assert len(job.header) == 32
    assert 0 <= job.target <= MAX
    assert job.order is Order.COUNTING or job.pow is Pow.POSEIDON2
    assert not api.is_implausible(job) or (job.pow is Pow.SHA3 and 0 < job.target < 2**400)
    assert all(piece.end <= last_position(job.order) for piece in (*job.ranges, *progress.todo))
    assert type(progress.hashes) is int
    assert progress.hashes >= 0
    assert math.isfinite(progress.elapsed)
    assert progress.elapsed >= 0
    assert stored.engine is None or isinstance(stored.engine, str)
    assert stored.ended is None or isinstance(stored.ended, float)
    assert StoredJob.of(stored.columns()) == stored
    encoded = api.encode_result(job.id, stored.status, stored.solution, progress.hashes, progress.elapsed)
    assert msgspec.json.decode(encoded)["elapsed_time"] == progress.elapsed


def kernels_file(data: bytes) -> None:
    path = _tree(("kernels.json",), data) / "kernels.json"
    kernels = {pow_: [kernel for kernel in native.kernels() if kernel.pow is pow_] for pow_ in Pow}
    chosen = autotune._load(path, "this machine", kernels)
    assert chosen is None or all(kernel.pow is pow_ for pow_, kernel in chosen.items())


def tuning_file(data: bytes) -> None:
    folder = _tree(("gpu/tuning.json",), data)
    device = Device(0, "card", "gpu", None, "driver 1")
    blocks = tuning.load(folder, "gpu-cuda", device)
    assert type(blocks) is int
    assert blocks in tuning.CANDIDATES
    tuning.save(folder, "gpu-cuda", device, 4)
    assert tuning.load(folder, "gpu-cuda", device) == 4


def solved_blocks_file(data: bytes) -> None:
    path = _tree(("solved-blocks",), data) / "solved-blocks"
    logging.getLogger("miner.throttle").setLevel(logging.ERROR)
    engine = ThrottledEngine(
        "cpu-chain-manipulator",
        _engine(),
        solved_blocks=None,
        base_delay_ns=10**12,
        step_batch=1,
        throttle_cap=0,
        state_file=path,
    )
    assert engine.solved_blocks >= 0
    assert math.isfinite(engine.delay)


def block_file(data: bytes) -> None:
    try:
        block = SealedBlock.parse(data)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert 0 <= block.nonce <= MAX
        assert SealedBlock.parse(_as_a_node_replies(block)) == block


def _as_a_node_replies(block: SealedBlock) -> bytes:
    header = block.header
    seal = "0x05706f775f0101" + block.nonce.to_bytes(64).hex()
    fields = {
        "parentHash": f"0x{header.parent_hash.hex()}",
        "number": hex(header.number),
        "stateRoot": f"0x{header.state_root.hex()}",
        "extrinsicsRoot": f"0x{header.extrinsics_root.hex()}",
        "zkTreeRoot": f"0x{header.zk_tree_root.hex()}",
        "digest": {"logs": [*(f"0x{log.hex()}" for log in header.digest_logs), seal]},
    }
    stated = {"hash": block.hash.hex(), "mining_hash": block.mining_hash.hex()}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "result": {"block": stated | {"header": fields}}})


def rpc_reply(data: bytes) -> None:
    """What a node's JSON-RPC server sends to ``verify``."""
    try:
        rpc.parse_result(data)
    except (ValueError, rpc.RpcError) as error:
        assert str(error).isprintable()
        assert len(str(error)) < 12 * MAX_REASON


def miner_reply(data: bytes) -> None:
    """What ``dev-node`` hears of a miner."""
    client = MinerClient("http://127.0.0.1", None)
    ours, theirs = socket.socketpair()
    client._connection.sock = ours
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            assert "status" in client.call("GET", "/result/x")
        except MinerError as error:
            assert str(error)


def node_files(data: bytes) -> None:
    """Those of a ``dev-node`` from its last run."""
    root = _tree((files_of_node.TOKEN, files_of_node.IDENTITY), data)
    configuration = QuicConfiguration(is_client=False)
    try:
        token = files_of_node.prepare(root, configuration)
    except MinerError as error:
        _check_line(error)
    else:
        assert messages.parse_token(token) == token
        assert configuration.private_key is not None


def miner_url(data: bytes) -> None:
    try:
        client = MinerClient(_text(data), None)
    except SettingError as error:
        _check_line(error)
    else:
        assert client._connection.host


# --- what targets share ---


def _text(data: bytes) -> str:
    """As Python makes text of the command line and the environment."""
    return data.decode("utf-8", "surrogateescape")


def _parts(data: bytes, count: int) -> Iterator[bytes]:
    return iter(data.split(CUT, count - 1))


@functools.cache
def _engine() -> CpuEngine:
    return CpuEngine("cpu-fast", 1, fast_kernels(None))


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp())


def _tree(names: Sequence[str], data: bytes, *, whole: bool = False) -> Path:
    """A folder with the parts of ``data`` as files; those for which there is no part are not there."""
    root = _folder() / names[0].replace("/", "_")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, part in zip(names, [data] if whole else _parts(data, len(names)), strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(part)
    return root


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(http_body, http_connection, http_hosts, http_upgrade, json_rpc_request, claymore_request, cgminer_request),
        *(node_message, node_miner, node_node),
        *(stratum_line, stratum_from_pool, stratum_from_miner),
        *(cpu_list, cgroup_files, cpuinfo_file, sysfs_files, service_files, notify_environment),
        *(settings_environment, settings_file, secret_files, pool_urls, wallets),
        *(hub_url, nats_servers, fleet_message, hub_command, rigs_file),
        *(store_file, kernels_file, tuning_file, solved_blocks_file, block_file, rpc_reply),
        *(miner_reply, node_files, miner_url),
    )
}
"""By name. Nothing that a target raises is right."""
