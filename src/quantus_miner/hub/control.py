"""Commands to the rigs of a hub: what each rig is asked to do, on the disk and told to it, and who asked for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner.errors import MinerError, printable
from quantus_miner.host.deadline import in_thread
from quantus_miner.hub.desired import Desired
from quantus_miner.hub.json_file import JsonFile
from quantus_miner.hub.record import Record
from quantus_miner.wire.address import parse_wallet
from quantus_miner.wire.commands import MAX_LISTED, CommandEntry, CommandReply, CommandRequest
from quantus_miner.wire.pool_url import parse_pool_url

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from quantus_miner.hub.rigs import Rigs
    from quantus_miner.wire.fleet import Orders

log = logging.getLogger("miner.hub")

FILE: Final = "orders.json"
MAX_BYTES: Final = 60_000_000
DAY_S: Final = 86_400.0
MAX_RESTARTS: Final = 3
"""Automatic restarts of one rig within DAY_S."""
HUB: Final = "the hub"
"""Who gives the commands that nobody has given."""


class Control:
    """The commands to ``rigs``. ``folder``: for its files. Owned by the event loop's thread."""

    def __init__(self, folder: Path, rigs: Rigs, *, now: Callable[[], float] = time.time) -> None:
        self._file: JsonFile[Desired] = JsonFile(folder / FILE, Desired, MAX_BYTES, "give the commands again")
        self._now = now
        self._rigs = rigs
        self._desired = Desired()
        self._orders: dict[str, Orders] = {}
        self._changing = asyncio.Lock()
        self._restarts: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MAX_RESTARTS))
        self._tasks: set[asyncio.Task[None]] = set()
        self.record = Record(folder)
        self.on_command: Callable[[CommandEntry], None] = lambda _: None
        """Called with each command that was recorded."""
        rigs.orders = self.orders

    def load(self) -> None:
        """Read what was asked for in earlier runs. Raises MinerError if the file cannot be read."""
        self.record.load()
        self._desired = self._file.load() or Desired()

    def invite(self, names: Collection[str] | None, tags: Mapping[str, Sequence[str]]) -> None:
        """Make these the rigs that may connect; None: only the servers know. ``tags``: of those that have some.

        A rig whose orders change with its tags is told once it reports.
        """
        if names is not None:
            self._rigs.invite(names)
            self._desired.forget(names)
        self._rigs.tags = tags
        self._orders.clear()

    def orders(self, name: str) -> Orders:
        """Return what a rig is asked to do."""
        orders = self._orders.get(name)
        if orders is None:
            orders = self._orders[name] = self._desired.orders(name, self._rigs.tags.get(name, ()))
        return orders

    async def command(self, command: CommandRequest, where: str) -> CommandReply:
        """Carry a command out. ``where``: the address that it came from. Raises MinerError if that is impossible."""
        _check(command)
        return await self._change(command, f"{printable(command.by)} ({where})")

    def restart_silent(self, silent_s: float) -> None:
        """Have rigs restarted that have not hashed for ``silent_s`` seconds, although they should."""
        now = self._now()
        for name in self._rigs.silent(silent_s):
            before = self._restarts[name]
            if len(before) == MAX_RESTARTS and now - before[0] < DAY_S:
                continue
            before.append(now)
            log.warning("Rig %s has not hashed for %.0f minutes; it is asked to restart", name, silent_s / 60)
            task = asyncio.create_task(self._restart(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _restart(self, name: str) -> None:
        try:
            await self._change(CommandRequest("restart", [name], HUB), HUB)
        except MinerError as error:
            log.error("Cannot have rig %s restarted: %s", name, error)  # noqa: TRY400 - of the disk

    async def _change(self, command: CommandRequest, by: str) -> CommandReply:
        async with self._changing:
            changed = msgspec.convert(msgspec.to_builtins(self._desired), Desired)
            rigs = self._rigs
            scope = changed.apply(command, {name: rigs.tags.get(name, ()) for name in rigs.names()})
            offline = sum(not self._rigs.is_online(name) for name in scope.rigs)
            result = f"{len(scope.rigs)} rigs, {offline} of them offline"
            if scope.exceptions:
                result += f", {len(scope.exceptions)} keep what was said for them or their tag"
            what = " ".join((command.action, *(str(parse_pool_url(url)) for url in command.pools)))
            targets = " ".join(command.targets)
            entry = CommandEntry(self._now(), by, what, targets[:200] + "…" * (len(targets) > 200), result)

            def write() -> None:
                self._file.write(changed, indent=-1)
                self.record.write(entry)

            await in_thread(write)
            self._desired = changed
            self._orders.clear()
            self._rigs.tell(scope.rigs)
            self.record.add(entry)
        log.info("%s: %s %s: %s", by, what, entry.target, result)
        self.on_command(entry)
        return CommandReply("ok", len(scope.rigs), offline, scope.exceptions[:MAX_LISTED])


def _check(command: CommandRequest) -> None:
    """Raise MinerError if a command has pools that cannot be used, or that it does not need."""
    if command.action != "set-pools":
        if command.pools or command.wallet:
            raise MinerError(f"{command.action} takes no pools and no wallet")
        return
    if bool(command.pools) != bool(command.wallet):
        raise MinerError("set-pools needs pools and the wallet that they pay to, or neither for the rig's own pools")
    try:
        for url in command.pools:
            parse_pool_url(url)
        if command.wallet:
            parse_wallet(command.wallet)
    except ValueError as error:
        raise MinerError(str(error)) from None
