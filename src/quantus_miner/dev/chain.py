"""The chain of development nodes and pools: headers to seal, the difficulty, and what was mined."""

from __future__ import annotations

import secrets
import time
import uuid
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from quantus_miner import pow as reference
from quantus_miner import units
from quantus_miner.model import MAX, Pow, target_from_difficulty
from quantus_miner.pow.block import Header

REBUILD_BLOCK_TIMES: Final = 4
"""Block times after which a proposal that is not sealed is replaced by a new one."""
RETARGET_BLOCKS: Final = 10
MAX_RETARGET: Final = 2.0
"""Largest factor by which the difficulty changes from one block to the next."""
PRE_RUNTIME: Final = b"\x06pow_\x80"
SEAL: Final = b"\x05pow_\x01\x01"


class Chain:
    """The chain of one node: its tip, its difficulty, and the proposal to seal.

    ``block_time``: seconds between blocks that the difficulty is adjusted for.
    """

    def __init__(self, pow_: Pow, difficulty: int, block_time: float) -> None:
        self.pow = pow_
        self.difficulty = difficulty
        self.block_time = block_time
        self.author = secrets.token_bytes(32)
        self.tip = bytes(32)
        self.height = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=RETARGET_BLOCKS)
        self.proposal = self.propose()

    def propose(self) -> Header:
        """Make a new proposal on the tip, with other transactions than the last one, and return it."""
        self.proposal = Header(
            parent_hash=self.tip,
            number=self.height + 1,
            state_root=secrets.token_bytes(32),
            extrinsics_root=secrets.token_bytes(32),
            zk_tree_root=secrets.token_bytes(32),
            digest_logs=(PRE_RUNTIME + self.author,),
        )
        return self.proposal

    @property
    def target(self) -> int:
        """Return the largest valid hash or distance for the proposal."""
        return MAX // self.difficulty if self.pow is Pow.SHA3 else target_from_difficulty(self.difficulty)

    def job(self) -> dict[str, str]:
        """Return the proposal as the body of a POST /mine, with the fields that nodes send."""
        difficulty = (
            {"distance_threshold": str(self.target)} if self.pow is Pow.SHA3 else {"difficulty": str(self.difficulty)}
        )
        return {
            "job_id": str(uuid.uuid4()),
            "mining_hash": self.proposal.mining_hash().hex(),
            "nonce_start": f"{1:0128x}",
            "nonce_end": f"{MAX:0128x}",
            **difficulty,
        }

    def seals(self, work: str) -> bool:
        """Return True if ``work``, as a miner returned it, is a nonce that seals the proposal."""
        if len(work) != 128 or not set(work) <= set("0123456789abcdef"):
            return False
        return reference.is_valid(self.pow, self.proposal.mining_hash(), int(work, 16), self.target)

    def append(self, work: str, seconds: float) -> None:
        """Append the sealed proposal, which took ``seconds`` of mining, and retarget.

        The next difficulty is the work per second in the last RETARGET_BLOCKS blocks, times the block time.
        """
        seal = SEAL + bytes.fromhex(work)
        self.tip = replace(self.proposal, digest_logs=(*self.proposal.digest_logs, seal)).mining_hash()
        self.height += 1
        self._recent.append((self.difficulty, seconds))
        work_done, time_taken = (sum(column) for column in zip(*self._recent, strict=True))
        aim = work_done / max(time_taken, 1e-3) * self.block_time
        most, least = self.difficulty * MAX_RETARGET, self.difficulty / MAX_RETARGET
        self.difficulty = max(1, int(min(max(aim, least), most)))
        self.propose()


@dataclass(slots=True)
class Tally:
    """Totals of a run.

    ``given``: jobs that miners got. ``hashes``, ``mining_s``: what they reported of ``reported`` of these jobs. Over
    QUIC, a miner reports nothing about a job that is replaced before it is sealed.
    """

    began: float
    blocks: int = 0
    invalid: int = 0
    given: int = 0
    reported: int = 0
    hashes: int = 0
    mining_s: float = 0.0

    def count(self, hashes: int, mining_s: float) -> None:
        """Add what a miner reported of a job."""
        self.reported += 1
        self.hashes += hashes
        self.mining_s += mining_s

    def summary(self, chain: Chain) -> str:
        """Return the totals as one line of text."""
        seconds = time.monotonic() - self.began
        average = f"{seconds / self.blocks:.2f} s" if self.blocks else "-"
        rate = units.hash_rate(self.hashes / self.mining_s if self.mining_s else 0.0)
        return (
            f"{self.blocks} blocks in {seconds:.1f} s (one in {average} on average, target {chain.block_time:g} s), "
            f"{self.hashes:,} hashes at {rate} reported of {self.reported} of {self.given} jobs, "
            f"difficulty now {chain.difficulty:,}, {self.invalid} invalid"
        )


def block_line(chain: Chain, nonce: str, seconds: float, hashes: int, mining_s: float, unreported: int = 0) -> str:
    """Return the line to print for a block that is about to be appended, ``seconds`` after its first job.

    ``hashes``, ``mining_s``: what the miner reported. ``unreported``: earlier jobs for this block that no miner
    reported anything about.
    """
    beside = f"  (and those of {unreported} replaced {'job' if unreported == 1 else 'jobs'})" if unreported else ""
    return (
        f"block {chain.height + 1:4}  nonce {nonce[:16]:16}  difficulty {chain.difficulty:12,}  "
        f"{seconds:6.2f} s  {hashes:12,} hashes  {units.hash_rate(hashes / max(mining_s, 1e-6)):>10}{beside}"
    )
