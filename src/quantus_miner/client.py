"""A client of a running miner, for the commands that show or steer one."""

from __future__ import annotations

import http.client
import ipaddress
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from quantus_miner.errors import MAX_REASON, MinerError, SettingError
from quantus_miner.host.http_server import HttpServer, reason
from quantus_miner.wire.api import MineResponse
from quantus_miner.wire.commands import CommandEntry, CommandList, CommandReply, CommandRequest
from quantus_miner.wire.hub_status import HubStatus
from quantus_miner.wire.status import PauseReply, PauseRequest, Status

TIMEOUT_S: Final = 10.0
"""Seconds for one call, from the name look-up to the last byte."""
MAX_REPLY: Final = 16_000_000
"""Bytes of the largest accepted reply."""


def is_local(url: str) -> bool:
    """Return True if ``url`` names this machine: localhost, or an address of the loopback interface."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Reply = TypeVar("Reply", bound=msgspec.Struct)


class _Role(msgspec.Struct):
    role: str = "miner"


class Client:
    """The miner or hub whose API is at ``url``. ``token``: what calls that steer it require, None if it is not known.

    Every method raises MinerError, one line, without a usable reply. Raises SettingError if ``url`` is not allowed.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._server = HttpServer(self.url)
        except ValueError:
            raise SettingError(f"{url[:200]!r} is not the URL of a miner; allowed: http://HOST:PORT") from None

    def status(self) -> Status | HubStatus:
        """Return the status of the miner or hub."""
        reply = self._fetch("GET", "/status", "")
        is_hub = self._decode(reply, _Role).role == "hub"
        return self._decode(reply, HubStatus) if is_hub else self._decode(reply, Status)

    def pause(self, device: str | None = None) -> PauseReply:
        """Pause a device, or all."""
        return self._call("POST", "/pause", msgspec.json.encode(PauseRequest(device)).decode(), PauseReply)

    def resume(self, device: str | None = None) -> PauseReply:
        """Resume a device, or all."""
        return self._call("POST", "/resume", msgspec.json.encode(PauseRequest(device)).decode(), PauseReply)

    def command(self, command: CommandRequest) -> CommandReply:
        """Have a hub ask its rigs to do something."""
        return self._call("POST", "/command", msgspec.json.encode(command).decode(), CommandReply)

    def commands(self) -> list[CommandEntry]:
        """Return the last commands to the rigs of a hub, the newest last."""
        return self._call("GET", "/commands", "", CommandList).commands

    def _call(self, method: str, path: str, body: str, expected: type[Reply]) -> Reply:
        return self._decode(self._fetch(method, path, body), expected)

    def _decode(self, reply: bytes, expected: type[Reply]) -> Reply:
        try:
            return msgspec.json.decode(reply, type=expected)
        except (ValueError, RecursionError) as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: Exception) -> MinerError:
        return MinerError(f"no miner answers at {self.url}: {reason(error)[:MAX_REASON]}")

    def _fetch(self, method: str, path: str, body: str) -> bytes:
        path = self._server.path.rstrip("/") + path
        try:
            # Whoever answers gets the token only if a person steers the miner, not with every look at it.
            headers = {} if method == "GET" else self._headers
            code, reply = self._server.request(method, path, body, headers, timeout_s=TIMEOUT_S, max_reply=MAX_REPLY)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._no_answer(error) from None
        if code == http.client.OK:
            return reply
        if code == http.client.UNAUTHORIZED:
            raise MinerError(f"the miner at {self.url} requires its token; give it with --api-token-file")
        try:
            message = msgspec.json.decode(reply, type=MineResponse).message or ""
            message = message[:MAX_REASON]
        except (ValueError, RecursionError):
            message = ""
        raise MinerError(f"the miner at {self.url} refuses {method} {path}: {message or f'HTTP status {code}'}")
