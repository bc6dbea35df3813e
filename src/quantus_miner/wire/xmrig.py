"""The replies of xmrig's HTTP API, for the dashboards, rig managers and scripts that read it. No I/O.

Rates are in nonces a second, averages over 10 seconds, 60 seconds and 15 minutes. A field that this miner has no value
for is null, or 0 where readers expect a number.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from quantus_miner.model import Pow
from quantus_miner.wire import rigs

if TYPE_CHECKING:
    from quantus_miner.model import Rates
    from quantus_miner.wire.rigs import RigDevice
    from quantus_miner.wire.status import Status

Averages = Annotated[list[float | None], msgspec.Meta(min_length=3, max_length=3)]

PAUSING: Final = {"pause": True, "stop": True, "resume": False, "start": False}
"""Methods of POST /json_rpc, and whether the miner pauses or resumes. The process goes on after ``stop``."""
BEST: Final = 10
"""Difficulties of the best shares that a summary lists."""


class Memory(msgspec.Struct):
    """Bytes of memory of the machine, and of this process."""

    free: int
    total: int
    resident_set_memory: int


class Resources(msgspec.Struct):
    """What the machine has. ``load_average``: over 1, 5 and 15 minutes. ``hardware_concurrency``: logical CPUs."""

    memory: Memory
    load_average: list[float]
    hardware_concurrency: int


class Cpu(msgspec.Struct):
    """The processor. ``threads``: logical CPUs."""

    brand: str
    arch: str
    threads: int


class Results(msgspec.Struct):
    """Shares. ``avg_time``: seconds between two accepted ones. ``best``: not known, so all are 0."""

    diff_current: int
    shares_good: int
    shares_total: int
    avg_time: int
    avg_time_ms: int
    hashes_total: int
    best: list[int]


class Connection(msgspec.Struct, rename={"tls_fingerprint": "tls-fingerprint"}):
    """The node or pool that is mined for. ``uptime``: of the miner, which is what readers show it as."""

    pool: str
    ip: str | None
    uptime: int
    uptime_ms: int
    ping: int
    failures: int
    tls: str | None
    tls_fingerprint: str | None
    algo: str
    diff: int
    accepted: int
    rejected: int
    avg_time: int
    avg_time_ms: int
    hashes_total: int


class HashRate(msgspec.Struct):
    """``threads``: one entry for each CPU worker, then one for each GPU."""

    total: Averages
    highest: float | None
    threads: list[Averages]


class Summary(msgspec.Struct):
    """Reply of /2/summary, /1/summary and /api.json. ``restricted``: the caller has no token, so it may only read."""

    id: str
    worker_id: str
    uptime: int
    restricted: bool
    resources: Resources
    features: list[str]
    results: Results
    algo: str
    connection: Connection
    version: str
    kind: str
    ua: str
    cpu: Cpu
    donate_level: int
    paused: bool
    algorithms: list[str]
    hashrate: HashRate
    hugepages: list[int]


class Health(msgspec.Struct):
    """Readings of a GPU, in degrees Celsius, watts, MHz and percent."""

    temperature: float | None
    power: float | None
    clock: int | None
    fan_speed: list[int]


class Thread(msgspec.Struct, omit_defaults=True):
    """One CPU worker, which has only a rate, or one GPU."""

    hashrate: Averages
    index: int | None = None
    name: str | None = None
    bus_id: str | None = None
    health: Health | None = None


class Backend(msgspec.Struct):
    """Reply of /2/backends, one element: the CPU, or the GPUs of one driver. ``type``: cpu, cuda, opencl."""

    type: str
    enabled: bool
    algo: str | None
    hashrate: Averages
    threads: list[Thread]


class Done(msgspec.Struct):
    """The result of a method of POST /json_rpc."""

    status: str


def summary(status: Status, resources: Resources, cpu: Cpu, *, restricted: bool) -> Summary:
    """Return ``status`` as a summary."""
    uptime, shares = int(status.uptime_seconds), status.shares
    interval_s = status.uptime_seconds / shares.accepted if shares.accepted else 0.0
    source = rigs.mined_source(status)
    difficulty = source.difficulty or 0 if source else 0
    return Summary(
        id=hashlib.blake2b(status.host.encode(errors="surrogateescape"), digest_size=8).hexdigest(),
        worker_id=status.host,
        uptime=uptime,
        restricted=restricted,
        resources=resources,
        features=["api", "http"],
        results=Results(
            diff_current=difficulty,
            shares_good=shares.accepted,
            shares_total=shares.accepted + shares.rejected + shares.stale,
            avg_time=int(interval_s),
            avg_time_ms=int(1000 * interval_s),
            hashes_total=status.hashes,
            best=[0] * BEST,
        ),
        algo=rigs.ALGORITHM,
        connection=Connection(
            pool=rigs.address(source),
            ip=None,
            uptime=uptime,
            uptime_ms=int(1000 * status.uptime_seconds),
            ping=int(1000 * (source.latency_seconds or 0)) if source else 0,
            failures=rigs.reconnects(status),
            tls=None,
            tls_fingerprint=None,
            algo=rigs.ALGORITHM,
            diff=difficulty,
            accepted=shares.accepted,
            rejected=shares.rejected + shares.stale,
            avg_time=int(interval_s),
            avg_time_ms=int(1000 * interval_s),
            hashes_total=status.hashes,
        ),
        version=status.version,
        kind="miner",
        ua=f"quantus-miner/{status.version} (Linux {cpu.arch})",
        cpu=cpu,
        donate_level=0,
        paused=status.state == "paused",
        algorithms=[str(pow_) for pow_ in Pow],
        hashrate=HashRate(
            _averages(status.hash_rate),
            _rounded(status.hash_rate.highest),
            [thread.hashrate for backend in backends(status) for thread in backend.threads],
        ),
        hugepages=[0, 0],
    )


def backends(status: Status) -> list[Backend]:
    """Return the CPU, with each of its workers, and the GPUs of each engine."""
    indices = {device.id: (number, device) for number, device in enumerate(rigs.devices(status)) if device.is_gpu}
    clocks = {device.id: device.sm_clock_hertz for device in status.devices}
    cpu, gpus = [], defaultdict(list)
    for worker in status.workers:
        rate = _averages(worker.hash_rate)
        if worker.device in indices:
            number, device = indices[worker.device]
            kind = worker.engine.rpartition("-")[2]  # cuda, opencl
            gpus[kind].append(_gpu(number, device, rate, clocks[device.id]))
        else:
            cpu.append(Thread(rate))
    listed = {"cpu": cpu, **{kind: sorted(threads, key=_index) for kind, threads in gpus.items()}}
    return [
        Backend(kind, bool(threads), rigs.ALGORITHM if threads else None, _sum(threads), threads)
        for kind, threads in listed.items()
    ]


def _gpu(number: int, device: RigDevice, rate: Averages, clock: float | None) -> Thread:
    health = Health(
        device.temperature,
        device.power,
        None if clock is None else round(clock / 1e6),
        [] if device.fan is None else [device.fan],
    )
    bus_id = device.id.partition(":")[2].partition("/")[0] if device.bus is not None else None
    return Thread(rate, number, device.name, bus_id, health)


def _index(thread: Thread) -> int:
    return thread.index or 0


def _averages(rates: Rates) -> Averages:
    """Return the three averages. The first one is never null, but of less than 10 seconds after the start."""
    return [_rounded(rate) for rate in (rates.current, rates.average_60s, rates.average_15m)]


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 2)


def _sum(threads: list[Thread]) -> Averages:
    if not threads:
        return [None] * 3
    columns: Any = zip(*(thread.hashrate for thread in threads), strict=True)
    return [None if None in column else _rounded(sum(column)) for column in columns]
