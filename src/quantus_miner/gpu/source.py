"""The source of the GPU kernels: ``poseidon2.cl`` with a language's macros and the constants before it."""

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

Its arguments: the 14 words and the top limit of ``native.Span`` as uint64; ``first`` and ``count`` as uint32, the
offsets in the span to test, count <= 2^31; ``hits``, 1 + MAX_HITS uint32: hits[0], 0 before, counts the nonces whose
hash's first 8 bytes are not above the limit, the others are the offsets of those, in any order.
"""
BLOCK: Final = 256
"""Threads in a block; any number of blocks will do."""
MAX_HITS: Final = 255
"""Hits whose offsets are kept."""

_M: Final = 2**32 - 1
_LOW_OFFSET: Final = 2**36
"""See internal_rounds in ``poseidon2.cl``."""

_CUDA: Final = """
typedef unsigned int u32;
typedef unsigned long long u64;
#define INLINE __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)
#define GLOBAL
#define CONSTANT
#define TABLE static __device__ constexpr
#define CONSTANT_TABLE static __constant__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define THREAD (blockIdx.x * BLOCK + threadIdx.x)
#define THREADS (gridDim.x * BLOCK)
#define COUNT_UP(address) atomicAdd(address, 1u)
#define LOW(x) ((u32)(x))
#define HIGH(x) ((u32)((x) >> 32))
#define PAIR(low, high) ((u64)(high) << 32 | (low))
INLINE u64 reverse_bytes(u64 x) {
    return PAIR(__byte_perm(HIGH(x), 0, 0x0123), __byte_perm(LOW(x), 0, 0x0123));
}
// Left to itself the compiler makes 64-bit products of these, and adds a zero for their high halves.
INLINE u64 product(u32 x, u32 y) {
    u32 low, high;
    asm("{ .reg .u64 t; mul.wide.u32 t, %2, %3; mov.b64 {%0, %1}, t; }" : "=r"(low), "=r"(high) : "r"(x), "r"(y));
    return PAIR(low, high);
}
INLINE u64 multiply_add(u32 x, u32 y, u64 sum) {
    u32 low, high;
    asm("mad.lo.cc.u32 %0, %2, %3, %4; madc.hi.u32 %1, %2, %3, %5;"
        : "=r"(low), "=r"(high) : "r"(x), "r"(y), "r"(LOW(sum)), "r"(HIGH(sum)));
    return PAIR(low, high);
}
INLINE u64 multiply_add_carry(u32 x, u32 y, u64 sum, u64 *carry) {
    u32 low, high, carry1;
    asm("mad.lo.cc.u32 %0, %3, %4, %5; madc.hi.cc.u32 %1, %3, %4, %6; addc.u32 %2, %7, 0;"
        : "=r"(low), "=r"(high), "=r"(carry1) : "r"(x), "r"(y), "r"(LOW(sum)), "r"(HIGH(sum)), "r"(HIGH(*carry)));
    *carry = PAIR(LOW(*carry), carry1);
    return PAIR(low, high);
}
INLINE u32 increment_if_below(u32 v, u32 a, u32 b) {
    asm("{ .reg .pred p; setp.lt.u32 p, %1, %2; @p add.u32 %0, %0, 1; }" : "+r"(v) : "r"(a), "r"(b));
    return v;
}
struct Sum { u64 low; u32 top; };
INLINE Sum make_sum(u64 low, u32 top) { return {low, top}; }
INLINE Sum add_sums(Sum a, Sum b) {
    u32 low, mid, top;
    asm("add.cc.u32 %0, %3, %4; addc.cc.u32 %1, %5, %6; addc.u32 %2, %7, %8;"
        : "=r"(low), "=r"(mid), "=r"(top)
        : "r"(LOW(a.low)), "r"(LOW(b.low)), "r"(HIGH(a.low)), "r"(HIGH(b.low)), "r"(a.top), "r"(b.top));
    return {PAIR(low, mid), top};
}
#if __CUDA_ARCH__ >= 1000
// Additions of three numbers with two carries are gone, and 64-bit additions of halves cost moves.
#define CUSTOM_ADDITIONS
INLINE u64 add_half(u64 a, u32 b) {
    u32 low, high;
    asm("add.cc.u32 %0, %2, %4; addc.u32 %1, %3, 0;" : "=r"(low), "=r"(high) : "r"(LOW(a)), "r"(HIGH(a)), "r"(b));
    return PAIR(low, high);
}
INLINE u64 subtract_multiple(u64 W, u32 v, u32 l0) {
    u32 low, high;
    asm("sub.cc.u32 %0, %2, %4; subc.u32 %1, %3, %5; add.cc.u32 %0, %0, %5; addc.u32 %1, %1, 0;"
        : "=&r"(low), "=&r"(high) : "r"(LOW(W)), "r"(HIGH(W)), "r"(l0), "r"(v));
    return PAIR(low, high);
}
INLINE u32 carry_into(u64 *W, u64 l, u64 n) {
    u32 v, low, high;
    asm("add.cc.u32 %0, %3, %4; addc.cc.u32 %1, %6, %7; addc.u32 %2, %8, 0; "
        "add.cc.u32 %0, %0, %5; addc.cc.u32 %1, %1, 0; addc.u32 %2, %2, 0;"
        : "=&r"(v), "=&r"(low), "=&r"(high)
        : "r"(LOW(l)), "r"(HIGH(l)), "r"(LOW(n)), "r"(HIGH(n)), "r"(LOW(*W)), "r"(HIGH(*W)));
    *W = PAIR(low, high);
    return v;
}
#endif
"""
_OPENCL: Final = """
typedef uint u32;
typedef ulong u64;
#define INLINE static inline
#define KERNEL __kernel __attribute__((reqd_work_group_size(BLOCK, 1, 1))) void
#define GLOBAL __global
#define CONSTANT __constant
#define TABLE __constant
#define CONSTANT_TABLE __constant
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define THREAD ((u32)get_global_id(0))
#define THREADS ((u32)get_global_size(0))
#define COUNT_UP(address) atomic_inc(address)
#define LOW(x) ((u32)(x))
#define HIGH(x) ((u32)((x) >> 32))
#define PAIR(low, high) ((u64)(high) << 32 | (low))
INLINE u64 reverse_bytes(u64 x) {
    return as_ulong(as_uchar8(x).s76543210);
}
INLINE u64 product(u32 x, u32 y) {
    return (u64)x * y;
}
INLINE u64 multiply_add(u32 x, u32 y, u64 sum) {
    return (u64)x * y + sum;
}
INLINE u64 multiply_add_carry(u32 x, u32 y, u64 sum, u64 *carry) {
    const u64 result = (u64)x * y + sum;
    *carry += (u64)(result < sum) << 32;
    return result;
}
INLINE u32 increment_if_below(u32 v, u32 a, u32 b) {
    return v + (a < b);
}
typedef struct { u64 low; u32 top; } Sum;
INLINE Sum make_sum(u64 low, u32 top) {
    const Sum sum = {low, top};
    return sum;
}
INLINE Sum add_sums(Sum a, Sum b) {
    const u64 low = a.low + b.low;
    return make_sum(low, a.top + b.top + (low < a.low));
}
"""
_MACROS: Final[dict[Language, str]] = {"cuda": _CUDA, "opencl": _OPENCL}

OPTIONS: Final[dict[Language, tuple[str, ...]]] = {"cuda": ("--std=c++17",), "opencl": ("-cl-std=CL1.2",)}
"""What the compilers of both languages need."""


def source(language: Language) -> str:
    """The whole program, for NVRTC or an OpenCL compiler."""
    kernels = resources.files(__package__).joinpath("poseidon2.cl").read_text(encoding="utf-8")
    sizes = f"#define BLOCK {BLOCK}\n#define MAX_HITS {MAX_HITS}\n"
    return sizes + _MACROS[language] + _constants() + kernels


class _Entry(NamedTuple):
    """Of the internal diagonal: digits (a0, a1) of 2^32 d and (b0, b1) of 2^64 d, modulo P, base 2^32."""

    a0: int
    a1: int
    b0: int
    b1: int

    @property
    def negative(self) -> int:
        """Complements that it needs: one for each half of the element, however many digits."""
        return (self.a0 < 0 or self.a1 < 0) + (self.b0 < 0 or self.b1 < 0)

    @property
    def fits(self) -> bool:
        """Whether low + 2^32 and high + 2^32 of internal_rounds are less than 2^64.

        Halves of elements and of the round's constant are at most _M, s0 + s1 at most 24 _M.
        """
        low = _M * (abs(self.a0) + abs(self.b0)) + _LOW_OFFSET + _M
        high = _M * (abs(self.a1) + abs(self.b1)) + 24 * _M + _M
        return max(low, high) + 2**32 < 2**64

    @property
    def complements(self) -> int:
        """What its complements add to the element, modulo P."""
        low, high = (
            sum(_M * -digit for digit in pair if digit < 0) for pair in ((self.a0, self.b0), (self.a1, self.b1))
        )
        return _divide(low) + high


def _divide(number: int) -> int:
    """``number / 2^32`` modulo P."""
    return number * pow(2**32, -1, P) % P


def _digits(number: int) -> Iterable[tuple[int, int]]:
    """All ways to write ``number``, modulo P, with two digits of the base 2^32, negative ones allowed."""
    for value in (number % P, number % P - P):
        high, low = divmod(value, 2**32)
        yield low, high
        yield low - 2**32, high + 1


def _entry(d: int) -> _Entry:
    entries = (_Entry(*a, *b) for a, b in product(_digits(2**32 * d), _digits(2**64 * d)))
    return min((entry for entry in entries if entry.fits), key=lambda entry: entry.negative)


def _constants() -> str:
    diagonal = [_entry(d) for d in INTERNAL_DIAGONAL]
    lines = [f"#define LOW_OFFSET {_LOW_OFFSET:#x}u"]
    for name in _Entry._fields:
        digits = [getattr(entry, name) for entry in diagonal]
        lines.append(_table("TABLE u32", name.upper(), [abs(digit) for digit in digits]))
        lines.append(_table("TABLE int", f"{name.upper()}_NEGATIVE", [digit < 0 for digit in digits]))

    # What is in the elements besides what should be. Element 0 is set right in every round.
    internal, offsets = [], [0] * WIDTH
    for following in (*INTERNAL_ROUNDS[1:], 0):
        added = [sum(offsets) + _divide(_LOW_OFFSET) + entry.complements for entry in diagonal]
        offsets = [(d * offset + more) % P for d, offset, more in zip(INTERNAL_DIAGONAL, offsets, added, strict=True)]
        internal.append((following - offsets[0]) * 2**32 % P)
        offsets[0] = 0
    lines.append(_table("CONSTANT_TABLE const u64", "INTERNAL", internal))
    after = [(c - offset) % P for c, offset in zip(LAST_EXTERNAL_ROUNDS[0], offsets, strict=True)]
    lines.append(_table("CONSTANT_TABLE const u64", "AFTER_INTERNAL", after))

    # What the layer at the end of external round r adds: the constants of the next round, or the last block. [0] is
    # for the layer that begins a permutation.
    begin, middle = [INTERNAL_ROUNDS[0], *[0] * (WIDTH - 1)], [1, 1, *[0] * (WIDTH - 2)]
    permutation = [*FIRST_EXTERNAL_ROUNDS[1:], begin, *LAST_EXTERNAL_ROUNDS[1:]]
    external = [FIRST_EXTERNAL_ROUNDS[0], *permutation[1:], middle, *permutation]
    rows = ", ".join("{" + _literals(row) + "}" for row in external)
    lines.append(f"CONSTANT_TABLE const u64 EXTERNAL[{len(external)}][{WIDTH}] = {{{rows}}};")

    matrix = ((2, 3, 1, 1), (1, 2, 3, 1), (1, 1, 2, 3), (3, 1, 1, 2))
    columns = [
        [matrix[row % 4][i % 4] * (2 if row // 4 == i // 4 else 1) for row in range(WIDTH)] for i in range(WIDTH)
    ]
    lines.append(_table("TABLE u32", "ROW0", [column[0] for column in columns]))
    lines += [_table("TABLE u32", f"COLUMN{i}", columns[i]) for i in (3, 7)]
    return "\n".join([*lines, ""])


def _table(kind: str, name: str, values: Sequence[int]) -> str:
    return f"{kind} {name}[{len(values)}] = {{{_literals(values)}}};"


def _literals(values: Iterable[int]) -> str:
    return ", ".join(f"{value:#x}u" for value in values)
