"""The HTTP job API: routes, authorisation, limits and encoding. The module ``jobs`` handles the jobs themselves."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from quantus_miner import __version__
from quantus_miner.jobs import DuplicateJobError, TooManyJobsError
from quantus_miner.mining.stats import ApiStats
from quantus_miner.model import Status
from quantus_miner.wire import api
from quantus_miner.wire.hosts import from_other_page
from quantus_miner.wire.openapi import OPENAPI

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from quantus_miner.jobs import Entry, Jobs
    from quantus_miner.mining.miner import Miner
    from quantus_miner.model import Job

log = logging.getLogger("miner.http")

THRESHOLD_WARNING_S: Final = 3600.0
"""Seconds between two warnings of an implausible threshold. A node that sends one does so with every job."""
BODY_TIMEOUT_S: Final = 10.0
"""Seconds that a client may take to send a request's body."""
MAX_WAIT_S: Final = 2.0
"""Seconds that a reply waits for the disk, at most. A disk that hangs is treated like a full one."""


class _AnyConvertor(Convertor[str]):
    """The rest of a path with any characters: a job id may contain slashes and line ends."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _AnyConvertor())

MAX_DISCARDED: Final = 16_000_000
"""Bytes of an oversized body that are read before the connection is closed."""


class JobApi:
    """The calls of the job API, owned by the event loop's thread. Only ``stats`` may be called from any thread.

    ``token``: the bearer token that /mine, /result and /cancel require; None: no token. ``accepting``: True if new jobs
    are accepted. Both may change.
    """

    def __init__(
        self, jobs: Jobs, miner: Miner, *, token: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.accepting = False
        self._jobs = jobs
        self._miner = miner
        self.token = token
        self._clock = clock
        self._requests: Counter[tuple[str, int]] = Counter()
        self._mine_requests: Counter[str] = Counter(dict.fromkeys(("accepted", "duplicate", "invalid", "error"), 0))
        self._threshold_warning_at = -math.inf

    @property
    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
            ("/mine", "POST", self._mine),
            ("/result/{job_id:any}", "GET", self._result),
            ("/cancel/{job_id:any}", "POST", self._cancel),
            ("/health", "GET", self._health),
            ("/openapi.json", "GET", self._openapi),
            ("/version", "GET", self._version),
        )
        nothing_here = self._counted("other", self._nothing_here)

        async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
            response = await nothing_here(Request(scope, receive))
            await response(scope, receive, send)

        return _dispatch(
            [Route(path, self._counted(path, handler), methods=[method]) for path, method, handler in routes],
            otherwise,
        )

    def stats(self) -> ApiStats:
        """Return a snapshot."""
        return ApiStats(
            requests=dict(self._requests),
            mine_requests=dict(self._mine_requests),
            ended_jobs=dict(self._jobs.ended),
            jobs=self._jobs.stats(),
        )

    # --- requests ---

    async def _mine(self, request: Request) -> Response:
        if refusal := self._refuse_stranger(request):
            self._mine_requests["invalid"] += 1
            return refusal
        if not self.accepting:
            self._mine_requests["error"] += 1
            return _error(503, "", "the miner is shutting down")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            self._mine_requests["invalid"] += 1
            return _error(415, "", "content type must be application/json")
        body = await _read_body(request)
        if isinstance(body, Response):
            self._mine_requests["invalid"] += 1
            return body
        try:
            job = api.parse_mine(body, secrets.randbits(512))
            if not self._miner.supports(job.pow):
                raise api.InvalidRequestError(job.id, f"no engine here searches {job.pow}")  # noqa: TRY301
            entry = self._jobs.submit(job)
        except api.InvalidRequestError as error:
            self._mine_requests["invalid"] += 1
            return _error(400, error.job_id, error.message)
        except DuplicateJobError:
            self._mine_requests["duplicate"] += 1
            return _error(409, job.id, "Job already exists")
        except TooManyJobsError:
            self._mine_requests["error"] += 1
            return _error(503, job.id, "too many jobs")
        self._mine_requests["accepted"] += 1
        self._warn_of_threshold(job)
        await _on_disk(entry)
        return _json(200, api.encode_reply("accepted", job.id))

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
        if refusal := self._refuse_stranger(request):
            return refusal
        job_id: str = request.path_params["job_id"]
        entry = self._jobs.get(job_id)
        if entry is None:
            return _json(404, api.encode_unknown_result(job_id))
        if entry.status is not Status.RUNNING:
            # Do not report a solution that a crash could lose.
            await _on_disk(entry)
        self._jobs.poll(entry)
        return _json(200, api.encode_result(job_id, entry.status, entry.stored.solution, *self._jobs.figures(entry)))

    async def _cancel(self, request: Request) -> Response:
        if refusal := self._refuse_stranger(request):
            return refusal
        job_id: str = request.path_params["job_id"]
        entry = self._jobs.get(job_id)
        if entry is None:
            return _json(404, api.encode_reply("not_found", job_id, "Job not found"))
        self._jobs.cancel(entry)
        await _on_disk(entry)
        return _json(200, api.encode_reply("cancelled", job_id))

    async def _health(self, _: Request) -> Response:
        ready = self.accepting and self._miner.healthy
        return _json(200 if ready else 503, msgspec.json.encode({"status": "ready" if ready else "not_ready"}))

    async def _openapi(self, _: Request) -> Response:
        return _json(200, OPENAPI)

    async def _version(self, _: Request) -> Response:
        return _json(200, msgspec.json.encode({"name": "quantus-miner", "version": __version__}))

    async def _nothing_here(self, _: Request) -> Response:
        return _error(404, "", "no such call")

    def _refuse_stranger(self, request: Request) -> Response | None:
        """Return the reply to a request that a web page made or that lacks the token, or None if it may proceed."""
        headers = request.headers
        host, origins, sites = headers.get("host", ""), headers.getlist("origin"), headers.getlist("sec-fetch-site")
        if problem := from_other_page(host, origins, sites):
            log.warning("Refused a request: %s", problem, extra={"source": "http"})
            return _error(403, "", problem)
        if self.token is None:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Compare bytes: compare_digest accepts only ASCII text.
        if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.token.encode()):
            return None
        return _error(401, "", "a valid bearer token is required", {"www-authenticate": "Bearer"})

    def _counted(
        self, endpoint: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def counted(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception:
                log.exception("%s failed", endpoint, extra={"source": "http"})
                if endpoint == "/mine":
                    self._mine_requests["error"] += 1
                response = _error(500, "", "internal error")
            self._requests[endpoint.replace(":any", ""), response.status_code] += 1
            return response

        return counted


async def _on_disk(entry: Entry) -> None:
    """Wait until a job's status is on the disk, or until the disk has failed."""
    if entry.commit is not None and not entry.commit.done():
        await asyncio.wait((asyncio.wrap_future(entry.commit),), timeout=MAX_WAIT_S)


async def _read_body(request: Request) -> bytes | Response:
    """Read a request's body. Return it, or the reply to one that is too large, too slow or incomplete."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                # Read on for a while if it is too large: a client that is still sending would not see the reply.
                if size <= api.MAX_BODY:
                    body += chunk
                elif size > MAX_DISCARDED:
                    break
    except TimeoutError:
        return _error(408, "", f"request body must arrive within {BODY_TIMEOUT_S:g} seconds", {"connection": "close"})
    except ClientDisconnect:
        return _error(400, "", "request body broke off")
    if size > api.MAX_BODY:
        return _error(413, "", f"request body must be at most {api.MAX_BODY} bytes", {"connection": "close"})
    return bytes(body)


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _error(status: int, job_id: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json(status, api.encode_reply("error", job_id, message), headers)


def _dispatch(routes: list[Route], otherwise: ASGIApp) -> ASGIApp:
    """Return an application that calls the route whose path and method match, or ``otherwise`` if none does.

    ``//mine`` counts as ``/mine``, because nodes whose base URL ends in a slash ask for it.
    """

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("//"):
            scope["path"] = "/" + scope["path"].lstrip("/")
        for route in routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        await otherwise(scope, receive, send)

    return dispatch
