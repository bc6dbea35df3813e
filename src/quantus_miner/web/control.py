"""The calls that pause and resume mining."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from quantus_miner.errors import MinerError
from quantus_miner.host import files
from quantus_miner.host.deadline import in_thread
from quantus_miner.mining.pauses import USER
from quantus_miner.web.routes import error, json_reply, read_body
from quantus_miner.wire.api import encode
from quantus_miner.wire.status import PauseReply, PauseRequest, PauseStatus

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from quantus_miner.mining.miner import Miner
    from quantus_miner.web.routes import Access, Routes

log = logging.getLogger("miner.http")

TOKEN_FILE: Final = "control-token"  # noqa: S105 - a name
"""File in the state folder with the token for /pause and /resume while --api-token is not set."""
MAX_TOKEN: Final = 512
"""Bytes of the longest token."""


def read_token(folder: Path) -> str | None:
    """Return the token in ``folder``, None if there is none that can be read."""
    try:
        return files.read(folder / TOKEN_FILE, MAX_TOKEN).decode("ascii").strip() or None
    except (OSError, ValueError):
        return None


def create_token(folder: Path) -> str | None:
    """Return the token in ``folder``. Create it if there is none. None if that is impossible; the log says why."""
    if (token := read_token(folder)) is not None:
        return token
    token = secrets.token_urlsafe(24)
    try:
        files.replace(folder / TOKEN_FILE, f"{token}\n", mode=0o600)
    except OSError as wrong:
        log.warning("Cannot write %s, so /pause and /resume need --api-token: %s", folder / TOKEN_FILE, wrong.strerror)
        return None
    return token


async def read_steering(request: Request, access: Access, folder: Path) -> bytes | Response:
    """Return the body of a call that needs a token whatever the settings are, or the reply that refuses it.

    ``folder``: the state folder, in which a token is made if there is none.
    """
    if access.own_token is None:  # the disk may have recovered since the start
        access.own_token = await in_thread(lambda: create_token(folder))
    return access.refuse(request, steers=True) or await read_body(request)


class Control:
    """POST /pause and POST /resume, added to ``routes``. Both need a token whatever the settings are.

    ``folder``: the state folder, in which a token is made if there is none.
    """

    def __init__(self, miner: Miner, routes: Routes, access: Access, folder: Path) -> None:
        self._miner = miner
        self._folder = folder
        self._access = access
        routes.add("/pause", "POST", self._pause)
        routes.add("/resume", "POST", self._resume)

    async def _pause(self, request: Request) -> Response:
        return await self._change(request, paused=True)

    async def _resume(self, request: Request) -> Response:
        return await self._change(request, paused=False)

    async def _change(self, request: Request, *, paused: bool) -> Response:
        body = await read_steering(request, self._access, self._folder)
        if isinstance(body, Response):
            return body
        try:
            device = msgspec.json.decode(body, type=PauseRequest).device if body.strip() else None
            changed = (self._miner.pause if paused else self._miner.resume)(USER, device)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return error(400, "", 'the body must be empty or JSON such as {"device": "cpu"}')
        except MinerError as wrong:
            return error(400, "", str(wrong))
        pauses = [PauseStatus(*pause) for pause in self._miner.stats().pauses]
        return json_reply(200, encode(PauseReply("ok", changed, pauses)))
