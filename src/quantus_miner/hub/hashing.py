"""Check the shares of many miners with a native kernel. What leaves the hub is hashed by the reference as well."""

from __future__ import annotations

from typing import Final

from quantus_miner import native
from quantus_miner.model import Job, NonceRange, Order, Pow

KERNEL: Final = "baseline"
"""The fastest one for a single nonce: the others prepare more, or search several nonces at a time."""


class ShareHasher:
    """Says whether a nonce has a hash. A check takes about 35 microseconds, where the reference takes milliseconds."""

    def __init__(self) -> None:
        self._kernel = native.find_kernel(Pow.POSEIDON2, KERNEL)
        self._control = native.NativeControl()

    def is_hash(self, header: bytes, nonce: int, value: int) -> bool:
        """Return True if ``value`` is the hash of ``nonce``: it meets that target, and not the next smaller one."""
        return self.meets(header, nonce, value) and (value == 0 or not self.meets(header, nonce, value - 1))

    def meets(self, header: bytes, nonce: int, target: int) -> bool:
        """Return True if the hash of ``nonce`` is ``target`` or less, and ``nonce`` is not 0."""
        job = native.prepare(Job("", Pow.POSEIDON2, header, target, (NonceRange(nonce, nonce),), Order.COUNTING))
        return native.search(self._kernel, job, nonce, 1, self._control).nonce is not None
