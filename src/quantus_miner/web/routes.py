"""The calls of one HTTP port: who may make them, where they go, and how often each was made."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from quantus_miner.wire import api
from quantus_miner.wire.hosts import from_other_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

log = logging.getLogger("miner.http")

BODY_TIMEOUT_S: Final = 10.0
"""Seconds that a client may take to send a request's body."""
MAX_DISCARDED: Final = 16_000_000
"""Bytes of an oversized body that are read before the connection is closed."""


class _AnyConvertor(Convertor[str]):
    """The rest of a path with any characters: a job id may contain slashes and line ends."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _AnyConvertor())


class Access:
    """Decides who may call. ``token``: the bearer token of the job API, None if it needs none.

    ``own_token``: the token for calls that steer the miner while ``token`` is None. Both may change.
    """

    def __init__(self, token: str | None, own_token: str | None = None) -> None:
        self.token = token
        self.own_token = own_token

    def refuse(self, request: Request, *, steers: bool = False) -> Response | None:
        """Return the reply to a request that a web page made or that lacks the token, or None if it may proceed.

        ``steers``: True for a call that needs a token whatever the settings are.
        """
        if refusal := refuse_other_pages(request):
            return refusal
        expected = self.token or (self.own_token if steers else None)
        if expected is None:
            return error(403, "", "this call needs a token; set --api-token") if steers else None
        if _carries(request, expected):
            return None
        return error(401, "", "a valid bearer token is required", {"www-authenticate": "Bearer"})

    def may_steer(self, request: Request) -> bool:
        """Return True if a request carries the token for calls that steer the miner."""
        expected = self.token or self.own_token
        return expected is not None and _carries(request, expected)


def _carries(request: Request, expected: str) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # Compare bytes: compare_digest accepts only ASCII text.
    return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), expected.encode())


class Routes:
    """An ASGI application that calls the handler whose path and method match, and counts the replies.

    ``//mine`` counts as ``/mine``, because nodes whose base URL ends in a slash ask for it. ``requests``: number of
    replies by route template and status code; the template ``other`` stands for all unknown calls.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._routes: list[Route] = []
        self._otherwise = self._counted("other", _nothing_here)

    def add(self, path: str, method: str, handler: Callable[[Request], Awaitable[Response]]) -> None:
        """Add a call. ``path``: Starlette's template, ``{name:any}`` matches the rest of the path."""
        self._routes.append(Route(path, self._counted(path, handler), methods=[method]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["path"].startswith("//"):
            scope["path"] = "/" + scope["path"].lstrip("/")
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        response = await self._otherwise(Request(scope, receive))
        await response(scope, receive, send)

    def _counted(
        self, endpoint: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def counted(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception:
                log.exception("%s failed", endpoint, extra={"source": "http"})
                response = error(500, "", "internal error")
            self.requests[endpoint.replace(":any", ""), response.status_code] += 1
            return response

        return counted


def refuse_other_pages(request: Request) -> Response | None:
    """Return the reply to a request that a web page of another site made, or None if it may proceed."""
    headers = request.headers
    host, origins, sites = headers.get("host", ""), headers.getlist("origin"), headers.getlist("sec-fetch-site")
    problem = from_other_page(host, origins, sites)
    if problem is None:
        return None
    log.warning("Refused a request: %s", problem, extra={"source": "http"})
    return error(403, "", problem)


async def read_body(request: Request) -> bytes | Response:
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
        return error(408, "", f"request body must arrive within {BODY_TIMEOUT_S:g} seconds", {"connection": "close"})
    except ClientDisconnect:
        return error(400, "", "request body broke off")
    if size > api.MAX_BODY:
        return error(413, "", f"request body must be at most {api.MAX_BODY} bytes", {"connection": "close"})
    return bytes(body)


def json_reply(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return a reply with a JSON body."""
    return Response(body, status, headers, media_type="application/json")


def error(status: int, job_id: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return a reply that says what is wrong with a request."""
    return json_reply(status, api.encode_reply("error", job_id, message), headers)


async def _nothing_here(_: Request) -> Response:
    return error(404, "", "no such call")
