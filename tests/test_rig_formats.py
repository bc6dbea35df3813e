"""The formats of rig managers, of any miner: any number of devices and sources, with any readings or none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantus_miner import __version__
from quantus_miner.gpu.telemetry import Readings
from quantus_miner.mining.stats import GpuStats, LinkStats, MinerStats, WorkerStats
from quantus_miner.model import Rates
from quantus_miner.monitor import Snapshot, Tally
from quantus_miner.web.status import status_of
from quantus_miner.wire import cgminer, claymore, rigs, xmrig
from quantus_miner.wire.hive import hive_stats

from .test_metrics import SNAPSHOT

if TYPE_CHECKING:
    from quantus_miner.wire.status import Status

rates = st.none() | st.floats(0, 1e15)
ids = st.sampled_from(["0000:01:00.0", "0000:65:00.0", "0000:0a:1f.7/1", "10000:ff:00.0", "0", "12", "pocl", "cpu?"])
engines = st.sampled_from(["cpu-fast", "cpu-baseline", "gpu-cuda", "gpu-opencl"])
counts = st.integers(0, 2**70)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Any number of CPU workers and GPUs, some of them driven by two engines, with any readings or none."""
    workers = []
    for index in range(draw(st.integers(0, 12))):
        engine = draw(engines)
        gpu = None
        if engine.startswith("gpu"):
            gpu = GpuStats(draw(ids), engine, draw(st.text(max_size=5)), None, draw(st.booleans()), 0)
        workers.append(
            WorkerStats(index, engine, draw(counts), draw(st.booleans()), paused=draw(st.booleans()), gpu=gpu)
        )
    rate = st.builds(Rates, st.floats(0, 1e15), rates, rates, rates, rates)
    links = st.builds(
        LinkStats,
        st.text(max_size=8),
        mined=st.booleans(),
        connects=counts,
        difficulty=st.none() | counts,
        work=counts,
        latency_s=st.none() | st.floats(0, 1e6),
    )
    return Snapshot(
        time=draw(st.floats(0, 1e10)),
        uptime_s=draw(st.floats(0, 1e10)),
        effective_cpus=4,
        miner=draw(st.none() | st.just(MinerStats(tuple(workers), 0, draw(counts), 0, 0, {}, frozenset()))),
        sources=tuple(draw(st.lists(links, max_size=3))),
        readings=draw(st.dictionaries(ids, st.builds(Readings, *[st.none() | st.floats(0, 1e4)] * 6))),
        rates=draw(st.none() | rate),
        worker_rates=draw(st.dictionaries(st.integers(0, 12), rate)),
        tally=draw(st.builds(Tally, *[counts] * 4)),
    )


@settings(max_examples=60)
@given(snapshot=snapshots())
def test_every_format_tells_the_same_of_any_miner(snapshot: Snapshot) -> None:
    status = status_of(snapshot)
    check_hive(status)
    check_claymore(status)
    check_cgminer(status)
    check_xmrig(status)


def check_hive(status: Status) -> None:
    stats = hive_stats(status)
    devices = {device.id for device in status.devices}
    assert {len(stats.hs), len(stats.temp), len(stats.fan), len(stats.bus_numbers)} == {len(devices)}
    assert sum(stats.hs) == pytest.approx(sum(device.hash_rate.current for device in status.devices) / 1000, abs=0.01)
    buses = {int(found[1], 16) for name in devices if (found := re.match(r"[0-9a-f]+:([0-9a-f]{2}):", name))}
    assert {bus for bus in stats.bus_numbers if bus is not None} == buses
    json.dumps(msgspec.to_builtins(stats), allow_nan=False)


def check_claymore(status: Status) -> None:
    reply = json.loads(claymore.answer(b'{"method": "miner_getstat2", "id": 7}', status))
    fields = [field.split(";") if field else [] for field in reply["result"]]
    devices = len({device.id for device in status.devices})
    assert (reply["id"], len(fields)) == (7, 16)
    assert (len(fields[3]), len(fields[6]), len(fields[15])) == (devices, 2 * devices, devices)
    texts = (0, 5, 7)
    numbers = [number for index, field in enumerate(fields) if index not in texts for number in field]
    assert all(number.isdigit() for number in numbers)


def check_cgminer(status: Status) -> None:
    reply = cgminer.answer(b'{"command": "version+summary+devs+pools+quit"}', status)
    assert reply.endswith(b"}\0")
    assert reply.count(b"\0") == 1
    parts = json.loads(reply[:-1])
    devices = rigs.devices(status)
    assert [device["KHS 5s"] for device in parts["devs"]["DEVS"]] == hive_stats(status).hs
    kinds = ["GPU" if device.is_gpu else "CPU" for device in devices]
    assert [next(iter(device)) for device in parts["devs"]["DEVS"]] == kinds
    assert kinds == sorted(kinds, reverse=True)
    assert parts["summary"]["SUMMARY"][0]["Accepted"] == status.shares.accepted
    assert len(parts["pools"]["POOLS"]) == len(status.sources)
    assert parts["quit"]["STATUS"][0]["Code"] == 45


def check_xmrig(status: Status) -> None:
    resources, cpu = xmrig.Resources(xmrig.Memory(1, 2, 3), [0.0] * 3, 2), xmrig.Cpu("a CPU", "x86_64", 2)
    summary = xmrig.summary(status, resources, cpu, restricted=True)
    backends = xmrig.backends(status)
    assert len(summary.hashrate.threads) == len(status.workers) == sum(len(backend.threads) for backend in backends)
    assert backends[0].type == "cpu"
    assert {backend.type for backend in backends} <= {"cpu", "cuda", "opencl"}
    assert summary.results.shares_total - summary.results.shares_good == summary.connection.rejected
    for value in (summary, backends):
        json.dumps(msgspec.to_builtins(value), allow_nan=False)


def test_a_rig_with_cards_is_described_card_by_card() -> None:
    status = status_of(replace(SNAPSHOT, tally=Tally(accepted=5, rejected=4, stale=3, blocks=2)))
    assert msgspec.to_builtins(hive_stats(status)) == {
        "hs": [0.84, 0.0, 0.01],
        "hs_units": "khs",
        "temp": [61, None, None],
        "fan": [40, None, None],
        "uptime": 70,
        "ar": [5, 4, 3],
        "algo": "qpow-poseidon2",
        "bus_numbers": [1, None, None],
        "ver": __version__,
    }
    cpu, cuda, opencl = xmrig.backends(status)
    assert (cpu.type, cuda.type, opencl.type) == ("cpu", "cuda", "opencl")
    (card,) = cuda.threads
    assert (card.index, card.name, card.bus_id, card.hashrate) == (0, "a card", "01:00.0", [840.0, 689.0, None])
    assert card.health == xmrig.Health(61, 420, 2500, [40])
    summary = json.loads(cgminer.answer(b'{"command": "summary"}', status)[:-1])["SUMMARY"][0]
    kinds = ("Accepted", "Rejected", "Stale", "Found Blocks")
    assert [summary[name] for name in kinds] == [5, 4, 3, 2]
    reply = json.loads(cgminer.answer(b'{"command": "devs"}', status)[:-1])
    first, second, third = reply["DEVS"]
    assert (first["GPU"], first["Temperature"], first["Fan Percent"], first["KHS 5s"]) == (0, 61, 40, 0.84)
    assert (second["GPU"], second["Status"], third["CPU"]) == (1, "Dead", 0)
    result = json.loads(claymore.answer(b'{"method": "miner_getstat2"}', status))["result"]
    assert result[8] == "3;0;0;0"
    assert (result[2], result[3], result[6], result[15]) == ("1;5;4", "1;0;0", "61;40;0;0;0;0", "1;0;0")
