"""Divide the nonces of a pool's job among rigs. No I/O.

A pool's extranonce is the beginning of every nonce. Behind it comes the number of the hub, drawn at its start, and then
the slot of the rig. So no two rigs search the same nonces of a header, whatever rigs come, go or go on by themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

HUB_BYTES: Final = 3
"""Bytes of the hub's number: a hub that starts again must not give out the slots of its last run."""
SLOT_BYTES: Final = 3
MAX_HEADERS: Final = 16
"""Headers whose slots are remembered. A pool may come back to an earlier one."""


class Slots:
    """The slots of the rigs that are here. ``size``: number of slots.

    A rig that leaves may go on with its last job, so its slot is not given to another rig for any header for which it
    had that slot. A rig that comes back is another one.
    """

    def __init__(self, size: int = 256**SLOT_BYTES) -> None:
        self._size = size
        self._next = 0
        self._of_rig: dict[str, int] = {}
        self._taken: dict[int, str] = {}
        self._lives: dict[str, int] = {}
        self._used: OrderedDict[bytes, dict[int, int]] = OrderedDict()  # header, slot, life of the rig
        self._life = 0
        self._header = b""

    def begin(self, header: bytes) -> list[str]:
        """Begin a job with ``header``. Return the rigs whose slot has changed."""
        self._header = header
        self._used.setdefault(header, {})
        self._used.move_to_end(header)
        if len(self._used) > MAX_HEADERS:
            self._used.popitem(last=False)
        used, changed = self._used[header], []
        for rig, life in self._lives.items():
            slot = self._of_rig.get(rig)
            if slot is not None and used.setdefault(slot, life) == life:
                continue
            # It has none yet, or another rig had this one when the pool was at this header before.
            if slot is not None:
                del self._taken[slot], self._of_rig[rig]
            self._assign(rig)
            if self._of_rig.get(rig) != slot:
                changed.append(rig)
        return changed

    def join(self, rig: str) -> int | None:
        """Return the slot of a rig that comes. None if all are in use or were used for this header: wait for another.

        A rig of that name that is here already leaves.
        """
        self.leave(rig)
        self._life += 1
        self._lives[rig] = self._life
        if self._header:
            self._assign(rig)
        return self._of_rig.get(rig)

    def leave(self, rig: str) -> None:
        """Forget a rig. Its slot becomes free with the next header."""
        self._lives.pop(rig, None)
        slot = self._of_rig.pop(rig, None)
        if slot is not None:
            del self._taken[slot]

    def slot(self, rig: str) -> int | None:
        """Return the slot of a rig, None if it has none."""
        return self._of_rig.get(rig)

    def _assign(self, rig: str) -> None:
        used = self._used[self._header]
        if len(used) >= self._size:
            return
        # The slot that was free for longest comes first.
        for offset in range(self._size):
            slot = (self._next + offset) % self._size
            if slot not in self._taken and slot not in used:
                self._next = (slot + 1) % self._size
                self._of_rig[rig], self._taken[slot], used[slot] = slot, rig, self._lives[rig]
                return
