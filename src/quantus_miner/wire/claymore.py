"""The monitoring protocol of Claymore's miner, which ethminer and others speak too: one JSON line each way. No I/O.

Methods that would change something are refused, in the words of ethminer when it may only be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.wire import json_rpc, rigs
from quantus_miner.wire.api import encode
from quantus_miner.wire.json_rpc import RpcReply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantus_miner.wire.status import Status

STATISTICS: Final = ("miner_getstat1", "miner_getstat2")
READ_ONLY: Final = ("miner_restart", "miner_reboot", "miner_file", "miner_getfile", "control_gpu")


def answer(data: bytes, status: Status) -> bytes:
    """Return the reply to one request, a line. It is an error if the request is not valid or asks for a change."""
    request = json_rpc.parse(data)
    if isinstance(request, RpcReply):
        reply = request
    elif request.method in STATISTICS:
        texts = _statistics(status)
        reply = json_rpc.success(request, texts if request.method == "miner_getstat2" else texts[:9])
    else:
        message = "Method not available" if request.method in READ_ONLY else "Method not found"
        reply = json_rpc.failure(request.id, json_rpc.METHOD_NOT_FOUND, message)
    return encode(reply) + b"\n"


def _statistics(status: Status) -> list[str]:
    """Return the texts of miner_getstat2; the first nine are those of miner_getstat1. Numbers are whole.

    What the second coin of the original would be is 0 or off. So are the shares of each device, which are not counted.
    """
    devices, shares = rigs.devices(status), status.shares
    health = [value for device in devices for value in (device.temperature or 0, device.fan or 0)]
    zeros = _join(0 for _ in devices)
    return [
        f"quantus-miner {status.version}",
        str(int(status.uptime_seconds / 60)),
        _join((status.hash_rate.current / 1000, shares.accepted, shares.rejected)),
        _join(device.hash_rate.current / 1000 for device in devices),
        "0;0;0",
        ";".join("off" for _ in devices),
        _join(health),
        rigs.address(rigs.mined_source(status)),
        _join((shares.stale, rigs.reconnects(status), 0, 0)),
        *[zeros] * 6,
        _join(device.bus or 0 for device in devices),
    ]


def _join(numbers: Iterable[float]) -> str:
    return ";".join(str(round(number)) for number in numbers)
