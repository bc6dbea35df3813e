"""The page at ``/``: its files, and the calls that it makes."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from quantus_miner.web.routes import error, refuse_other_pages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from quantus_miner.web.routes import Routes

INDEX: Final = "index.html"
HUB_INDEX: Final = "hub.html"
FILES: Final = {
    INDEX: "text/html",
    HUB_INDEX: "text/html",
    "page.css": "text/css",
    "hub.js": "text/javascript",
    "miners.js": "text/javascript",
    "page.js": "text/javascript",
    "plot.js": "text/javascript",
    "stream.js": "text/javascript",
    "token.js": "text/javascript",
    "view.js": "text/javascript",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
}
"""The files in ``static`` and their types."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""What a browser may load and run for the page: its own files."""
HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Page:
    """The files of the page, added to ``routes``. ``on``: False answers its calls as if there were none; may change.

    ``index``: the file that is the page, that of a miner or that of a hub.
    """

    def __init__(self, routes: Routes, index: str) -> None:
        self.on = True
        self._start = index
        self._routes = routes
        self._files = {name: _File(name, kind) for name, kind in FILES.items()}
        self._add("/", self._index)
        self._add("/static/{name}", self._static)

    def add(self, path: str, handler: Callable[[Request], Awaitable[Response]]) -> None:
        """Add a call that the page makes. Pages of other sites are refused."""

        async def checked(request: Request) -> Response:
            return refuse_other_pages(request) or await handler(request)

        self._add(path, checked)

    def _add(self, path: str, handler: Callable[[Request], Awaitable[Response]]) -> None:
        async def if_on(request: Request) -> Response:
            return await handler(request) if self.on else error(404, "", "no such call")

        self._routes.add(path, "GET", if_on)

    async def _index(self, request: Request) -> Response:
        return self._files[self._start].reply(request)

    async def _static(self, request: Request) -> Response:
        file = self._files.get(request.path_params["name"])
        return file.reply(request) if file else error(404, "", "no such call")


class _File:
    """A file of the page. Browsers keep a copy and ask whether it is still right."""

    def __init__(self, name: str, kind: str) -> None:
        self._content = resources.files("quantus_miner.web").joinpath("static", name).read_bytes()
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
        self._kind = kind

    def reply(self, request: Request) -> Response:
        headers = HEADERS | {"etag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._kind)
