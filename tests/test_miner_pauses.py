"""Pauses of a miner and of its devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.errors import MinerError
from quantus_miner.events import DeviceChanged, PauseChanged
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.pauses import CPU, SCHEDULE, USER, Pause, Pauses
from quantus_miner.model import NonceRange, Status

from .engines import WAIT_S, BlockingEngine, Ends, job


def test_a_pause_frees_the_workers_and_keeps_the_job() -> None:
    told: list[DeviceChanged | PauseChanged] = []
    engine, ends = BlockingEngine(2), Ends()
    miner = Miner([engine], chunk_s=0.05, publish=told.append)
    miner.start()
    search = miner.submit(job([NonceRange(1, 10**9)]), ends)
    for _ in range(2):
        assert engine.begun.acquire(timeout=WAIT_S)
    assert miner.pause(USER)
    assert not miner.pause(USER)
    assert miner.stats().paused
    while miner.stats().busy_workers:
        pass
    assert miner.healthy
    assert search.status is Status.RUNNING
    assert search.todo.size == 10**9
    miner.submit(job([NonceRange(1, 10)], job_id="b"), ends)
    assert not engine.begun.acquire(blocking=False)
    assert miner.resume(USER)
    assert not miner.resume(USER)
    for _ in range(2):
        assert engine.begun.acquire(timeout=WAIT_S)
    assert not miner.stats().pauses
    assert told == [PauseChanged(None, True, USER), PauseChanged(None, False, USER)]
    assert miner.close(WAIT_S)


def test_pauses_survive_a_change_of_engines_and_the_end_does_not_wait_for_them() -> None:
    miner = Miner([BlockingEngine(1)], chunk_s=0.05)
    miner.pause(USER, CPU)
    miner.start()
    later = BlockingEngine(3)
    miner.set_engines([later])
    miner.submit(job([NonceRange(1, 10**9)]), Ends())
    assert [worker.paused for worker in miner.stats().workers] == [True] * 3
    assert not later.begun.acquire(blocking=False)
    assert miner.close(WAIT_S)


def test_a_device_that_is_not_there_cannot_be_paused() -> None:
    miner = Miner([BlockingEngine(1)], chunk_s=0.05)
    with pytest.raises(MinerError, match=r"there is no device '0000:01:00\.0'; allowed: cpu"):
        miner.pause(USER, "0000:01:00.0")
    assert miner.stats().pauses == ()


DEVICES = ("cpu", "a", "b")


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([None, *DEVICES]), st.sampled_from([USER, SCHEDULE])), max_size=12
    )
)
def test_a_device_mines_if_no_reason_pauses_it(steps: list[tuple[bool, str | None, str]]) -> None:
    pauses, paused = Pauses(), {(reason, device): False for reason in (USER, SCHEDULE) for device in DEVICES}
    for pause, device, reason in steps:
        before = dict(paused)
        for one in DEVICES if device is None else (device,):
            paused[reason, one] = pause
        changed = pauses.add(Pause(device, reason)) if pause else pauses.remove(Pause(device, reason), DEVICES)
        assert changed or before == paused
        for one in DEVICES:
            assert pauses.cover(one) == (paused[USER, one] or paused[SCHEDULE, one])
