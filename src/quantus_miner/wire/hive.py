"""The ``stats`` object of HiveOS, from which scripts for other rig systems are made too. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from quantus_miner.wire import rigs

if TYPE_CHECKING:
    from quantus_miner.wire.status import Status


class HiveStats(msgspec.Struct):
    """One entry for each GPU and one for the CPU in ``hs``, ``temp``, ``fan`` and ``bus_numbers``, in the same order.

    ``hs``: thousands of nonces a second. ``temp``: degrees Celsius. ``fan``: percent. ``uptime``: seconds. ``ar``:
    accepted, rejected and stale shares. ``bus_numbers``: decimal numbers of the PCI buses.
    """

    hs: list[float]
    hs_units: str
    temp: list[float | None]
    fan: list[int | None]
    uptime: int
    ar: Annotated[list[int], msgspec.Meta(min_length=3, max_length=3)]
    algo: str
    bus_numbers: list[int | None]
    ver: str


def hive_stats(status: Status) -> HiveStats:
    """Return ``status`` as HiveOS expects it."""
    devices = rigs.devices(status)
    return HiveStats(
        hs=[rigs.kilo(device.hash_rate.current) for device in devices],
        hs_units="khs",
        temp=[device.temperature for device in devices],
        fan=[device.fan for device in devices],
        uptime=int(status.uptime_seconds),
        ar=[status.shares.accepted, status.shares.rejected, status.shares.stale],
        algo=rigs.ALGORITHM,
        bus_numbers=[device.bus for device in devices],
        ver=status.version,
    )
