"""What the view shows of a miner, and what of a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quantus_miner.top import fleet, text
from quantus_miner.wire.hub_status import HubStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantus_miner.wire.status import Status

TABLES: Final[Mapping[str, Callable[[Any], text.Table]]] = {
    "devices": text.devices,
    "workers": text.workers,
    "miners": fleet.miners,
    "shares": text.shares,
    "connections": text.connections,
    "jobs": text.jobs,
}
"""All tables, from top to bottom. Each takes the status that has it."""


class Face(NamedTuple):
    """Functions that take a status, the tables of each view, and the text that explains keys and figures."""

    speed: Callable[[Any], str]
    totals: Callable[[Any], str]
    faults: Callable[[Any], list[str]]
    views: Mapping[str, tuple[str, ...]]
    help: str


MINER: Final = Face(
    text.speed,
    text.totals,
    text.faults,
    {
        "all": ("devices", "shares", "jobs"),
        "hash rate": ("devices", "workers"),
        "shares": ("shares",),
        "connections": ("connections",),
        "jobs": ("jobs",),
        "help": (),
    },
    """\
a  all: devices, nodes and pools, jobs   p  pause the selected device
h  hash rate by device and worker        r  resume the selected device
s  shares by node and pool               ?  this help
c  connections to nodes and pools        q  quit
j  jobs of the job API

Arrows select a device and scroll, Tab goes to the next table. In the row
"all", and in views without devices, p and r are for all devices.

Rates are averages: over 10 s, and over 60 s and 15 min where these stand.
"-" is unknown. The plot shows the rate since top was started, one hour at
most; no answer counts as 0. Figures that are older than 5 s are dimmed.

SHARES  accepted, rejected, stale (too late)
SENT    solutions sent, also those to nodes, which do not confirm them
LUCK    accepted work for the nonces tested, on average 100 %""",
)
HUB: Final = Face(
    fleet.speed,
    fleet.totals,
    fleet.faults,
    {
        "all": ("miners", "shares"),
        "shares": ("shares",),
        "connections": ("connections",),
        "help": (),
    },
    """\
a  all: rigs and stratum miners, nodes and pools   p  pause the selected rig
s  shares by node and pool                         r  resume the selected rig
c  connections to nodes and pools                  ?  this help
                                                   q  quit

Arrows select a rig and scroll, Tab goes to the next table. In the row "all",
and in views without rigs, p and r are for all rigs.

RATE         what a rig reports, over 10 s; other columns: 60 s and 15 min
PROVEN       what its accepted work of the last 15 minutes proves
OK/BAD/LATE  solutions of a rig, shares of a stratum miner
HEARD        since the last report of a rig, or the last accepted share
ORDERS       "waiting": the rig has not done yet what it was asked to
LUCK         accepted work for the nonces reported, on average 100 %""",
)


def of(status: Status | HubStatus) -> Face:
    """Return the face for a status."""
    return HUB if isinstance(status, HubStatus) else MINER


def plain(status: Status | HubStatus) -> str:
    """Return everything, for a terminal without a view or a file."""
    return fleet.plain(status) if isinstance(status, HubStatus) else text.plain(status)
