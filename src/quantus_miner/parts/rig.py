"""The live sources of a miner that may be a rig: the hub before nodes and pools, and what the hub asks for."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner import __version__
from quantus_miner.errors import MinerError, printable
from quantus_miner.host import files
from quantus_miner.host.deadline import in_thread
from quantus_miner.mining.pauses import HUB
from quantus_miner.parts.live import Live
from quantus_miner.parts.part import MinerPart
from quantus_miner.sources.hub import HubLink
from quantus_miner.wire.address import parse_wallet
from quantus_miner.wire.fleet import MAX_DEVICES, DeviceMessage, StatusMessage
from quantus_miner.wire.pool_url import parse_pool_url

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.monitor import Snapshot
    from quantus_miner.parts.part import MinerComponents
    from quantus_miner.settings import Settings
    from quantus_miner.sources.link import Link
    from quantus_miner.wire.fleet import HubUrl, Orders

log = logging.getLogger("miner")

FILE: Final = "hub-pools.json"
"""The pools that the hub has set, in the state folder: they are needed when the hub is away."""
MAX_BYTES: Final = 16_384
GAP_S: Final = 5.0
"""Seconds from one change of orders to the next. Of those that come meanwhile, the newest count."""
MIN_UPTIME_S: Final = 60.0
"""Seconds after its start for which the miner does not restart for the hub."""
REFUSES: Final = "--no-hub-control"
MAX_REASON: Final = 128
MAX_SOURCE: Final = 128
MAX_ID: Final = 32
"""Characters of texts that a hub is told."""


class Backups(msgspec.Struct):
    """The pools that a hub has set. ``hub``: which one it is."""

    hub: str
    pools: list[str]
    wallet: str


class LiveOfRig(Live, MinerPart):
    """Mines for a hub, nodes and pools, and does what the hub asks unless ``hub_control`` is off."""

    settings = Live.settings | {"hub", "hub_control"}
    components: MinerComponents
    _settings: Settings
    """Those of ``start`` or the last ``apply``."""

    def __init__(self, components: MinerComponents) -> None:
        super().__init__(components)
        self._wanted: Orders | None = None
        self._known: Orders | None = None  # the last ones that were obeyed or refused
        self._refused = ""
        self._backups: Backups | None = None
        self._next_s = 0.0
        self._obeying: asyncio.Task[None] | None = None
        self._restart = asyncio.Event()
        self._link: HubLink | None = None

    async def start(self, settings: Settings) -> None:
        """Make the links, with the pools that the hub has set in an earlier run."""
        if settings.hub is not None and settings.hub_control == "on":
            self._backups = _load(settings.state_dir, settings.hub)
        self._use(settings)

    async def run(self) -> None:
        """Mine for the links. Raises MinerError if the hub has asked for a restart, which systemd carries out."""
        tasks = [asyncio.create_task(super().run()), asyncio.create_task(self._restart.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._restart.is_set():
                raise MinerError("the hub has asked for a restart")
            await tasks[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def apply(self, old: Settings, new: Settings) -> None:
        """Change the links. With another hub, or without its control, forget what it has asked for."""
        if new.hub != old.hub:
            self._wanted = None
        if new.hub != old.hub or new.hub_control != old.hub_control:
            self._known, self._refused, self._backups = None, "", None
            self.components.miner.resume(HUB)
        await super().apply(old, new)

    def tick(self) -> None:
        """Do what the hub asks for."""
        wanted, now = self._wanted, time.monotonic()
        if wanted is None or wanted == self._known or now < self._next_s:
            return
        if self._obeying is None or self._obeying.done():
            self._next_s = now + (GAP_S if self._known is not None else 0.0)  # the first ones change little
            self._obeying = asyncio.create_task(self._obey(wanted))

    async def stop(self) -> None:
        """Stop obeying."""
        if self._obeying is not None:
            self._obeying.cancel()

    def _links(self, settings: Settings) -> list[Link]:
        self._settings, hub = settings, settings.hub
        if hub is None:
            return super()._links(settings)
        if (backups := self._backups) is not None:
            settings = replace(settings, pool=tuple(map(parse_pool_url, backups.pools)), wallet=backups.wallet)
        if self._link is None or self._link.url != hub:
            self._link = HubLink(hub, self.components.store, self._status, self._on_orders)
        return [self._link, *super()._links(settings)]

    def _on_orders(self, orders: Orders) -> None:
        self._wanted = orders

    async def _obey(self, orders: Orders) -> None:
        """Do what ``orders`` ask for, and tell the hub."""
        await self._do(orders)
        if self._link is not None:
            self._link.report()

    async def _do(self, orders: Orders) -> None:
        known, refused = self._known, []
        if self._settings.hub_control == "off":
            self._known, self._refused = orders, REFUSES if orders.id else ""
            return
        (self.components.miner.pause if orders.paused else self.components.miner.resume)(HUB)
        if reason := await self._set_backups(orders):
            refused.append(reason)
        # What was asked for before this process has heard of it concerns an earlier one.
        if known is not None and orders.reloads > known.reloads:
            log.info("The hub asks to reload the settings")
            os.kill(os.getpid(), signal.SIGHUP)
        if known is not None and orders.restarts > known.restarts:
            if reason := self._cannot_restart():
                refused.append(reason)
            else:
                self._restart.set()
                return  # the next process says that it is done
        self._known, self._refused = orders, "; ".join(refused)
        if refused:
            log.warning("Refused what the hub asks for: %s", self._refused)

    def _cannot_restart(self) -> str:
        if not self.components.notifier.exists:
            return "it is not a service of systemd, which would start it again"
        if self.components.monitor.look().uptime_s < MIN_UPTIME_S:
            return f"it was started less than {MIN_UPTIME_S:g} s ago"
        return ""

    async def _set_backups(self, orders: Orders) -> str:
        """Use the pools that the hub sets, or our own if it sets none. Return why that is refused."""
        settings, hub = self._settings, self._settings.hub
        if hub is None:
            return ""
        wanted = None if not orders.pools else Backups(_identity(hub), orders.pools, orders.wallet)
        if wanted == self._backups:
            return ""
        try:
            _check(wanted)
        except ValueError as error:
            return f"the pools that it sets cannot be used: {error}"[:MAX_REASON]
        self._backups = wanted
        self._use(settings)
        log.info("The hub sets the backup pools: %s", "our own" if wanted is None else ", ".join(wanted.pools))
        path = settings.state_dir / FILE
        try:
            if wanted is None:
                await in_thread(lambda: path.unlink(missing_ok=True))
            else:
                await in_thread(lambda: files.replace(path, msgspec.json.encode(wanted), 0o600))
        except OSError as error:
            log.warning("Cannot write %s, so a restart forgets these pools: %s", path, error.strerror)
        return ""

    def _status(self) -> StatusMessage:
        done = "" if self._known is None else self._known.id
        return rig_status(self.components.monitor.look(), done, self._refused)


def _check(backups: Backups | None) -> None:
    """Raise ValueError if backup pools cannot be used."""
    if backups is not None:
        parse_wallet(backups.wallet)
        for url in backups.pools:
            parse_pool_url(url)


def _load(folder: Path, hub: HubUrl) -> Backups | None:
    """Return the pools that this hub has set in an earlier run, None without any that can be used."""
    try:
        backups = msgspec.json.decode(files.read(folder / FILE, MAX_BYTES), type=Backups)
        _check(backups)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("Ignored %s: %s", folder / FILE, printable(str(error)))
        return None
    return backups if backups.hub == _identity(hub) else None


def _identity(hub: HubUrl) -> str:
    """Return what tells a hub from others: the SHA-256 of its certificate, or its address."""
    return str(hub) if hub.pin is None else hub.pin.hex()


def rig_status(snapshot: Snapshot, done: str, refused: str) -> StatusMessage:
    """Return what a hub is told of a rig. ``done``: id of the last orders. ``refused``: why some were refused."""
    miner, readings, rates = snapshot.miner, snapshot.readings, snapshot.rates
    temperatures = [each.temperature for each in readings.values() if each.temperature is not None]
    power = [each.power for each in readings.values() if each.power is not None]
    mined = next((link.name for link in snapshot.sources if link.mined), "")
    return StatusMessage(
        version=__version__,
        uptime_s=round(snapshot.uptime_s, 1),
        hash_rate=_rate(rates.current) or 0.0 if rates else 0.0,
        hashes=miner.hashes if miner else 0,
        solutions=sum(miner.solved_by_engine.values()) if miner else 0,
        workers=len(miner.workers) if miner else 0,
        temperature=max(temperatures, default=None),
        power=round(sum(power), 1) if power else None,
        rate_60s=_rate(rates.average_60s) if rates else None,
        rate_15m=_rate(rates.average_15m) if rates else None,
        devices=_devices(snapshot),
        pauses=sorted({pause.reason for pause in miner.pauses}) if miner else [],
        paused=miner.paused if miner else False,
        source="" if mined.startswith("hub ") else mined[:MAX_SOURCE],
        accepted=snapshot.tally.accepted,
        rejected=snapshot.tally.rejected,
        stale=snapshot.tally.stale,
        done=done,
        refused=refused,
    )


def _devices(snapshot: Snapshot) -> list[DeviceMessage]:
    """Return the devices, if there are several."""
    rates: dict[str, float] = {}
    for worker in snapshot.miner.workers if snapshot.miner else ():
        measured = snapshot.worker_rates.get(worker.index)
        rates[worker.device] = rates.get(worker.device, 0.0) + (measured.current if measured else 0.0)
    if len(rates) < 2:
        return []
    found = []
    for device, rate in list(rates.items())[:MAX_DEVICES]:
        reading = snapshot.readings.get(device)
        temperature, power = (reading.temperature, reading.power) if reading else (None, None)
        found.append(DeviceMessage(device[:MAX_ID], round(rate), temperature, power))
    return found


def _rate(rate: float | None) -> float | None:
    """Return a rate as it is sent, in short."""
    return None if rate is None else round(rate, 1)
