"""The HTTP job API: its calls and their encoding. The module ``jobs`` handles the jobs themselves."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from quantus_miner import __version__
from quantus_miner.jobs import DuplicateJobError, TooManyJobsError
from quantus_miner.mining.stats import ApiStats
from quantus_miner.model import Status
from quantus_miner.web.routes import error, json_reply, read_body
from quantus_miner.wire import api
from quantus_miner.wire.openapi import OPENAPI

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from quantus_miner.jobs import Entry, Jobs
    from quantus_miner.mining.miner import Miner
    from quantus_miner.model import Job
    from quantus_miner.web.routes import Access, Routes

log = logging.getLogger("miner.http")

THRESHOLD_WARNING_S: Final = 3600.0
"""Seconds between two warnings of an implausible threshold. A node that sends one does so with every job."""
MAX_WAIT_S: Final = 2.0
"""Seconds that a reply waits for the disk, at most. A disk that hangs is treated like a full one."""


class JobApi:
    """The calls of the job API, owned by the event loop's thread. Only ``stats`` may be called from any thread.

    It adds them to ``routes``. ``accepting``: True if new jobs are accepted; may change.
    """

    def __init__(
        self, jobs: Jobs, miner: Miner, routes: Routes, access: Access, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.accepting = False
        self._jobs = jobs
        self._miner = miner
        self._routes = routes
        self._access = access
        self._clock = clock
        self._mine_requests: Counter[str] = Counter(dict.fromkeys(("accepted", "duplicate", "invalid", "error"), 0))
        self._threshold_warning_at = -math.inf
        routes.add("/mine", "POST", self._mine)
        routes.add("/result/{job_id:any}", "GET", self._result)
        routes.add("/cancel/{job_id:any}", "POST", self._cancel)
        routes.add("/health", "GET", self._health)
        routes.add("/openapi.json", "GET", self._openapi)
        routes.add("/version", "GET", self._version)

    def stats(self) -> ApiStats:
        """Return a snapshot."""
        return ApiStats(
            requests=dict(self._routes.requests),
            mine_requests=dict(self._mine_requests),
            ended_jobs=dict(self._jobs.ended),
            jobs=self._jobs.stats(),
        )

    # --- requests ---

    async def _mine(self, request: Request) -> Response:
        try:
            return await self._submit(request)
        except Exception:
            self._mine_requests["error"] += 1
            raise

    async def _submit(self, request: Request) -> Response:
        if refusal := self._access.refuse(request):
            self._mine_requests["invalid"] += 1
            return refusal
        if not self.accepting:
            self._mine_requests["error"] += 1
            return error(503, "", "the miner is shutting down")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            self._mine_requests["invalid"] += 1
            return error(415, "", "content type must be application/json")
        body = await read_body(request)
        if isinstance(body, Response):
            self._mine_requests["invalid"] += 1
            return body
        try:
            job = api.parse_mine(body, secrets.randbits(512))
            if not self._miner.supports(job.pow):
                raise api.InvalidRequestError(job.id, f"no engine here searches {job.pow}")  # noqa: TRY301
            entry = self._jobs.submit(job)
        except api.InvalidRequestError as wrong:
            self._mine_requests["invalid"] += 1
            return error(400, wrong.job_id, wrong.message)
        except DuplicateJobError:
            self._mine_requests["duplicate"] += 1
            return error(409, job.id, "Job already exists")
        except TooManyJobsError:
            self._mine_requests["error"] += 1
            return error(503, job.id, "too many jobs")
        self._mine_requests["accepted"] += 1
        self._warn_of_threshold(job)
        await _on_disk(entry)
        return json_reply(200, api.encode_reply("accepted", job.id))

    def _warn_of_threshold(self, job: Job) -> None:
        now = self._clock()
        if api.is_implausible(job) and now >= self._threshold_warning_at:
            self._threshold_warning_at = now + THRESHOLD_WARNING_S
            log.warning(
                "Job %s has a distance_threshold of %d, which no search will ever reach. It is probably a difficulty: "
                "nodes of a test network of November 2025 to January 2026 sent that, for a Poseidon2 that no network "
                'uses now. Update the node; it will send "difficulty", or speak QUIC',
                job.id,
                job.target,
                extra={"job": job.id, "source": "http"},
            )

    async def _result(self, request: Request) -> Response:
        # A poll keeps a job from expiring, and its solution may be forgotten sooner once it was read.
        if refusal := self._access.refuse(request):
            return refusal
        job_id: str = request.path_params["job_id"]
        entry = self._jobs.get(job_id)
        if entry is None:
            return json_reply(404, api.encode_unknown_result(job_id))
        if entry.status is not Status.RUNNING:
            # Do not report a solution that a crash could lose.
            await _on_disk(entry)
        self._jobs.poll(entry)
        return json_reply(
            200, api.encode_result(job_id, entry.status, entry.stored.solution, *self._jobs.figures(entry))
        )

    async def _cancel(self, request: Request) -> Response:
        if refusal := self._access.refuse(request):
            return refusal
        job_id: str = request.path_params["job_id"]
        entry = self._jobs.get(job_id)
        if entry is None:
            return json_reply(404, api.encode_reply("not_found", job_id, "Job not found"))
        self._jobs.cancel(entry)
        await _on_disk(entry)
        return json_reply(200, api.encode_reply("cancelled", job_id))

    async def _health(self, _: Request) -> Response:
        ready = self.accepting and self._miner.healthy
        return json_reply(200 if ready else 503, msgspec.json.encode({"status": "ready" if ready else "not_ready"}))

    async def _openapi(self, _: Request) -> Response:
        return json_reply(200, OPENAPI)

    async def _version(self, _: Request) -> Response:
        return json_reply(200, msgspec.json.encode({"name": "quantus-miner", "version": __version__}))


async def _on_disk(entry: Entry) -> None:
    """Wait until a job's status is on the disk, or until the disk has failed."""
    if entry.commit is not None and not entry.commit.done():
        await asyncio.wait((asyncio.wrap_future(entry.commit),), timeout=MAX_WAIT_S)
