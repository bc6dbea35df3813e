"""Devices that report what is none, or find nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from quantus_miner import pow as reference
from quantus_miner.backends import gpu as gpu_engine
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.backoff import Backoff
from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu.device import Device, Readout
from quantus_miner.gpu.source import MAX_HITS
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow
from quantus_miner.pow.order import nonce_at

from .harness import HEADER, WAIT_S, Watched, a_job, engine_on, exhaust, hits_of, open_watched, search, search_all

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.backends.gpu import GpuEngine


def test_a_device_that_finds_nothing_fails_the_self_test(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    def open_blind() -> Watched:
        launcher = open_watched(cpu, folder, watched)
        launcher.lie = lambda readout: Readout(readout.seconds, 0, ())
        return launcher

    engine = engine_on(cpu, open_blind)
    with pytest.raises(DeviceLostError, match="its kernel fails the self test"):
        engine.open()
    assert engine.fault == "its kernel fails the self test"
    assert watched[-1].closed


def test_a_few_false_positives_are_counted_and_dropped(
    engine: GpuEngine, watched: list[Watched], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reference in Python, which keeps all other threads waiting, is not asked.
    monkeypatch.setattr(reference, "evaluate", lambda *_: pytest.fail("asked the reference"))
    job = a_job(Order.WALK, MAX)
    watched[-1].lie = lambda readout: Readout(readout.seconds, 2, (5, 2**31))
    assert search(engine, job, 0, 100) == (100, None)
    assert engine.false_positives == 2
    assert caplog.text.count("reported a false positive") == 1


def test_false_positives_among_many_hits_are_forgotten(engine: GpuEngine, watched: list[Watched]) -> None:
    job, count, seen = a_job(Order.WALK, 2), 3000, [0]

    def lie(readout: Readout) -> Readout:
        seen[0] += readout.candidates
        if seen[0] < gpu_engine.CANDIDATES_TO_FORGET:
            return readout
        seen[0] = 0
        return Readout(readout.seconds, readout.candidates + 1, (*readout.offsets, 2**31))

    watched[-1].lie = lie
    assert search_all(engine, job, 0, count) == hits_of(job, 0, count)
    assert engine.false_positives > gpu_engine.FALSE_POSITIVES


def test_what_is_valid_in_its_first_64_bits_only_is_no_false_positive(
    engine: GpuEngine, watched: list[Watched]
) -> None:
    hit = hits_of(a_job(Order.WALK, 1000), 0, 20_000)[0]
    value = reference.evaluate(Pow.POSEIDON2, HEADER, nonce_at(Order.WALK, hit))
    job = Job("a", Pow.POSEIDON2, HEADER, value - 1, (NonceRange(0, MAX),), Order.WALK)
    for _ in range(10):
        assert search(engine, job, hit, 1) == (1, None)
    assert engine.false_positives == 0
    watched[-1].lie = lambda readout: Readout(readout.seconds, 1, (hit + 1,))
    assert search(engine, job, hit + 1, 1) == (1, None)
    assert engine.false_positives == 1


def test_a_device_with_many_false_positives_is_set_aside(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    now = [1000.0]
    open_device = partial(open_watched, cpu, folder, watched)
    engine = engine_on(cpu, open_device, clock=lambda: now[0])
    engine.open()
    job = a_job(Order.WALK, MAX)
    for number, seconds in enumerate((60, 600, 3600, 3600), 1):
        opened, before = len(watched), engine.false_positives
        watched[-1].lie = lambda readout: Readout(readout.seconds, 100, range(100))
        message = f"it reported 5 false positives within few candidates.* tested again after {seconds} s"
        with pytest.raises(DeviceLostError, match=message):
            search(engine, job, 0, 100)
        assert engine.false_positives == before + gpu_engine.FALSE_POSITIVES  # and no more are looked at
        assert watched[-1].closed
        now[0] += seconds - 0.5
        with pytest.raises(DeviceLostError, match=message):
            search(engine, job, 0, 100)
        assert (engine.fault or "").startswith("it reported 5 false positives")
        assert len(watched) == opened == number
        now[0] += 0.5
        assert search(engine, job, 0, 100) == (100, None)  # after the self test
        assert engine.fault is None
        assert len(watched) == opened + 1


def test_others_mine_on_while_a_device_is_set_aside_and_it_is_told_once(
    cpu: Device, folder: Path, watched: list[Watched], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.01)  # with none it would take the lock from the others
    engine = engine_on(cpu, partial(open_watched, cpu, folder, watched))
    engine.open()
    false = range(2**31, 2**31 + 100)
    watched[-1].lie = lambda readout: Readout(readout.seconds, min(100, watched[-1].launches[-1][-1]), false)
    miner = Miner([engine, CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.02)
    miner.start()
    while miner.stats().gpu_devices:
        assert exhaust(miner, 100_000) == 100_000
    assert exhaust(miner, 300_000) == 300_000
    (gpu,) = miner.stats().gpus
    assert (gpu.up, gpu.false_positives) == (False, 5)
    assert miner.close(WAIT_S)
    assert caplog.text.count("false positives") == caplog.text.count("has lost its device") == 1
    assert len(watched) == 1


def test_more_candidates_than_nonces_is_a_lost_device(engine: GpuEngine, watched: list[Watched]) -> None:
    watched[-1].lie = lambda readout: Readout(readout.seconds, 2**32 - 1, range(MAX_HITS))
    with pytest.raises(DeviceLostError, match="4294967295 candidates among 100 nonces"):
        search(engine, a_job(Order.WALK, MAX), 0, 100)
    assert watched[-1].closed
