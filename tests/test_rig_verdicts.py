"""What a pool says of the solutions of a hub's rigs, over a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from quantus_miner.events import ShareJudged
from quantus_miner.hub import rigs as rigs_module
from quantus_miner.model import LiveJob, Solution
from quantus_miner.sources.link import Handover
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire import fleet
from quantus_miner.wire.pool_url import parse_pool_url

from .hub import HEADER, WAIT_S, until
from .rigs import Fleet, fleet_at, known, rig_of, run, solve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from quantus_miner.sources.hub import HubLink

    from .rigs import RigListener


@contextlib.asynccontextmanager
async def in_a_pool(folder: Path) -> AsyncIterator[tuple[Fleet, HubLink, RigListener, LiveJob]]:
    """A hub that mines in a pool, and a rig with its job."""
    async with fleet_at(folder / "hub") as each:
        pool = PoolLink(parse_pool_url("stratum+tcp://127.0.0.1:1"), "w.hub")
        job = LiveJob("1", HEADER, 2, b"\1\2\3\4")
        each.hub.search(pool, job, lambda *_: None, priority=0, replaces=None)
        url = each.invite("rig")
        await known(each, url, folder / "rig")
        async with rig_of(url, folder / "rig") as (link, listener, _):
            yield each, link, listener, await listener.job()


def judged(solution: Solution, judgement: Any, reason: str = "") -> ShareJudged:
    return ShareJudged("pool", solution.nonce, judgement, reason, 2, 0.1)


def test_a_rig_learns_the_pool_s_verdicts(tmp_path: Path) -> None:
    async def test() -> None:
        async with in_a_pool(tmp_path) as (each, link, listener, job):
            solutions = [solve(job, 1000 * number) for number in range(1, 4)]
            for solution in solutions:
                link.submit(job, solution, 1, 1.0)
                assert await listener.handover() == (solution, Handover.SENT)
            each.rigs.on_event(judged(Solution(1, 1), "rejected"))  # of a stratum miner
            for solution, judgement in zip(solutions, ("accepted", "stale", "rejected"), strict=True):
                for _ in range(2):  # a second one is none
                    each.rigs.on_event(judged(solution, judgement, "" if judgement == "accepted" else "no\nway"))
            verdicts = [await asyncio.wait_for(listener.verdicts.get(), WAIT_S) for _ in solutions]
            assert [(each.nonce, each.accepted, each.stale, each.reason, each.difficulty) for each in verdicts] == [
                (solutions[0].nonce, True, False, "", 2),
                (solutions[1].nonce, False, True, "no\\nway", 2),
                (solutions[2].nonce, False, False, "no\\nway", 2),
            ]
            (rig,) = each.rigs.stats()
            assert (rig.kept, rig.stale, rig.invalid, rig.accepted, rig.rejected) == (3, 1, 0, 1, 1)
            assert listener.verdicts.empty()

    run(test)


def test_a_verdict_that_overtakes_the_hub_s_reply_counts_and_one_that_nobody_waits_for_does_not(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with in_a_pool(tmp_path) as (each, link, listener, job):
            original = each.rigs._judge

            async def judge(rig: rigs_module.Rig, header: bytes, nonce: int) -> Any:
                state = await original(rig, header, nonce)
                for each_nonce in (7, nonce):
                    verdict = fleet.VerdictMessage(f"{each_nonce:0128x}", "rejected", "bad")
                    await each.rigs._tell(f"{fleet.VERDICT}.rig", verdict)
                return state

            each.rigs._judge = judge  # type: ignore[method-assign]
            solution = solve(job, 1000)
            link.submit(job, solution, 1, 1.0)
            assert await listener.handover() == (solution, Handover.SENT)
            verdict = await asyncio.wait_for(listener.verdicts.get(), WAIT_S)
            assert (verdict.nonce, verdict.accepted, verdict.reason) == (solution.nonce, False, "bad")
            each.hub.search(each.node, LiveJob("2", bytes(32), 2), lambda *_: None, priority=0, replaces=None)
            assert (await listener.job()).header == bytes(32)
            assert (listener.handovers.qsize(), listener.verdicts.qsize()) == (0, 0)

    run(test)


def test_only_so_many_solutions_wait_for_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigs_module, "MAX_JUDGED", 2)

    async def test() -> None:
        async with in_a_pool(tmp_path) as (each, link, listener, job):
            solutions = [solve(job, 1000 * number) for number in range(1, 4)]
            for solution in solutions:
                link.submit(job, solution, 1, 1.0)
                await listener.handover()
            for solution in solutions:
                each.rigs.on_event(judged(solution, "accepted"))
            await until(lambda: listener.verdicts.qsize() == 2)
            assert each.rigs.stats()[0].accepted == 2

    run(test)
