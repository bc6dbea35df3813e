"""``quantus-miner dev-node``: a node that uses the HTTP job API, for first steps and tests.

It builds headers of its own chain, gives them to the miner as jobs, polls and cancels as real nodes do, checks every
``work`` with the reference, and adjusts the difficulty to the block time.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from quantus_miner.dev.chain import REBUILD_BLOCK_TIMES, Chain, Tally, block_line
from quantus_miner.dev.miner_process import ignore_stop_signals, on_stop_signal, start_miner, stop_miner
from quantus_miner.errors import MinerError, SettingError

REPLY_TIMEOUT_S: Final = 10.0
MAX_REPLY: Final = 1 << 20
"""Bytes of the largest reply that is read."""


class MinerClient:
    """A client of a miner's job API. As for real nodes, only the ``status`` in a reply counts, not its HTTP code."""

    def __init__(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url)
            if parts.scheme != "http" or not parts.hostname:
                raise ValueError  # noqa: TRY301 - said below
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=REPLY_TIMEOUT_S)
        except (ValueError, http.client.InvalidURL):
            raise SettingError(f"--miner: {url!r} is not allowed; allowed: http://HOST:PORT") from None
        self._base = parts.path.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        """Send a request and return the reply. Raises MinerError if there is none, or if it is not JSON."""
        try:
            self._connection.request(method, self._base + path, json.dumps(body) if body else None, self._headers)
            reply = json.loads(self._connection.getresponse().read(MAX_REPLY))
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            self._connection.close()
            raise MinerError(f"the miner does not answer {method} {path}: {error or type(error).__name__}") from None
        if not isinstance(reply, dict) or "status" not in reply:
            raise MinerError(f"the miner's answer to {method} {path} has no status")
        return reply


def run(chain: Chain, url: str | None, token: str | None, blocks: int | None, poll_s: float) -> int:
    """Run the node until ``blocks`` are found or the user interrupts. Return 1 if any work was invalid, else 0.

    ``url``: the miner's. None: start a miner, and stop it at the end. ``poll_s``: seconds between two polls.
    """
    on_stop_signal(_interrupt)
    miner = None
    tally = Tally(time.monotonic())
    try:
        if url is None:
            miner, url = start_miner()
            token = None
        client = MinerClient(url, token)
        print(f"dev-node: {chain.pow}, block time {chain.block_time:g} s, miner at {url}", flush=True)
        while blocks is None or tally.blocks < blocks:
            _mine_block(chain, client, tally, poll_s)
    except KeyboardInterrupt:
        print(flush=True)
    finally:
        ignore_stop_signals()
        if miner is not None:
            stop_miner(miner)
        print(f"dev-node: {tally.summary(chain)}", flush=True)
    return 1 if tally.invalid else 0


def _mine_block(chain: Chain, client: MinerClient, tally: Tally, poll_s: float) -> None:
    """Give the miner jobs until the proposal is sealed."""
    began = time.monotonic()
    hashes, mining_s = 0, 0.0
    while True:
        job = chain.job()
        reply = client.call("POST", "/mine", job)
        if reply["status"] != "accepted":
            raise MinerError(f"the miner refuses the job: {reply.get('message')}")
        tally.given += 1
        result = _await_result(client, job["job_id"], poll_s, REBUILD_BLOCK_TIMES * chain.block_time)
        # Real nodes cancel before every new job, even if this one is completed.
        client.call("POST", f"/cancel/{job['job_id']}")
        if result["status"] == "running":
            # Its hashes until then count, too.
            result = client.call("GET", f"/result/{job['job_id']}")
        hashes += result["hash_count"]
        mining_s += result["elapsed_time"]
        tally.count(result["hash_count"], result["elapsed_time"])
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
    print(block_line(chain, result["nonce"], seconds, hashes, mining_s), flush=True)
    # The time that the miner took, not the time until our next poll.
    chain.append(work, mining_s)
    tally.blocks += 1


def _await_result(client: MinerClient, job_id: str, poll_s: float, limit_s: float) -> dict[str, Any]:
    """Poll at once and then every ``poll_s`` until the job has ended. Return the last reply after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while True:
        result = client.call("GET", f"/result/{job_id}")
        if result["status"] != "running" or time.monotonic() > deadline:
            return result
        time.sleep(poll_s)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt
