"""The source of the GPU kernels: a language's macros (``languages/``), the constants, and ``poseidon2.cl``."""

from __future__ import annotations

from importlib import resources
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from quantus_miner.model import Order
from quantus_miner.pow.poseidon2 import (
    FIRST_EXTERNAL_ROUNDS,
    INTERNAL_DIAGONAL,
    INTERNAL_ROUNDS,
    LAST_EXTERNAL_ROUNDS,
    WIDTH,
    P,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Language: TypeAlias = Literal["cuda", "opencl"]

ENTRIES: Final = {Order.WALK: "search_walk", Order.COUNTING: "search_counting"}
"""The kernel that searches in each order.

Its arguments: the 14 words and the top target of ``native.Span`` as uint64; ``first`` and ``count`` as uint32, the
offsets in the span to test, count <= 2^31; ``hits``, 1 + MAX_HITS uint32: hits[0], initially 0, counts the nonces
whose hash has first 8 bytes not above the top target; the others are the offsets of these, in any order.
"""
BLOCK: Final = 256
"""Threads in a block. Any number of blocks works."""
MAX_HITS: Final = 255
"""Hits whose offsets are kept."""

_M: Final = 2**32 - 1
_MEAN: Final = 14
"""Half of the sum of a row of the external matrix: results of external layers are that times 2^64 on average."""

OPTIONS: Final[dict[Language, tuple[str, ...]]] = {"cuda": ("--std=c++17",), "opencl": ("-cl-std=CL1.2",)}
"""Options for the compilers of both languages."""


def source(language: Language) -> str:
    """Return the whole program for NVRTC or an OpenCL compiler."""
    folder = resources.files(__package__)
    macros, kernels = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in (f"languages/{language}.h", "poseidon2.cl")
    )
    sizes = f"#define BLOCK {BLOCK}\n#define MAX_HITS {MAX_HITS}\n"
    return sizes + macros + _constants() + kernels


class _MatrixEntry(NamedTuple):
    """An entry d of the internal diagonal: digits (a0, a1) of d and (b0, b1) of 2^32 d, modulo P, base 2^32."""

    a0: int
    a1: int
    b0: int
    b1: int

    @property
    def negative(self) -> int:
        """Return how many complements it needs: one for each half of the element, however many digits."""
        return (self.a0 < 0 or self.a1 < 0) + (self.b0 < 0 or self.b1 < 0)

    @property
    def fits(self) -> bool:
        """Return True if low and high + 2^32 of internal_rounds are less than 2^64.

        Halves of elements, and of the constant that is added to their sum, are at most _M.
        """
        largest = max(abs(self.a0) + abs(self.b0), abs(self.a1) + abs(self.b1))
        return _M * (largest + WIDTH + 1) + 2**32 < 2**64

    @property
    def complements(self) -> int:
        """Return what its complements add to the element, modulo P."""
        low, high = (
            sum(_M * -digit for digit in pair if digit < 0) for pair in ((self.a0, self.b0), (self.a1, self.b1))
        )
        return _shift(low, -1) + high


def _shift(number: int, digits: int) -> int:
    """Return ``number * 2^(32 digits)`` modulo P."""
    return number * pow(2**32, digits, P) % P


def _digits(number: int) -> Iterable[tuple[int, int]]:
    """Yield all ways to write ``number`` modulo P with two digits in base 2^32, which may be negative."""
    for value in (number % P, number % P - P):
        high, low = divmod(value, 2**32)
        yield low, high
        yield low - 2**32, high + 1


def _entry(d: int) -> _MatrixEntry:
    entries = (_MatrixEntry(*a, *b) for a, b in product(_digits(d), _digits(2**32 * d)))
    return min((entry for entry in entries if entry.fits), key=lambda entry: entry.negative)


def _constants() -> str:
    diagonal = [_entry(d) for d in INTERNAL_DIAGONAL]
    lines = [f"#define MEAN {_MEAN}u"]
    for name in _MatrixEntry._fields:
        digits = [getattr(entry, name) for entry in diagonal]
        lines.append(_table("TABLE u32", name.upper(), [abs(digit) for digit in digits]))
        lines.append(_table("TABLE int", f"{name.upper()}_NEGATIVE", [digit < 0 for digit in digits]))

    # Every internal round leaves the elements divided by 2^32 once more, so constants are too. S-boxes keep that: a
    # power of 2^32 is its own seventh power, as 2^192 = 1.
    rounds = len(INTERNAL_ROUNDS)
    internals = [_internal(diagonal, permutation * rounds) for permutation in range(2)]
    lines.append(_table("CONSTANT_TABLE const u64", "INTERNAL", [added for sums, _ in internals for added in sums]))
    lines.append(_tables("AFTER_INTERNAL", [after for _, after in internals]))

    # What the layer at the end of external round r adds: the constants of the next round, or the last block. [15] is
    # for the layer that begins the second permutation.
    begin, block = [INTERNAL_ROUNDS[0], *[0] * (WIDTH - 1)], [1, 1, *[0] * (WIDTH - 2)]
    first, last = [*FIRST_EXTERNAL_ROUNDS[1:], begin], LAST_EXTERNAL_ROUNDS[1:]
    external = [
        [_shift(constant, -divided) + _MEAN * 2**64 for constant in row]
        for divided, rows in (
            (0, first),
            (rounds, [*last, block, *first]),
            (2 * rounds, last),
            (rounds, [FIRST_EXTERNAL_ROUNDS[0]]),
        )
        for row in rows
    ]
    lines.append(_tables("EXTERNAL", external))
    lines.append(f"#define SCALE {_shift(1, 2 * rounds + 2):#x}u")  # as multiply divides by 2^64

    matrix = ((2, 3, 1, 1), (1, 2, 3, 1), (1, 1, 2, 3), (3, 1, 1, 2))
    columns = [
        [matrix[row % 4][i % 4] * (2 if row // 4 == i // 4 else 1) for row in range(WIDTH)] for i in range(WIDTH)
    ]
    lines.append(_table("TABLE u32", "ROW0", [column[0] for column in columns]))
    lines += [_table("TABLE u32", f"COLUMN{i}", columns[i]) for i in (3, 7)]
    return "\n".join([*lines, ""])


def _internal(diagonal: Sequence[_MatrixEntry], divided: int) -> tuple[list[int], list[int]]:
    """Return what internal rounds add to the sum, and to each element after them. ``divided``: rounds before."""
    sums, offsets = [], [0] * WIDTH  # what is in the elements besides what should be
    # Element 0 has no offset but the constant that it needs next.
    for constant in (*INTERNAL_ROUNDS[1:], LAST_EXTERNAL_ROUNDS[0][0]):
        divided += 1
        wanted = _shift(constant, -divided)
        added = (_shift(wanted - diagonal[0].complements, 1) - sum(offsets)) % P
        sums.append(added)
        more = sum(offsets) + added
        offsets = [
            _shift(d * offset + more, -1) + entry.complements
            for d, offset, entry in zip(INTERNAL_DIAGONAL, offsets, diagonal, strict=True)
        ]
        offsets[0] = 0
    after = [_shift(c, -divided) - offset for c, offset in zip(LAST_EXTERNAL_ROUNDS[0], offsets, strict=True)]
    return sums, after


def _table(kind: str, name: str, values: Sequence[int]) -> str:
    return f"{kind} {name}[{len(values)}] = {{{_literals(values)}}};"


def _tables(name: str, rows: Sequence[Sequence[int]]) -> str:
    """Return the definition of a table of field elements."""
    text = ", ".join("{" + _literals(value % P for value in row) + "}" for row in rows)
    return f"CONSTANT_TABLE const u64 {name}[{len(rows)}][{len(rows[0])}] = {{{text}}};"


def _literals(values: Iterable[int]) -> str:
    return ", ".join(f"{value:#x}u" for value in values)
