"""What an NVIDIA card calculates at most: chains of integer instructions that wait for nothing but each other."""

from __future__ import annotations

import ctypes
import statistics
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cuda.bindings import driver

from quantus_miner.gpu.cuda import architecture, card, compile_text, done

if TYPE_CHECKING:
    from quantus_miner.gpu.device import Device

BLOCK: Final = 1024
"""Threads of the one block that each multiprocessor gets."""
CHAINS: Final = 8
UNROLLED: Final = 16
TRIPS: Final = 4096
"""Of the first launch, which warms up."""
MAX_TRIPS: Final = 2**24

STEPS: Final = {
    "add": ("add",) * CHAINS,
    "multiply": ("multiply",) * CHAINS,
    "wide": ("wide",) * CHAINS,
    # Near the mix of the kernels for sm_75 to sm_90.
    "mixed": ("add", "wide", "add", "add", "multiply", "add", "wide", "add"),
}
"""Per kernel, what a step does to each of its chains. add: IADD3, multiply: IMAD, wide: IMAD.WIDE."""
_STATEMENTS: Final = {
    # Sums of three registers, none of them with two in common: a sum of two may become a multiplication.
    "add": "x{i} = x{i} + y{i} + z; y{i} = y{i} + x{i} + trips;",
    "multiply": "x{i} = x{i} * z + y{i}; y{i} = y{i} * z + x{i};",
    "wide": "w{i} = wide(w{i}, z, v{i}); v{i} = wide(v{i}, z, w{i});",
}
_WIDE: Final = """
typedef unsigned int u32;
typedef unsigned long long u64;
// Of a product in C the compiler adds the halves itself.
__device__ __forceinline__ u64 wide(u64 x, u32 y, u64 sum) {
    u32 low, high;
    asm volatile("mad.lo.cc.u32 %0, %2, %3, %4; madc.hi.u32 %1, %2, %3, %5;"
        : "=&r"(low), "=r"(high) : "r"((u32)x), "r"(y), "r"((u32)sum), "r"((u32)(sum >> 32)));
    return (u64)high << 32 | low;
}
"""
OPERATIONS: Final = 2 * CHAINS * UNROLLED
"""Of a thread in a trip."""


class Limit(NamedTuple):
    """Operations: of a multiprocessor in a clock cycle, and of the card in a second."""

    a_clock: float
    a_second: float


def source() -> str:
    """The kernels ``limit_add`` … ``limit_mixed`` in CUDA C++."""
    return _WIDE + "".join(_kernel(name, steps) for name, steps in STEPS.items())


def _kernel(name: str, steps: tuple[str, ...]) -> str:
    declared = " ".join(
        f"u32 x{i} = z * {2 * i + 1} + threadIdx.x, y{i} = x{i} ^ {i}; u64 v{i} = x{i}, w{i} = y{i};"
        for i in range(CHAINS)
    )
    body = " ".join(_STATEMENTS[step].format(i=i) for i, step in enumerate(steps))
    result = " ^ ".join(f"x{i} ^ y{i} ^ (u32)(v{i} ^ v{i} >> 32) ^ (u32)(w{i} ^ w{i} >> 32)" for i in range(CHAINS))
    return f"""
extern "C" __global__ void __launch_bounds__({BLOCK}) limit_{name}(u32 z, u32 trips, u32 *out, u64 *cycles) {{
    {declared}
    __syncthreads();
    const u64 began = clock64();
    #pragma unroll 1
    for (u32 trip = 0; trip < trips; ++trip) {{
        #pragma unroll
        for (int turn = 0; turn < {UNROLLED}; ++turn) {{ {body} }}
    }}
    __syncthreads();
    if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - began;
    out[blockIdx.x * {BLOCK} + threadIdx.x] = {result};
}}
"""


def measure(device: Device, multiprocessors: int, seconds: float) -> dict[str, Limit]:
    """By kernel, of one card, each for about ``seconds``. Raises DeviceLostError."""
    handle = card(device)
    cubin = compile_text(source(), architecture(handle))
    done(driver.cuCtxSetCurrent(done(driver.cuDevicePrimaryCtxRetain(handle))))
    try:
        module = done(driver.cuModuleLoadData(cubin))
        return {
            name: _measure(done(driver.cuModuleGetFunction(module, f"limit_{name}".encode())), multiprocessors, seconds)
            for name in STEPS
        }
    finally:
        done(driver.cuDevicePrimaryCtxReset(handle))
        done(driver.cuDevicePrimaryCtxRelease(handle))


def _measure(kernel: Any, multiprocessors: int, seconds: float) -> Limit:  # noqa: ANN401 - the bindings have no types
    threads = multiprocessors * BLOCK
    out, cycles = (done(driver.cuMemAlloc(size)) for size in (4 * threads, 8 * multiprocessors))
    began, ended = (done(driver.cuEventCreate(0)) for _ in range(2))
    types = (ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)

    def run(trips: int) -> float:
        values = (0x9E3779B9, trips, int(out), int(cycles))
        done(driver.cuEventRecord(began, 0))
        done(driver.cuLaunchKernel(kernel, multiprocessors, 1, 1, BLOCK, 1, 1, 0, 0, (values, types), 0))
        done(driver.cuEventRecord(ended, 0))
        done(driver.cuEventSynchronize(ended))
        took: float = done(driver.cuEventElapsedTime(began, ended)) / 1e3
        return took

    run(TRIPS)
    trips = max(TRIPS, min(MAX_TRIPS, int(TRIPS * seconds / run(TRIPS))))
    took = run(trips)
    counted = (ctypes.c_uint64 * multiprocessors)()
    done(driver.cuMemcpyDtoH(ctypes.addressof(counted), cycles, ctypes.sizeof(counted)))
    for memory in (out, cycles):
        done(driver.cuMemFree(memory))
    operations = OPERATIONS * trips
    return Limit(operations * BLOCK / statistics.median(counted), operations * threads / took)
