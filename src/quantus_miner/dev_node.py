"""``quantus-miner dev-node``: a node of the HTTP era, to try a miner with and to test it against.

It builds headers of a chain of its own, gives them to the miner as jobs, polls and cancels as real nodes do, checks
every ``work`` with its own call of the reference, and retargets the difficulty toward the block time.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

from quantus_miner import pow as reference
from quantus_miner import units
from quantus_miner.errors import MinerError, SettingError
from quantus_miner.model import MAX, Pow, limit_from_difficulty
from quantus_miner.pow.block import Header

if TYPE_CHECKING:
    from types import FrameType

REPLY_TIMEOUT_S: Final = 10.0
REBUILD_BLOCK_TIMES: Final = 4
"""A proposal that nobody sealed for so many block times is replaced by a fresh one."""
RETARGET_BLOCKS: Final = 10
MOST_RETARGET: Final = 2.0
"""The difficulty changes by this factor at most from one block to the next."""
NOT_INHERITED: Final = (
    *("MINER_API_TOKEN", "MINER_AUTH_TOKEN", "MINER_TLS_CERT_SHA256"),
    *("MINER_NODE_ADDR", "MINER_POOL", "MINER_WALLET"),
)
"""Beginnings of the environment variables that a miner of our own is not to see: where else to mine, and secrets."""
PRE_RUNTIME: Final = b"\x06pow_\x80"
SEAL: Final = b"\x05pow_\x01\x01"


class Chain:
    """A chain of one node: its tip, its difficulty, and the proposal that is to be sealed.

    ``block_time``: seconds that the difficulty aims at.
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
        """A fresh block on the tip, with other transactions than the last one."""
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
    def limit(self) -> int:
        """Largest valid hash or distance for the proposal, inclusive."""
        return MAX // self.difficulty if self.pow is Pow.SHA3 else limit_from_difficulty(self.difficulty)

    def job(self) -> dict[str, str]:
        """The proposal as the body of a POST /mine, with the fields that nodes send."""
        target = (
            {"distance_threshold": str(self.limit)} if self.pow is Pow.SHA3 else {"difficulty": str(self.difficulty)}
        )
        return {
            "job_id": str(uuid.uuid4()),
            "mining_hash": self.proposal.mining_hash().hex(),
            "nonce_start": f"{1:0128x}",
            "nonce_end": f"{MAX:0128x}",
            **target,
        }

    def seals(self, work: str) -> bool:
        """Whether ``work``, as a miner returned it, is a nonce that seals the proposal."""
        if len(work) != 128 or not set(work) <= set("0123456789abcdef"):
            return False
        return reference.is_valid(self.pow, self.proposal.mining_hash(), int(work, 16), self.limit)

    def append(self, work: str, seconds: float) -> None:
        """Puts the sealed proposal on the chain, which took ``seconds`` of mining, and retargets.

        The next difficulty is the work a second of the last RETARGET_BLOCKS blocks, times the block time.
        """
        seal = SEAL + bytes.fromhex(work)
        self.tip = replace(self.proposal, digest_logs=(*self.proposal.digest_logs, seal)).mining_hash()
        self.height += 1
        self._recent.append((self.difficulty, seconds))
        work_done, time_taken = (sum(column) for column in zip(*self._recent, strict=True))
        aim = work_done / max(time_taken, 1e-3) * self.block_time
        most, least = self.difficulty * MOST_RETARGET, self.difficulty / MOST_RETARGET
        self.difficulty = max(1, int(min(max(aim, least), most)))
        self.propose()


class MinerClient:
    """Speaks to a miner's job API as nodes do: only the reply's ``status`` counts, not its HTTP code."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme != "http" or not parts.hostname or port == -1:
            raise SettingError(f"--miner: {url!r} is not allowed; allowed: http://HOST:PORT")
        self._connection = http.client.HTTPConnection(parts.hostname, port or 80, timeout=REPLY_TIMEOUT_S)
        self._base = parts.path.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        """The reply to a request. Raises MinerError where there is none, or none in JSON."""
        try:
            self._connection.request(method, self._base + path, json.dumps(body) if body else None, self._headers)
            reply = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise MinerError(f"the miner does not answer {method} {path}: {error or type(error).__name__}") from None
        if not isinstance(reply, dict) or "status" not in reply:
            raise MinerError(f"the miner's answer to {method} {path} has no status")
        return reply


@dataclass(slots=True)
class Tally:
    """What happened in a run. Seconds, nonces."""

    began: float
    blocks: int = 0
    invalid: int = 0
    hashes: int = 0
    mining_s: float = 0.0

    def summary(self, chain: Chain) -> str:
        """One paragraph for people."""
        seconds = time.monotonic() - self.began
        average = f"{seconds / self.blocks:.2f} s" if self.blocks else "-"
        rate = units.hash_rate(self.hashes / self.mining_s if self.mining_s else 0.0)
        return (
            f"{self.blocks} blocks in {seconds:.1f} s (one in {average} on average, target {chain.block_time:g} s), "
            f"{self.hashes:,} hashes at {rate}, difficulty now {chain.difficulty:,}, {self.invalid} invalid"
        )


def run(chain: Chain, url: str | None, token: str | None, blocks: int | None, poll_s: float) -> int:
    """Plays the node until ``blocks`` are found or the user interrupts; the exit code: 1 if any work was invalid.

    ``url``: the miner's; None: starts a miner and stops it at the end. ``poll_s``: seconds between two polls.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    miner = None
    if url is None:
        miner, url = start_miner()
        token = None
    client = MinerClient(url, token)
    tally = Tally(time.monotonic())
    try:
        print(f"dev-node: {chain.pow}, block time {chain.block_time:g} s, miner at {url}", flush=True)
        while blocks is None or tally.blocks < blocks:
            _mine_block(chain, client, tally, poll_s)
    except KeyboardInterrupt:
        print(flush=True)
    finally:
        if miner is not None:
            stop_miner(miner)
        print(f"dev-node: {tally.summary(chain)}", flush=True)
    return 1 if tally.invalid else 0


def _mine_block(chain: Chain, client: MinerClient, tally: Tally, poll_s: float) -> None:
    """Has the proposal sealed, however many jobs that takes."""
    began = time.monotonic()
    hashes, mining_s = 0, 0.0
    while True:
        job = chain.job()
        reply = client.call("POST", "/mine", job)
        if reply["status"] != "accepted":
            raise MinerError(f"the miner refuses the job: {reply.get('message')}")
        result = _await_result(client, job["job_id"], poll_s, REBUILD_BLOCK_TIMES * chain.block_time)
        # As real nodes do, before every new job, also when this one is completed.
        client.call("POST", f"/cancel/{job['job_id']}")
        hashes += result["hash_count"]
        mining_s += result["elapsed_time"]
        if result["status"] != "completed":
            print(f"dev-node: job {job['job_id']} is {result['status']}: new proposal", flush=True)
            chain.propose()
            continue
        work = result["work"] or ""
        if not chain.seals(work):
            tally.invalid += 1
            print(f"dev-node: INVALID work {work!r} for block {chain.height + 1}", flush=True)
            continue
        break
    seconds = time.monotonic() - began
    rate = result["hash_count"] / max(result["elapsed_time"], 1e-6)
    print(block_line(chain, result["nonce"], seconds, hashes, rate), flush=True)
    # What it took the miner, not the time until our next poll.
    chain.append(work, mining_s)
    tally.blocks += 1
    tally.hashes += hashes
    tally.mining_s += mining_s


def block_line(chain: Chain, nonce: str, seconds: float, hashes: int, rate: float) -> str:
    """What is printed of the block that is about to be appended. ``rate``: hashes a second."""
    return (
        f"block {chain.height + 1:4}  nonce {nonce[:16]:16}  difficulty {chain.difficulty:12,}  "
        f"{seconds:6.2f} s  {hashes:12,} hashes  {units.hash_rate(rate):>10}"
    )


def _await_result(client: MinerClient, job_id: str, poll_s: float, patience_s: float) -> dict[str, Any]:
    """Polls until the job has ended, at once and then every ``poll_s``; the last reply when patience ends."""
    deadline = time.monotonic() + patience_s
    while True:
        result = client.call("GET", f"/result/{job_id}")
        if result["status"] != "running" or time.monotonic() > deadline:
            return result
        time.sleep(poll_s)


def start_miner(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """A miner on a free port, its log lines on our stderr; the process and its URL. Raises MinerError."""
    own = ("--port=0", "--bind=127.0.0.1", "--log=info", "--log-format=text")
    process = subprocess.Popen(  # noqa: S603 - our own command
        # Flags win over whatever the environment says of what is relied on here.
        [sys.executable, "-m", "quantus_miner", *own, *flags],
        env={name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    stderr = process.stderr
    if stderr is None:
        raise MinerError("the miner has no stderr")
    for line in stderr:
        sys.stderr.write(f"miner | {line}")
        if "Server starting on " in line:
            threading.Thread(target=_copy_log, args=(stderr,), daemon=True).start()
            return process, "http://" + line.split("Server starting on ")[1].strip()
    raise MinerError(f"the miner ended with exit code {process.wait()} before it was ready")


def _copy_log(stderr: Any) -> None:  # noqa: ANN401 - a text stream
    # Jobs come and go as fast as blocks do; what the node prints says the same.
    for line in stderr:
        if " Job " not in line:
            sys.stderr.write(f"miner | {line}")


def stop_miner(process: subprocess.Popen[str]) -> None:
    """Ends the miner, if need be by force."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
