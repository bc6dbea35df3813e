"""What the rigs of a hub should do: what was said for all, a tag or one rig, and what follows for each. No I/O."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from quantus_miner.errors import MinerError
from quantus_miner.wire.commands import ALL, TAG
from quantus_miner.wire.fleet import NO_ORDERS, Orders

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from quantus_miner.wire.commands import CommandRequest

MAX_TAGS: Final = 1_000
"""Tags for which something is said."""


class Wish(msgspec.Struct, omit_defaults=True):
    """What was said for a target. None: nothing. ``pools``: an empty list for the rig's own."""

    paused: bool | None = None
    pools: list[str] | None = None
    wallet: str = ""


NOTHING: Final = Wish()


class Scope(NamedTuple):
    """The rigs that a command is for, and those of them that do something else."""

    rigs: list[str]
    exceptions: list[str]


class Desired(msgspec.Struct, omit_defaults=True):
    """All that was said. ``reloads``, ``restarts``: how often each rig was asked to."""

    all: Wish = msgspec.field(default_factory=Wish)
    tags: dict[str, Wish] = {}
    rigs: dict[str, Wish] = {}
    reloads: dict[str, int] = {}
    restarts: dict[str, int] = {}

    def orders(self, name: str, tags: Collection[str]) -> Orders:
        """Return the orders of a rig. What was said for it comes first, then its tags in their order, then all."""
        said = [*self._said(name, tags), Wish(paused=False, pools=[])]
        paused = next(wish.paused for wish in said if wish.paused is not None)
        pools, wallet = next((wish.pools, wish.wallet) for wish in said if wish.pools is not None)
        orders = Orders(
            paused=paused,
            pools=pools or None,
            wallet=wallet if pools else "",
            reloads=self.reloads.get(name, 0),
            restarts=self.restarts.get(name, 0),
        )
        if orders == NO_ORDERS:
            return orders
        return msgspec.structs.replace(orders, id=sha256(msgspec.json.encode(orders)).hexdigest()[:16])

    def apply(self, command: CommandRequest, rigs: Mapping[str, Collection[str]]) -> Scope:
        """Take a command over. ``rigs``: the tags of each rig. Raises MinerError if a target does not exist."""
        scope = list(dict.fromkeys(name for target in command.targets for name in self._scope(target, command, rigs)))
        if command.action in ("reload", "restart"):
            counts = self.reloads if command.action == "reload" else self.restarts
            counts |= {name: counts.get(name, 0) + 1 for name in scope}
            return Scope(scope, [])
        for target in command.targets:
            self._say(target, command)
        if len(self.tags) > MAX_TAGS:
            raise MinerError(f"at most {MAX_TAGS:,} tags can have orders of their own; clear one first")
        return Scope(scope, [name for name in scope if not self._follows(command, name, rigs[name])])

    def forget(self, rigs: Collection[str]) -> None:
        """Forget what was said for rigs other than these."""
        for table in (self.rigs, self.reloads, self.restarts):
            for name in table.keys() - set(rigs):
                table.pop(name)

    def _scope(self, target: str, command: CommandRequest, rigs: Mapping[str, Collection[str]]) -> list[str]:
        if command.action == "clear" and target.startswith(TAG) and target.removeprefix(TAG) in self.tags:
            return [name for name, tags in rigs.items() if target.removeprefix(TAG) in tags]  # perhaps none any more
        return rigs_of(target, rigs)

    def _said(self, name: str, tags: Collection[str]) -> Iterator[Wish]:
        if name in self.rigs:
            yield self.rigs[name]
        yield from (self.tags[tag] for tag in tags if tag in self.tags)
        yield self.all

    def _say(self, target: str, command: CommandRequest) -> None:
        table, key = (self.tags, target.removeprefix(TAG)) if target.startswith(TAG) else (self.rigs, target)
        wish = self.all if target == ALL else table.get(key, NOTHING)
        if command.action == "clear":
            wish = NOTHING
        elif command.action == "set-pools":
            wish = msgspec.structs.replace(wish, pools=command.pools, wallet=command.wallet)
        else:
            wish = msgspec.structs.replace(wish, paused=command.action == "pause")
        if target == ALL:
            self.all = wish
        elif wish == NOTHING:
            table.pop(key, None)
        else:
            table[key] = wish

    def _follows(self, command: CommandRequest, name: str, tags: Collection[str]) -> bool:
        """Return True if a rig does what a command asks."""
        orders = self.orders(name, tags)
        if command.action == "set-pools":
            return (orders.pools or []) == command.pools
        return command.action == "clear" or orders.paused == (command.action == "pause")


def rigs_of(target: str, rigs: Mapping[str, Collection[str]]) -> list[str]:
    """Return the rigs that ``target`` stands for. ``rigs``: the tags of each. Raises MinerError if there is none."""
    if target == ALL:
        return list(rigs)
    if target.startswith(TAG):
        tag = target.removeprefix(TAG)
        found = [name for name, tags in rigs.items() if tag in tags]
        if not found:
            known = sorted({each for tags in rigs.values() for each in tags})
            raise MinerError(f"no rig has the tag {tag}; tags: {_some(known)}")
        return found
    if target not in rigs:
        raise MinerError(f"there is no rig {target}; rigs: {_some(list(rigs))}")
    return [target]


def _some(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
