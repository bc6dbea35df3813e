"""``quantus-miner verify``: checks a nonce, or a sealed block, with the reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from quantus_miner import pow as reference
from quantus_miner.errors import MinerError, SettingError
from quantus_miner.model import MAX, Pow, achieved_difficulty, limit_from_difficulty
from quantus_miner.pow.block import SealedBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE = 1_000_000
"""Bytes of the largest block file that is read."""


class Verdict:
    """Whether ``nonce`` seals ``header`` within ``limit``; without a limit, by the zero-nonce rule alone."""

    def __init__(self, pow_: Pow, header: bytes, nonce: int, limit: int | None) -> None:
        self.pow = pow_
        self.header = header
        self.nonce = nonce
        self.value = reference.evaluate(pow_, header, nonce)
        self.valid = nonce != 0 and (limit is None or self.value <= limit)

    def lines(self) -> Iterator[str]:
        """The report, line by line."""
        yield f"{'valid' if self.valid else 'not valid'}{': the zero nonce never is' if self.nonce == 0 else ''}"
        yield f"proof of work        {self.pow}"
        yield f"mining hash          {self.header.hex()}"
        yield f"nonce                {self.nonce:x}"
        if self.pow is Pow.POSEIDON2:
            yield f"hash                 {self.value:0128x}"
            yield f"achieved difficulty  {achieved_difficulty(self.value)}"
        else:
            yield f"distance             {self.value:0128x}"
            yield f"achieved threshold   {self.value}"


def verdict(
    *,
    header: str | None,
    nonce: str | None,
    difficulty: str | None,
    threshold: str | None,
    block: str | None,
    pow_: str | None,
) -> Verdict:
    """The verdict on the command's arguments, as given. Raises SettingError where they are not usable."""
    if difficulty is not None and threshold is not None:
        raise SettingError("--difficulty and --threshold are both set; set the one of the proof of work")
    proof = Pow(pow_) if pow_ else Pow.SHA3 if threshold is not None else Pow.POSEIDON2
    if (difficulty if proof is Pow.SHA3 else threshold) is not None:
        raise SettingError(f"--pow: {proof} takes {'--threshold' if proof is Pow.SHA3 else '--difficulty'}")
    limit = None
    if difficulty is not None:
        limit = limit_from_difficulty(_decimal("--difficulty", difficulty, 1))
    elif threshold is not None:
        limit = _decimal("--threshold", threshold, 0)
    if block is not None:
        if header is not None or nonce is not None or proof is not Pow.POSEIDON2:
            raise SettingError("--block goes with --difficulty alone; the header and the nonce come from the file")
        sealed = _read_block(Path(block))
        return Verdict(proof, sealed.mining_hash, sealed.nonce, limit)
    if header is None or nonce is None:
        raise SettingError("verify needs --header and --nonce, or --block")
    if limit is None:
        raise SettingError("verify needs --difficulty (qpow-poseidon2) or --threshold (qpow-sha3)")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", header):
        raise SettingError("--header: allowed: 64 hex digits, without 0x")
    if not re.fullmatch(r"[0-9a-fA-F]{1,128}", nonce):
        raise SettingError("--nonce: allowed: 1 to 128 hex digits, without 0x")
    return Verdict(proof, bytes.fromhex(header), int(nonce, 16), limit)


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
