"""The API of a hub: GET /status, GET /commands, and POST /command, which needs the token."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from quantus_miner import __version__
from quantus_miner.errors import MAX_REASON, MinerError, printable
from quantus_miner.web.control import read_steering
from quantus_miner.web.hub_status import hub_status
from quantus_miner.web.routes import error, json_reply, refuse_other_pages
from quantus_miner.web.shared import SharedInThread
from quantus_miner.wire.api import encode
from quantus_miner.wire.commands import CommandList, CommandReply, CommandRequest
from quantus_miner.wire.hub_openapi import OPENAPI

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.requests import Request

    from quantus_miner.monitor import Snapshot
    from quantus_miner.web.routes import Access, Routes
    from quantus_miner.wire.commands import CommandEntry

log = logging.getLogger("miner.http")

NOT_STORED = {"cache-control": "no-store"}


class HubApi:
    """The calls of a hub, added to ``routes``. ``look``: returns a snapshot. ``command``: carries a command out.

    ``commands``: returns the last ones. ``folder``: the state folder, in which a token is made if there is none.
    """

    def __init__(
        self,
        look: Callable[[], Snapshot],
        command: Callable[[CommandRequest, str], Awaitable[CommandReply]],
        commands: Callable[[], list[CommandEntry]],
        routes: Routes,
        access: Access,
        folder: Path,
    ) -> None:
        # With thousands of rigs it takes tens of milliseconds.
        self._status = SharedInThread(look, encode_status)
        self._command = command
        self._commands = commands
        self._access = access
        self._folder = folder
        routes.add("/status", "GET", self._reply_status)
        routes.add("/commands", "GET", self._reply_commands)
        routes.add("/command", "POST", self._reply_command)
        routes.add("/openapi.json", "GET", self._reply_openapi)
        routes.add("/version", "GET", self._reply_version)

    async def _reply_status(self, _: Request) -> Response:
        return json_reply(200, await self._status.get(), NOT_STORED)

    async def _reply_commands(self, request: Request) -> Response:
        return refuse_other_pages(request) or json_reply(200, encode(CommandList(self._commands())), NOT_STORED)

    async def _reply_command(self, request: Request) -> Response:
        body = await read_steering(request, self._access, self._folder)
        if isinstance(body, Response):
            return body
        try:
            command = msgspec.json.decode(body, type=CommandRequest)
            reply = await self._command(command, request.client.host if request.client else "?")
        except msgspec.ValidationError as wrong:
            return error(400, "", f"the command is not valid: {printable(str(wrong))[:MAX_REASON]}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return error(
                400, "", 'the body must be JSON such as {"action": "pause", "targets": ["all"], "by": "alice"}'
            )
        except MinerError as wrong:
            return error(400, "", str(wrong))
        return json_reply(200, encode(reply))

    async def _reply_openapi(self, _: Request) -> Response:
        return json_reply(200, OPENAPI)

    async def _reply_version(self, _: Request) -> Response:
        return json_reply(200, msgspec.json.encode({"name": "quantus-miner", "version": __version__}))


def encode_status(snapshot: Snapshot) -> bytes:
    """Return the status of a hub as JSON. Raises ValueError if the snapshot has none."""
    if snapshot.hub is None:
        raise ValueError("the hub cannot be read")
    return encode(hub_status(snapshot, snapshot.hub))
