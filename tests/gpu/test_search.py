"""What a GPU engine finds: the real kernel through OpenCL, on the CPU (PoCL)."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import pytest

from quantus_miner import native
from quantus_miner.backends import gpu as gpu_engine
from quantus_miner.backends.base import Control
from quantus_miner.gpu.device import IN_FLIGHT, Readout
from quantus_miner.gpu.source import MAX_HITS
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow
from quantus_miner.native import Outcome
from quantus_miner.pow.order import last_position, nonce_at

from ..conftest import vectors
from .harness import HEADER, WAIT_S, Watched, a_job, each_order, hits_of, search, search_all

if TYPE_CHECKING:
    from quantus_miner.backends.gpu import GpuEngine


def test_the_golden_searches(engine: GpuEngine) -> None:
    for case in vectors("qpow_poseidon2_search")["cases"]:
        header, start = bytes.fromhex(case["header_hex"]), int(case["nonce_start"], 16)
        job = a_job(Order.COUNTING, int(case["difficulty"]), header)
        expected = case["chain_first_nonce"]
        outcome = search(engine, job, start, case["length"])
        if expected is None:
            assert outcome == (case["length"], None), case["label"]
        else:
            assert outcome == (int(expected, 16) - start + 1, int(expected, 16)), case["label"]


@each_order
@pytest.mark.parametrize("difficulty", [1, 3, 100, 5000])
def test_all_hits_come_in_order_and_none_twice(engine: GpuEngine, order: Order, difficulty: int) -> None:
    job, start, count = a_job(order, difficulty), 5 << 40, min(20 * difficulty, 20_000) + 7
    assert search_all(engine, job, start, count) == hits_of(job, start, count)


@each_order
def test_a_search_behind_a_hit_tests_nothing_again(engine: GpuEngine, watched: list[Watched], order: Order) -> None:
    job, start, count = a_job(order, 1000), 3 << 40, 30_000
    assert len(search_all(engine, job, start, count)) > 3
    tested = [offset for _, _, first, size in watched[-1].launches for offset in range(first, first + size)]
    assert sorted(tested) == list(range(count))
    assert watched[-1].most_in_flight == IN_FLIGHT


@each_order
def test_a_search_elsewhere_drops_what_is_in_flight(engine: GpuEngine, order: Order) -> None:
    job, other = a_job(order, 1000), a_job(order, 1001)
    for start, task in ((0, job), (1 << 50, job), (1 << 50, other), (100, other)):
        expected = hits_of(task, start, 20_000)[0]
        outcome = search(engine, task, start, 20_000)
        assert outcome == (expected - start + 1, nonce_at(order, expected))


@each_order
def test_a_shorter_slice_behind_a_hit_ends_where_it_is_told(engine: GpuEngine, order: Order) -> None:
    job, start = a_job(order, 2000), 1 << 45
    first, second = hits_of(job, start, 40_000)[:2]
    assert search(engine, job, start, 40_000).tested == first - start + 1
    assert search(engine, job, first + 1, second - first - 1) == (second - first - 1, None)
    assert search(engine, job, second, 1) == (1, nonce_at(order, second))


@each_order
def test_launches_do_not_cross_the_end_of_a_span(engine: GpuEngine, watched: list[Watched], order: Order) -> None:
    span = 1 << native.SPAN_BITS[order]
    job, start, count = a_job(order, 500), (7 << 60) + span - 3000, 9000
    assert search_all(engine, job, start, count) == hits_of(job, start, count)
    spans = {words for _, words, _, _ in watched[-1].launches}
    assert len(spans) == 2
    assert all(first + size <= span for _, _, first, size in watched[-1].launches)


@each_order
def test_the_last_positions_of_all(engine: GpuEngine, order: Order) -> None:
    job, start = a_job(order, 50), last_position(order) - 700
    assert search_all(engine, job, start, 701) == hits_of(job, start, 701)


def test_the_nonce_zero_is_no_hit(engine: GpuEngine) -> None:
    everything = Job("a", Pow.POSEIDON2, HEADER, MAX, (NonceRange(0, MAX),))
    assert search(engine, everything, 0, 10) == (2, 1)
    assert engine.false_positives == 0


@each_order
def test_too_many_candidates_are_searched_again_in_parts(
    engine: GpuEngine, watched: list[Watched], monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    monkeypatch.setattr(gpu_engine, "EXPECTED_HITS", 10 * MAX_HITS)
    overflows = []

    def note(readout: Readout) -> Readout:
        overflows.append(readout.candidates > MAX_HITS)
        return readout

    watched[-1].lie = note
    job, start, count = a_job(order, 2), 9 << 40, 3000
    assert search_all(engine, job, start, count) == hits_of(job, start, count)
    assert any(overflows)


def test_a_stopped_control_ends_a_search_before_it_begins(engine: GpuEngine, watched: list[Watched]) -> None:
    control = Control()
    control.stop()
    assert engine.search(a_job(Order.WALK, MAX), 0, 1000, control) == (0, None)
    assert watched[-1].launches == []


@each_order
def test_a_stop_ends_a_search_and_what_was_launched_counts(
    engine: GpuEngine, watched: list[Watched], order: Order
) -> None:
    job, control, outcomes = a_job(order, 20_000), Control(), deque[Outcome]()
    job = Job(job.id, job.pow, job.header, 0, job.ranges, order)  # nothing meets this
    thread = threading.Thread(target=lambda: outcomes.append(engine.search(job, 0, 2**40, control)))
    thread.start()
    while control.hashes == 0:
        pass
    control.stop()
    thread.join(WAIT_S)
    assert list(outcomes) == [(control.hashes, None)]
    assert control.hashes == sum(size for _, _, _, size in watched[-1].launches)
    assert watched[-1].in_flight == 0
