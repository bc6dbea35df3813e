"""``quantus-miner verify``: check a nonce, or a sealed block from a file or a node, with the reference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantus_miner import pow as reference
from quantus_miner.errors import MinerError, SettingError
from quantus_miner.model import MAX, Pow, achieved_difficulty, target_from_difficulty
from quantus_miner.pow.block import SealedBlock
from quantus_miner.rpc import NodeRpc, RpcError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE: Final = 16_000_000
"""Bytes of the largest block file that is read: a full block of the network has 5 MiB, twice that in hex."""
NOT_CHECKED: Final = 4
"""The exit code if no difficulty is known."""


class Verification:
    """What is known of ``nonce`` and ``header``. Without ``target``, the hash is known, but not if it is low enough.

    ``block``: the block that they come from. ``source``: where the difficulty comes from, if a node told it.
    """

    def __init__(
        self,
        pow_: Pow,
        header: bytes,
        nonce: int,
        target: int | None,
        block: SealedBlock | None = None,
        source: str | None = None,
    ) -> None:
        self.pow = pow_
        self.header = header
        self.nonce = nonce
        self.value = reference.evaluate(pow_, header, nonce)
        self.checked = target is not None or nonce == 0
        self.valid = nonce != 0 and target is not None and self.value <= target
        self._block = block
        self._source = source

    @property
    def exit_code(self) -> int:
        """Return 0 if the nonce is valid, 1 if not, and 4 if there is no difficulty to compare its hash with."""
        return 0 if self.valid else 1 if self.checked else NOT_CHECKED

    def lines(self) -> Iterator[str]:
        """Yield the report, line by line."""
        if not self.checked:
            yield "hash computed, validity unknown: no difficulty to compare it with (--difficulty N)"
        elif self.nonce == 0:
            yield "not valid: the zero nonce never is"
        else:
            yield "valid" if self.valid else "not valid"
        yield f"proof of work        {self.pow}"
        if self._block is not None:
            yield f"block                {self._block.header.number}, hash 0x{self._block.hash.hex()}"
        yield f"mining hash          {self.header.hex()}"
        yield f"nonce                {self.nonce:x}"
        if self.pow is Pow.POSEIDON2:
            yield f"hash                 {self.value:0128x}"
            yield f"achieved difficulty  {achieved_difficulty(self.value)}"
        else:
            yield f"distance             {self.value:0128x}"
            yield f"achieved threshold   {self.value}"
        if self._source is not None:
            yield f"required difficulty  {self._source}"


def check(
    *,
    header: str | None,
    nonce: str | None,
    difficulty: str | None,
    threshold: str | None,
    block: str | None,
    rpc: str | None,
    height: int | None,
    pow_: str | None,
) -> Verification:
    """Check what the arguments of the command name.

    Raises SettingError if an argument is not allowed, MinerError if the block cannot be read or fetched.
    """
    if difficulty is not None and threshold is not None:
        raise SettingError("--difficulty and --threshold are both set; set only the one that fits the proof of work")
    proof = Pow(pow_) if pow_ else Pow.SHA3 if threshold is not None else Pow.POSEIDON2
    if (difficulty if proof is Pow.SHA3 else threshold) is not None:
        raise SettingError(f"--pow: {proof} takes {'--threshold' if proof is Pow.SHA3 else '--difficulty'}")
    target = None
    if difficulty is not None:
        target = target_from_difficulty(_decimal("--difficulty", difficulty, 1))
    elif threshold is not None:
        target = _decimal("--threshold", threshold, 0)
    if (rpc is None) != (height is None):
        raise SettingError("--rpc and --height go together: the node's URL and the number of a block")
    if block is not None or rpc is not None:
        if header is not None or nonce is not None or proof is not Pow.POSEIDON2 or None not in (block, rpc):
            raise SettingError(
                "--block FILE, or --rpc URL with --height N, goes with --difficulty alone; "
                "the header and the nonce come from there"
            )
        source = None
        if rpc is not None and height is not None:
            node = NodeRpc(rpc)
            sealed = _fetch_block(node, height)
            if target is None:
                target, source = _fetch_target(node, sealed)
        else:
            sealed = _read_block(Path(block or ""))
        return Verification(proof, sealed.mining_hash, sealed.nonce, target, sealed, source)
    if header is None or nonce is None:
        raise SettingError("verify needs --header and --nonce, or --block, or --rpc and --height")
    if target is None:
        raise SettingError("verify needs --difficulty (qpow-poseidon2) or --threshold (qpow-sha3)")
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", header):
        raise SettingError("--header: allowed: 64 hex digits")
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{1,128}", nonce):
        raise SettingError("--nonce: allowed: 1 to 128 hex digits")
    return Verification(proof, bytes.fromhex(header.removeprefix("0x")), int(nonce, 16), target)


def _decimal(flag: str, text: str, low: int) -> int:
    if re.fullmatch(r"[0-9]{1,155}", text, re.ASCII) and low <= int(text) <= MAX:
        return int(text)
    raise SettingError(f"{flag}: allowed: a decimal number from {low} to 2^512 - 1")


def _read_block(path: Path) -> SealedBlock:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise MinerError(f"--block: cannot read {path}: {error.strerror}") from None
    if len(text) > MAX_FILE:
        raise MinerError(f"--block: {path} is larger than {MAX_FILE} bytes")
    try:
        return SealedBlock.parse(text)
    except ValueError as error:
        raise MinerError(f"--block: {path}: {error}") from None


def _fetch_block(node: NodeRpc, height: int) -> SealedBlock:
    """Return the node's block at ``height``. Raises MinerError if its header has another hash than the node says."""
    block_hash = node.block_hash(height)
    reply = {"hash": block_hash, "header": node.header(block_hash)}
    try:
        block = SealedBlock.parse(json.dumps(reply))
    except ValueError as error:
        raise MinerError(f"--rpc: {node.url}: block {height}: {error}") from None
    if block.header.number != height:
        raise MinerError(f"--rpc: {node.url}: asked for block {height}, got the header of block {block.header.number}")
    return block


def _fetch_target(node: NodeRpc, block: SealedBlock) -> tuple[int | None, str]:
    """Return the target of ``block``, None if the node does not tell it, and the text for the report."""
    try:
        # The difficulty of a block follows from the state of its parent.
        difficulty = node.next_difficulty(f"0x{block.header.parent_hash.hex()}")
    except RpcError as error:
        return None, f"unknown: {error}"
    if not difficulty:
        return None, f"unknown: {node.url} returned 0"
    return target_from_difficulty(difficulty), f"{difficulty}, by {node.url}"
