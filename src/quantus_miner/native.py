"""The native kernels: a thin typed wrapper around the C ABI in ``native/include/quantus_miner.h``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quantus_miner._native import ffi, lib
from quantus_miner.model import MAX, Job, Order, Pow
from quantus_miner.pow import sha3
from quantus_miner.pow.order import STEP_BITS, last_position, nonce_at

if TYPE_CHECKING:
    from cffi import FFI

ABI_VERSION: Final = 5
_POWS: Final = {lib.QM_POSEIDON2: Pow.POSEIDON2, lib.QM_SHA3: Pow.SHA3}
SPAN_BITS: Final = {Order.COUNTING: 32, Order.WALK: STEP_BITS}
"""Positions in a span of qpow-poseidon2 in each order, as a power of 2."""
_ORDERS: Final = {Order.COUNTING: lib.QM_COUNTING, Order.WALK: lib.QM_WALK}

if lib.qm_abi_version() != ABI_VERSION:
    raise ImportError(
        f"quantus_miner._native has ABI version {lib.qm_abi_version()}, this quantus-miner needs {ABI_VERSION}: "
        "install it again"
    )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel. ``supported``: True if this processor and operating system can run it."""

    index: int
    pow: Pow
    name: str
    supported: bool


class Outcome(NamedTuple):
    """The result of a search. ``tested``: nonces tested from the start on. ``nonce``: the last one if it is valid."""

    tested: int
    nonce: int | None


class NativeControl:
    """Stop signal and progress of one search; any thread may use it while another searches."""

    __slots__ = ("_control",)

    def __init__(self) -> None:
        self._control = ffi.new("qm_control *")

    @property
    def hashes(self) -> int:
        """Return the nonces tested since the last reset. Grows during a search."""
        return lib.qm_control_hashes(self._control)

    def stop(self) -> None:
        """End the current search within 2 ms, and later ones at once, until the next reset."""
        lib.qm_control_stop(self._control)

    def reset(self) -> None:
        """Clear the stop signal and the count before a search."""
        lib.qm_control_reset(self._control)


class Span(NamedTuple):
    """What the nonces of a span share: positions with all but the low ``SPAN_BITS`` bits in common.

    ``words``: 14 field elements, see ``native/include/quantus_miner.h``. ``top_target``: the first
    8 bytes of the target; a nonce whose hash begins with more is not valid. ``offset``: of the position in its span.
    """

    words: tuple[int, ...]
    top_target: int
    offset: int


@dataclass(frozen=True, slots=True)
class NativeJob:
    """A job in the form that kernels read. Any number of threads may search it at the same time."""

    pow: Pow
    order: Order
    data: FFI.CData


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels, those of one proof of work from the slowest to the fastest."""
    return tuple(
        Kernel(
            index=index,
            pow=_POWS[lib.qm_kernel_pow(index)],
            name=_text(lib.qm_kernel_name(index)),
            supported=lib.qm_kernel_supported(index) == 1,
        )
        for index in range(lib.qm_kernel_count())
    )


def find_kernel(pow: Pow, name: str | None) -> Kernel:  # noqa: A002 - the field's word
    """Return the kernel of ``pow`` called ``name``, or the fastest that this machine can run if ``name`` is None.

    Raises ValueError, which names the allowed kernels, if there is none or it cannot run here.
    """
    usable = [kernel for kernel in kernels() if kernel.pow is pow and kernel.supported]
    for kernel in reversed(usable):
        if name in (None, kernel.name):
            return kernel
    allowed = ", ".join(kernel.name for kernel in usable)
    raise ValueError(f"no kernel {name!r} for {pow} on this machine; allowed: {allowed}")


def prepare(job: Job) -> NativeJob:
    """Return ``job`` in the form that ``search`` takes. The modulus of qpow-sha3 takes milliseconds the first time.

    Raises ValueError unless the header has 32 bytes and the target is from 0 to 2^512 - 1.
    """
    if len(job.header) != 32:
        raise ValueError(f"a header must have 32 bytes, got {len(job.header)}")
    if not 0 <= job.target <= MAX:
        raise ValueError("a target must be from 0 to 2^512 - 1")
    fields = {"header": job.header, "target": job.target.to_bytes(64), "order": _ORDERS[job.order]}
    if job.pow is Pow.SHA3:
        base, modulus = sha3.modulus(job.header)
        fields |= {"base": base.to_bytes(32), "modulus": modulus.to_bytes(64)}
    return NativeJob(job.pow, job.order, ffi.new("qm_job *", fields))


def search(kernel: Kernel, job: NativeJob, start: int, count: int, control: NativeControl) -> Outcome:
    """Test ``count`` nonces from position ``start`` of the job's order on, up to the first valid one.

    Releases the GIL. If no nonce is found, ``tested`` is below ``count`` only if ``control`` was stopped. Raises
    ValueError unless ``kernel`` is for the job's proof of work and runs here, the proof of work has the job's order,
    0 <= start, 1 <= count < 2^64, and the slice ends at the last position of its order or before.
    """
    if kernel.pow is not job.pow:
        raise ValueError(f"kernel {kernel.name!r} of {kernel.pow} cannot search a job of {job.pow}")
    if not (0 <= start <= MAX and 0 < count < 2**64):
        raise ValueError("a slice must have 0 <= start <= 2^512 - 1 and 1 <= count < 2^64")
    tested = ffi.new("uint64_t *")
    outcome = lib.qm_search(kernel.index, job.data, start.to_bytes(64), count, control._control, tested)  # noqa: SLF001 - same file
    if outcome == lib.QM_INVALID:
        raise ValueError(
            f"kernel not supported on this machine, {job.order} order not supported for {job.pow}, "
            f"or a slice that passes position {last_position(job.order):#x}"
        )
    done: int = tested[0]
    return Outcome(done, nonce_at(job.order, start + done - 1) if outcome == lib.QM_FOUND else None)


def span(job: NativeJob, position: int) -> Span:
    """Return the span of ``position``. Raises ValueError unless the job is of qpow-poseidon2 and has that position."""
    if job.pow is not Pow.POSEIDON2:
        raise ValueError(f"jobs of {job.pow} have no spans")
    if not 0 <= position <= last_position(job.order):
        raise ValueError(f"a position in {job.order} order must be from 0 to {last_position(job.order):#x}")
    found: Any = ffi.new("qm_span *")
    lib.qm_span_at(job.data, position.to_bytes(64), found)
    return Span(tuple(found.words), found.top_target, found.offset)


def poseidon2_hash(header: bytes, nonce: int) -> int:
    """Return the hash of ``nonce``, 0 .. 2^512 - 1, of qpow-poseidon2, computed apart from all kernels.

    Raises ValueError unless ``header`` has 32 bytes.
    """
    if len(header) != 32:
        raise ValueError(f"a header must have 32 bytes, got {len(header)}")
    found = ffi.new("uint8_t[64]")
    lib.qm_poseidon2_hash(header, nonce.to_bytes(64), found)
    return int.from_bytes(bytes(found))


def _text(data: FFI.CData) -> str:
    text = ffi.string(data)
    assert isinstance(text, bytes)  # noqa: S101 - what cffi makes of const char *
    return text.decode()
