"""The calls that rig managers and dashboards make: those of xmrig's API, and the stats of HiveOS."""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from quantus_miner.host import cpus
from quantus_miner.host.resources import read_resources
from quantus_miner.mining.pauses import USER
from quantus_miner.web.routes import json_reply, read_body
from quantus_miner.web.shared import Shared
from quantus_miner.web.status import status_of
from quantus_miner.wire import json_rpc, xmrig
from quantus_miner.wire.api import encode
from quantus_miner.wire.hive import hive_stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from quantus_miner.mining.miner import Miner
    from quantus_miner.monitor import Snapshot
    from quantus_miner.web.routes import Access, Routes

NEW: Final = {"cache-control": "no-store"}


class RigApi:
    """The calls, for any number of ports. All but POST /json_rpc only read, and need no token.

    It calls ``look`` on the event loop.
    """

    def __init__(self, look: Callable[[], Snapshot], miner: Miner, access: Access) -> None:
        self._status = Shared(lambda: status_of(look()))
        self._miner = miner
        self._access = access

    def add_to(self, routes: Routes) -> None:
        """Add the calls to the ``routes`` of a port."""
        for path in ("/2/summary", "/1/summary", "/api.json"):
            routes.add(path, "GET", self._summary)
        routes.add("/2/backends", "GET", self._backends)
        routes.add("/json_rpc", "POST", self._json_rpc)
        routes.add("/hive-stats", "GET", self._hive_stats)

    async def _summary(self, request: Request) -> Response:
        restricted = not self._access.may_steer(request)
        summary = xmrig.summary(await self._status.get(), _resources(), _processor(), restricted=restricted)
        return json_reply(200, encode(summary), NEW)

    async def _backends(self, _: Request) -> Response:
        return json_reply(200, encode(xmrig.backends(await self._status.get())), NEW)

    async def _hive_stats(self, _: Request) -> Response:
        return json_reply(200, encode(hive_stats(await self._status.get())), NEW)

    async def _json_rpc(self, request: Request) -> Response:
        if refusal := self._access.refuse(request, steers=True):
            return refusal
        body = await read_body(request)
        if isinstance(body, Response):
            return body
        return json_reply(200, encode(self._carry_out(json_rpc.parse(body))))

    def _carry_out(self, request: json_rpc.RpcRequest | json_rpc.RpcReply) -> json_rpc.RpcReply:
        if isinstance(request, json_rpc.RpcReply):
            return request
        if request.method not in xmrig.PAUSING:
            return json_rpc.failure(request.id, json_rpc.METHOD_NOT_FOUND, "Method not found")
        (self._miner.pause if xmrig.PAUSING[request.method] else self._miner.resume)(USER)
        return json_rpc.success(request, xmrig.Done("OK"))


def _resources() -> xmrig.Resources:
    found = read_resources()
    return xmrig.Resources(xmrig.Memory(found.free, found.total, found.own), list(found.load), os.cpu_count() or 1)


@cache
def _processor() -> xmrig.Cpu:
    return xmrig.Cpu(cpus.processor_name(), platform.machine(), os.cpu_count() or 1)
