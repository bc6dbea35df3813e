"""The JSON API of cgminer, as far as it only reads: one request, one reply with a NUL at its end. No I/O.

Rates are in thousands (KHS) or millions (MHS) of nonces a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from quantus_miner.wire import rigs
from quantus_miner.wire.api import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantus_miner.model import Rates
    from quantus_miner.wire.rigs import RigDevice
    from quantus_miner.wire.status import SourceStatus, Status

API_VERSION: Final = "3.7"
MAX_JOINED: Final = 16
"""Commands of one request, joined by ``+``."""
PRIVILEGED: Final = frozenset(
    (
        *("addpool", "disablepool", "enablepool", "poolpriority", "poolquota", "removepool", "switchpool"),
        *("gpudisable", "gpuenable", "gpuengine", "gpufan", "gpuintensity", "gpumem", "gpurestart", "gpuvddc"),
        *("ascdisable", "ascenable", "ascset", "pgadisable", "pgaenable", "pgaset"),
        *("debug", "failover-only", "hotplug", "lockstats", "quit", "restart", "save", "setconfig", "zero"),
    )
)
"""Commands that cgminer refuses to those who may only read."""

Answer = dict[str, Any]


class _Request(msgspec.Struct):
    command: str | None = None


def answer(data: bytes, status: Status) -> bytes:
    """Return the reply to one request. It says what is wrong if the request is not valid or asks for a change.

    The reply to joined commands has an object by the name of each, which is what the reader of SimpleMining expects.
    """
    try:
        command = msgspec.json.decode(data, type=_Request).command
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _encode(_error(23, "Invalid JSON", status))
    if not command:
        return _encode(_error(24, "Missing JSON 'command'", status))
    names = command.split("+")
    if len(names) == 1:
        return _encode(_answer(command, status))
    if len(names) > MAX_JOINED:
        return _encode(_error(14, f"At most {MAX_JOINED} commands may be joined", status))
    return _encode({name: _answer(name, status) for name in names})


def _encode(reply: Answer) -> bytes:
    return encode(reply | {"id": 1}) + b"\0"


def _answer(command: str, status: Status) -> Answer:
    if command in COMMANDS:
        return COMMANDS[command](status)
    if command in PRIVILEGED:
        return _error(45, f"Access denied to '{command}' command", status)
    return _error(14, "Invalid command", status)


def _version(status: Status) -> Answer:
    version = {"Miner": f"quantus-miner {status.version}", "API": API_VERSION}
    return {"STATUS": _status("S", 22, "Versions", status), "VERSION": [version]}


def _summary(status: Status) -> Answer:
    shares = status.shares
    summary = {
        "Elapsed": int(status.uptime_seconds),
        **_rates(status.hash_rate, status.hashes, status),
        "Accepted": shares.accepted,
        "Rejected": shares.rejected,
        "Stale": shares.stale,
        "Found Blocks": status.blocks,
        "Hardware Errors": status.solutions_rejected,
        "Remote Failures": rigs.reconnects(status),
    }
    return {"STATUS": _status("S", 11, "Summary", status), "SUMMARY": [summary]}


def _devs(status: Status) -> Answer:
    devices = rigs.devices(status)
    gpus = sum(device.is_gpu for device in devices)
    described = [_device(number, device, status) for number, device in enumerate(devices)]
    message = f"{gpus} GPU(s) - {len(devices) - gpus} CPU(s)"
    return {"STATUS": _status("S", 9, message, status), "DEVS": described}


def _device(number: int, device: RigDevice, status: Status) -> Answer:
    kind, number = ("GPU", number) if device.is_gpu else ("CPU", 0)
    return {
        kind: number,
        "Name": device.name,
        "Enabled": "N" if device.paused else "Y",
        "Status": "Alive" if device.up else "Dead",
        "Temperature": device.temperature or 0,
        "Fan Percent": device.fan or 0,
        "GPU Power": device.power or 0,
        **_rates(device.hash_rate, device.hashes, status),
    }


def _pools(status: Status) -> Answer:
    pools = [_pool(number, source) for number, source in enumerate(status.sources)]
    return {"STATUS": _status("S", 7, f"{len(pools)} Pool(s)", status), "POOLS": pools}


def _pool(number: int, source: SourceStatus) -> Answer:
    return {
        "POOL": number,
        "URL": rigs.address(source),
        "Status": "Alive" if source.connected else "Dead",
        "Priority": number,
        "Stratum Active": source.mined,
        "Accepted": source.accepted,
        "Rejected": source.rejected,
        "Stale": source.stale,
        "Difficulty Accepted": source.accepted_work,
        "Works": source.jobs,
    }


COMMANDS: Final[Mapping[str, Callable[[Status], Answer]]] = {
    "version": _version,
    "summary": _summary,
    "devs": _devs,
    "pools": _pools,
}


def _rates(rates: Rates, hashes: int, status: Status) -> Answer:
    """Return the rates under cgminer's names. The shortest window is 10 seconds, and it stands for 5 and for 30."""
    average = hashes / status.uptime_seconds if status.uptime_seconds > 0 else 0.0
    windows = {
        "av": average,
        "5s": rates.current,
        "30s": rates.current,
        "1m": rates.current if rates.average_60s is None else rates.average_60s,
        "15m": average if rates.average_15m is None else rates.average_15m,
    }
    kilo = {f"KHS {window}": rigs.kilo(rate) for window, rate in windows.items()}
    return kilo | {f"MHS {window}": rigs.kilo(rate / 1000) for window, rate in windows.items()}


def _error(code: int, message: str, status: Status) -> Answer:
    return {"STATUS": _status("E", code, message, status)}


def _status(letter: str, code: int, message: str, status: Status) -> list[Answer]:
    description = f"quantus-miner {status.version}"
    return [{"STATUS": letter, "When": int(status.time), "Code": code, "Msg": message, "Description": description}]
