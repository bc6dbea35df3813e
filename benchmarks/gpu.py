"""A graphics card: its speed, what its kernels are made of, how near they are to its limit, and whether they are right.

    python -m benchmarks.gpu [--engine gpu-cuda|gpu-opencl] [--device N] [--seconds 5] [--nonces 1000000000]
    python -m benchmarks.gpu --arch sm_89      # instructions a nonce alone; without a card
    python -m benchmarks.gpu --simulated       # job switches and the host's part; without a card

Launches are tuned first, as by ``quantus-miner bench --tune``; nothing is kept. The instructions need nvdisasm, from
the CUDA toolkit or ``pip install nvidia-cuda-nvdisasm``. The hits of the card are compared with those of the fastest
CPU kernel on all CPUs, which takes most of the time; on a CPU that is an OpenCL device, 10^6 nonces are the default.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks import exactness, gpu_switch, sass
from benchmarks.counting import NotCountedError
from quantus_miner import bench, native
from quantus_miner.backends.base import Control
from quantus_miner.backends.gpu import LAUNCH_S, MAX_LAUNCH, GpuEngine
from quantus_miner.errors import DeviceLostError, EngineUnavailableError
from quantus_miner.gpu import drivers, tuning
from quantus_miner.gpu.device import IN_FLIGHT, DriverError
from quantus_miner.gpu.source import BLOCK, ENTRIES
from quantus_miner.gpu.telemetry import Telemetry
from quantus_miner.model import Job, Order, Pow, target_from_difficulty
from quantus_miner.pow.order import positions_from

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from quantus_miner.gpu.device import Launcher
    from quantus_miner.gpu.telemetry import Readings

RUNS: Final = 5
BARE_S: Final = 1.0
"""Seconds of bare launches, at most."""
SAMPLE_S: Final = 0.2
"""Between two looks at power and temperature."""
DIFFICULTY: Final = 4096
PARTS: Final = 64
MISSED: Final = 6.8e-7
"""Nonces whose hash is wrong, see ``poseidon2.cl``."""
SWITCHES: Final = 300


class Run(NamedTuple):
    """Nonces a second, and means of what the card said: watts, degrees Celsius, hertz; None if it does not say."""

    rate: float
    power: float | None
    temperature: float | None
    clock: float | None


def through_engine(engine: GpuEngine, order: Order, seconds: float, telemetry: Telemetry) -> Run:
    """Searches for about ``seconds`` for what nothing meets."""
    job = _job(order, 0)
    control = Control()
    readings: list[Readings] = []
    with ThreadPoolExecutor(1) as pool:
        began = time.perf_counter()
        searching = pool.submit(engine.search, job, job.ranges[0].start, 2**60, control)
        while (left := began + seconds - time.perf_counter()) > 0 and not searching.done():
            time.sleep(min(left, SAMPLE_S))
            if now := telemetry.read(engine.device.pci):
                readings.append(now)
        control.stop()
        tested = searching.result().tested
        rate = tested / (time.perf_counter() - began)
    return Run(
        rate,
        _mean(now.power for now in readings),
        _mean(now.temperature for now in readings),
        _mean(now.sm_clock for now in readings),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def bare(launcher: Launcher, order: Order, blocks: int, count: int, seconds: float) -> float:
    """Nonces a second of launches of ``count``, with nothing around them."""
    words, top_target, _ = native.span(native.prepare(_job(order, 0)), 0)
    began = time.perf_counter()
    launches = 0
    in_flight = deque[None]()
    while time.perf_counter() < began + seconds or in_flight:
        while len(in_flight) < IN_FLIGHT and time.perf_counter() < began + seconds:
            launcher.launch(order, words, top_target, 0, count, blocks)
            in_flight.append(None)
        if in_flight:
            launcher.collect()
            in_flight.popleft()
            launches += 1
    return launches * count / (time.perf_counter() - began)


def speed(engine: GpuEngine, launcher: Launcher, order: Order, seconds: float, runs_wanted: int = RUNS) -> Run:
    """Prints what the engine does, against the bare launcher in turn. Return the median of each figure."""
    telemetry = Telemetry()
    size = int(through_engine(engine, order, seconds, telemetry).rate * LAUNCH_S)  # warms up, too
    count = max(BLOCK, min(size, MAX_LAUNCH, 2 ** native.SPAN_BITS[order]))
    blocks = min(-(-count // BLOCK), engine.blocks * launcher.multiprocessors)
    runs, ratios = [], []
    for _ in range(runs_wanted):
        without = bare(launcher, order, blocks, count, min(seconds, BARE_S))
        runs.append(through_engine(engine, order, seconds, telemetry))
        ratios.append(runs[-1].rate / without)
    rates = sorted(run.rate for run in runs)
    median = statistics.median(rates)
    line = f"{order:9} {median / 1e6:10.3f} MH/s ({rates[0] / 1e6:.3f} .. {rates[-1] / 1e6:.3f})"
    line += f"   {statistics.median(ratios):.4f} x bare launches"
    joules = [run.rate / run.power / 1e6 for run in runs if run.power]
    if joules:
        watts = statistics.median(run.power for run in runs if run.power)
        line += f"   {watts:.0f} W   {statistics.median(joules):.3f} MH/J"
    clocks = [run.clock for run in runs if run.clock is not None]
    if clocks:
        line += f"   {min(clocks) / 1e6:.0f} .. {max(clocks) / 1e6:.0f} MHz"
    degrees = [run.temperature for run in runs if run.temperature is not None]
    print(line + (f"   {max(degrees):.0f} degrees" if degrees else ""), flush=True)
    return Run(
        median,
        statistics.median(run.power for run in runs if run.power) if joules else None,
        max(degrees, default=None),
        statistics.median(clocks) if clocks else None,
    )


def instructions(arch: str) -> dict[Order, Counter[str]]:
    """Prints and returns the instructions a nonce of both kernels. Raises NotCountedError."""
    try:
        from quantus_miner.gpu import cuda
    except ImportError as error:
        raise NotCountedError(f"{error.name} is missing; pip install '.[cuda]'") from None
    listing = sass.disassemble(cuda.compile_for(arch))
    counted = {order: sass.instructions(listing, entry) for order, entry in ENTRIES.items()}
    for order, kinds in counted.items():
        parts = ", ".join(f"{kind} {kinds[kind]:,}" for kind in sass.KINDS)
        print(f"{arch} {order:9} {kinds.total():8,} instructions a nonce: {parts}")
        busy = ", ".join(f"{part} {count:,}" for part, count in sass.clocks(kinds, arch).items())
        print(f"{arch} {order:9} clock cycles of a quarter multiprocessor for 32 nonces: {busy}", flush=True)
    return counted


def limits(engine: GpuEngine, multiprocessors: int, rates: dict[Order, float], seconds: float) -> None:
    """Prints what the card calculates at most, and how much of that the kernels do. Raises NotCountedError."""
    from benchmarks import gpu_limit
    from quantus_miner.gpu import cuda

    measured = gpu_limit.measure(engine.device, multiprocessors, seconds)
    for name, limit in measured.items():
        print(f"limit of {name:9} {limit.a_clock:6.1f} a clock a multiprocessor {limit.a_second / 1e12:7.2f} T/s")
    seconds_each = {name: 1 / limit.a_second for name, limit in measured.items()}
    arch = cuda.architecture(cuda.card(engine.device))
    for order, kinds in instructions(arch).items():
        share = {
            "alu": sass.clocks(kinds, arch)["alu"] / 2 * seconds_each["add"],  # 2 an addition
            "multiplier": kinds["multiply"] * seconds_each["multiply"] + kinds["wide"] * seconds_each["wide"],
            "all, as mixed": kinds.total() * seconds_each["mixed"],
        }
        parts = (f"{part} {rates[order] * taken:.2f}" for part, taken in share.items())
        print(f"{order} of the limits: {', '.join(parts)}", flush=True)


def exact(engine: GpuEngine, order: Order, nonces: int) -> bool:
    """Prints how the hits differ from those of the fastest CPU kernel; whether no more than is to be expected."""
    job, kernel = _job(order, target_from_difficulty(DIFFICULTY)), native.find_kernel(Pow.POSEIDON2, None)
    task, size, span = native.prepare(job), max(1, nonces // PARTS), 2 ** native.SPAN_BITS[order]
    # Every part crosses the end of a span, at a random place.
    starts = [secrets.randbits(250) * span + span - secrets.randbelow(size) - 1 for _ in range(PARTS)]
    false_positives, hits, missed, false = engine.false_positives, 0, 0, 0
    began = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        parts = pool.map(lambda start: exactness.hits(kernel, task, start, size), starts)
        for number, (start, wanted) in enumerate(zip(starts, parts, strict=True), 1):
            found = _hits(engine, job, start, size)
            hits += len(wanted)
            missed += len(set(wanted) - set(found))
            false += len(set(found) - set(wanted))
            if sys.stderr.isatty():
                minutes = (time.perf_counter() - began) / 60
                print(f"\r{number} of {PARTS} parts, {minutes:.1f} min", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    false_positives = engine.false_positives - false_positives
    print(
        f"{order:9} {size * PARTS:,} nonces, {hits:,} hits, {missed} missed, {false} false, "
        f"{false_positives} false positives (expected {hits * MISSED:.2g} missed and as many false positives; "
        f"CPU kernel {kernel.name})",
        flush=True,
    )
    return false == 0 and max(missed, false_positives) <= 3 + 10 * hits * MISSED


def _hits(engine: GpuEngine, job: Job, start: int, count: int) -> list[int]:
    """All positions of valid nonces, one search after the other."""
    found, end = [], start + count
    while start < end:
        outcome = engine.search(job, start, end - start, Control())
        start += outcome.tested
        if outcome.nonce is not None:
            found.append(start - 1)
    return found


def _job(order: Order, limit: int) -> Job:
    ranges = positions_from(order, b"\1", secrets.randbits(200))
    return Job(secrets.token_hex(4), Pow.POSEIDON2, secrets.token_bytes(32), limit, ranges, order)


def measure(name: str, index: int, seconds: float, nonces: int | None) -> bool:
    """All of one device; whether it is right. Raises DriverError, DeviceLostError, EngineUnavailableError."""
    language = name.removeprefix("gpu-")
    driver = drivers.load(language)
    devices = driver.devices()
    if not 0 <= index < len(devices):
        raise DriverError(f"there is no device {index}")
    device = devices[index]
    with tempfile.TemporaryDirectory() as folder:
        open_device = partial(driver.open_device, device, Path(folder))
        engine = GpuEngine(name, device, open_device, language=language, blocks=tuning.BLOCKS)
        began = time.perf_counter()
        launcher = engine.open()
        took = time.perf_counter() - began
        print(f"{device.name}, {launcher.multiprocessors} multiprocessors, PCI {device.pci or '?'}")
        print(f"driver {device.driver}, {_compiler(name)}; compiled and tested in {took:.1f} s", flush=True)
        bench.tune(engine, seconds, lambda blocks, result: print(bench.tried(blocks, result), flush=True))
        print(f"tuned: {engine.blocks} blocks of {BLOCK} threads a multiprocessor")
        rates = {order: speed(engine, launcher, order, seconds).rate for order in (Order.WALK, Order.COUNTING)}
        if nonces is None:
            nonces = 10**6 if device.kind == "cpu" else 10**9
        right = [exact(engine, order, nonces) for order in rates]
        launcher.close()
        if name == "gpu-cuda":
            try:
                limits(engine, launcher.multiprocessors, rates, seconds)
            except NotCountedError as error:
                print(f"no instructions: {error}")
        return all(right)


def _compiler(name: str) -> str:
    if name == "gpu-opencl":
        return "compiled by the driver"
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return f"NVRTC {major}.{minor}"


def _arch(text: str) -> str:
    if not re.fullmatch(r"sm_\d{2,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no architecture such as sm_89")
    return text


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engine", choices=("gpu-cuda", "gpu-opencl"), default="gpu-cuda")
    parser.add_argument("--device", type=int, default=0, help="its index, as quantus-miner devices lists it")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--nonces", type=int, help="that are compared with the CPU's, in each order")
    parser.add_argument("--arch", type=_arch, help="count the instructions for such as sm_89, and nothing else")
    parser.add_argument("--simulated", action="store_true", help="switch jobs on a simulated card, and nothing else")
    options = parser.parse_args()
    try:
        if options.simulated:
            gpu_switch.run(SWITCHES, options.seconds)
        elif options.arch:
            instructions(options.arch)
        elif not measure(options.engine, options.device, options.seconds, options.nonces):
            sys.exit("the device finds other nonces than the CPU")
    except DriverError as error:
        sys.exit(f"{options.engine} is not available: {error}")
    except (DeviceLostError, EngineUnavailableError, NotCountedError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
