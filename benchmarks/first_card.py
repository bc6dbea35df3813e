"""Everything that only a card can show, in one run of about eight minutes, on a machine without package registries.

    python -m benchmarks.first_card --pack build/first-card      # here: the program and what it needs, for Python 3.12
    PYTHONPATH=build/first-card python3 -m benchmarks.first_card # there, in the root of the same checkout

The machine needs Linux on x86-64, Python 3.12 with cuda-bindings, NVRTC and nvidia-ml-py, and a driver. Each part is
tried on its own: one that fails is told, the others go on, and the exit code is 1. The soak takes what time is left.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.parser import text_string_to_metric_families

import quantus_miner
from benchmarks import gpu, gpu_switch
from benchmarks.counting import NotCountedError
from benchmarks.process import resident_mb
from quantus_miner import bench
from quantus_miner.backends.base import Control
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.gpu import drivers, tuning
from quantus_miner.gpu.device import DriverError
from quantus_miner.mining.miner import Miner
from quantus_miner.model import Job, NonceRange, Order, Pow, target_from_difficulty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantus_miner.gpu.device import Device

PYTHON: Final = "3.12"
GLIBC: Final = ("2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34")
"""Of the platforms whose wheels that machine takes."""
RTX_4090: Final = (128, 2.6e9)
"""Multiprocessors and clock."""
PUBLISHED: Final = {
    "the network's own CUDA miner": (902e6, 967e6),
    "the best with open source": (920e6, 920e6),
    "the best with closed source": (1375e6, 1375e6),
}
"""Nonces a second on an RTX 4090, as their authors and users say: least and most."""
TRAP: Final = 'extern "C" __global__ void trap_now() { asm volatile("trap;"); }'


@dataclass(frozen=True)
class Options:
    """Of one run. ``until``: when it should end, of time.monotonic."""

    engine: str
    device: Device
    seconds: float
    runs: int
    nonces: int
    switches: int
    until: float


class Report:
    """Runs the parts one after the other; remembers which failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Prints how long a part took, or why it failed."""
        began = time.monotonic()
        print(f"\n== {name}", flush=True)
        try:
            yield
        except Exception as error:  # the others are to run
            self.failed.append(name)
            traceback.print_exc(file=sys.stdout)
            print(f"FAILED: {name}: {error}")
        print(f"-- {time.monotonic() - began:.1f} s", flush=True)


def pack(folder: Path) -> None:
    """Puts the program as it is installed here, and what it needs for PYTHON on x86-64, into ``folder``."""
    needs = [need for need in importlib.metadata.requires("quantus-miner") or () if "extra ==" not in need]
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in GLIBC]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--platform=manylinux2014_x86_64"]
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*command, *needs], check=True)
    # Its extension is of the stable ABI, and fits every Python from 3.11 on.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(quantus_miner.__file__).parent, folder / "quantus_miner", ignore=ignored)
    metadata = importlib.metadata.distribution("quantus-miner").read_text("METADATA") or ""
    info = folder / f"quantus_miner-{quantus_miner.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


def command(*arguments: str) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-m", "quantus_miner", *arguments]


def say(*arguments: str) -> None:
    """Prints a command of the program and what it says."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False)
    print(f"$ quantus-miner {' '.join(arguments)}\n{ended.stdout}{ended.stderr}exit code {ended.returncode}")


def versions() -> None:
    """Prints what is installed."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
    for name in ("cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "nvidia-ml-py", "pyopencl"):
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed as a package")
    if tool := shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,power.limit,clocks.max.sm,clocks.max.mem,mig.mode.current"
        subprocess.run([tool, query, "--format=csv"], check=False)


def golden(engine: GpuEngine) -> None:
    """Searches the golden vectors. Raises AssertionError."""
    path = Path(__file__).parents[1] / "tests" / "vectors" / "qpow_poseidon2_search.json"
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    for case in cases:
        start, length, expected = int(case["nonce_start"], 16), case["length"], case["chain_first_nonce"]
        target = target_from_difficulty(int(case["difficulty"]))
        ranges = (NonceRange(start, start + length - 1),)
        job = Job(case["label"], Pow.POSEIDON2, bytes.fromhex(case["header_hex"]), target, ranges)
        nonce = engine.search(job, start, length, Control()).nonce
        assert nonce == (None if expected is None else int(expected, 16)), case["label"]
    print(f"{len(cases)} golden searches are right")


def published(rate: float, clock: float | None, multiprocessors: int) -> None:
    """Prints the published rates, scaled to this card; they are not measured here."""
    if clock is None:
        print("the card does not say its clock: nothing to scale by")
        return
    factor = multiprocessors * clock / (RTX_4090[0] * RTX_4090[1])
    print(f"published for an RTX 4090, scaled by multiprocessors and clock ({factor:.3f}), not measured:")
    for name, (least, most) in PUBLISHED.items():
        ours = f"{rate / (most * factor):.2f} .. {rate / (least * factor):.2f} x" if least < most else ""
        ours = ours or f"{rate / (most * factor):.2f} x"
        print(f"  {name:32} {least * factor / 1e6:7.0f} .. {most * factor / 1e6:7.0f} MH/s; ours is {ours}")


def two_at_once(options: Options) -> None:
    """Prints the rates of two processes on the card at the same time."""
    flags = ("--engine", options.engine, "--gpu-devices", str(options.device.index), "--json")
    with tempfile.TemporaryDirectory() as folder:
        measured = command("bench", *flags, "--seconds", str(options.seconds), "--state-dir", folder)
        both = [subprocess.Popen(measured, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        rates = [json.loads(process.communicate(timeout=120)[0])["results"][0]["hash_rate"] for process in both]
    print(f"two processes: {rates[0] / 1e6:.3f} + {rates[1] / 1e6:.3f} = {sum(rates) / 1e6:.3f} MH/s")


class Lines(logging.Handler):
    """Prints the log, with the time since the start."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        print(f"  {time.monotonic() - self.began:6.2f} s {record.levelname} {record.getMessage()}", flush=True)


def lose_and_return(engine: GpuEngine) -> None:
    """Breaks the CUDA context under a running miner, and waits until the card mines again. Raises AssertionError."""
    from cuda.bindings import driver

    from quantus_miner.gpu import cuda

    lines = Lines()
    logging.getLogger("miner").addHandler(lines)
    logging.getLogger("miner").setLevel(logging.INFO)
    miner = Miner([engine], chunk_s=2.0)
    miner.start()
    ended = threading.Event()
    ranges = (NonceRange(0, 2**200),)
    miner.submit(Job("a", Pow.POSEIDON2, bytes(32), 0, ranges, Order.WALK), lambda _: ended.set())
    try:
        wait(lambda: miner.stats().hashes > 0)
        card = cuda.card(engine.device)
        cubin = cuda.compile_text(TRAP, cuda.architecture(card))
        context = cuda.done(driver.cuDevicePrimaryCtxRetain(card))
        cuda.done(driver.cuCtxSetCurrent(context))
        module = cuda.done(driver.cuModuleLoadData(cubin))
        trap = cuda.done(driver.cuModuleGetFunction(module, b"trap_now"))
        driver.cuLaunchKernel(trap, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
        wait(lambda: not miner.stats().gpus[0].up)
        driver.cuDevicePrimaryCtxRelease(card)
        tested = miner.stats().hashes
        wait(lambda: miner.stats().gpus[0].up and miner.stats().hashes > tested)
        print(f"lost, told, and back after {time.monotonic() - lines.began:.2f} s in all")
    finally:
        assert miner.close(10), "a worker does not end"
        logging.getLogger("miner").removeHandler(lines)


def wait(condition: Any, seconds: float = 60.0) -> None:  # noqa: ANN401 - a lambda
    """Waits until ``condition()``. Raises AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


def free_port(kind: socket.SocketKind) -> int:
    """A port of 127.0.0.1 that nothing has now."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(name: str, arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """The program as a process, whose last lines are printed at its end."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command(*arguments), stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                code = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            output.seek(0)
            lines = output.read().splitlines()
            print(f"{name} ended with exit code {code}; the last of its {len(lines)} lines:")
            print("\n".join(f"  | {line}" for line in lines[-6:]), flush=True)


class Service:
    """A mining service on the card, and its metrics."""

    def __init__(self, process: subprocess.Popen[str], metrics_port: int) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{metrics_port}/metrics"

    def metrics(self) -> dict[str, float]:
        """The samples by name, those of one name added up; {} until they are served."""
        samples: dict[str, float] = {}
        try:
            with urllib.request.urlopen(self._url, timeout=10) as answer:  # noqa: S310 - our own
                text = answer.read().decode()
        except OSError:
            return samples
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
        return samples

    def rate(self, seconds: float) -> tuple[float, float]:
        """Nonces a second, and CPU seconds a second."""
        marks = []
        for pause in (0.0, seconds):
            time.sleep(pause)
            now = self.metrics()
            marks.append((time.monotonic(), now["miner_hashes_total"], now["process_cpu_seconds_total"]))
        took, hashes, cpu = (after - before for before, after in zip(*marks, strict=True))
        return hashes / took, cpu / took


@contextmanager
def mining(options: Options, folder: Path, source: tuple[str, ...], rate: float) -> Iterator[Service]:
    """A service on the card that mines for ``source``, at its full speed."""
    port = free_port(socket.SOCK_STREAM)
    flags = ("--engine", options.engine, "--gpu-devices", str(options.device.index), "--state-dir", str(folder))
    with running("miner", ("serve", *flags, *source, "--port", "0", "--metrics-port", str(port))) as process:
        service = Service(process, port)
        wait(lambda: service.metrics().get("miner_source_mined"), 60)
        wait(lambda: service.metrics()["miner_gpu_hash_rate"] > rate / 2, 30)
        yield service


def through(options: Options, service: Service, bare: float) -> None:
    """Prints the service's rate against the bare engine's, and what its metrics say."""
    rate, cpu = service.rate(2 * options.seconds)
    print(f"{rate / 1e6:.3f} MH/s, {rate / bare:.4f} x the bare engine (wanted >= 0.99)")
    print(f"CPU of the whole process {100 * cpu:.2f} % of a core (wanted < 5 %)")
    now = service.metrics()
    names = ("miner_source_solutions_total", "miner_gpu_up", "miner_gpu_false_positives_total")
    more = ("miner_gpu_temperature_celsius", "miner_gpu_power_watts", "miner_gpu_hashes_per_joule")
    for name in (*names, *more):
        print(f"  {name} {now.get(name, 'is missing')}")


def through_node(options: Options, bare: float) -> None:
    """The service with a development node."""
    with tempfile.TemporaryDirectory() as folder:
        port, base = free_port(socket.SOCK_DGRAM), Path(folder)
        node = ("--quic", "--listen", str(port), "--base-path", folder, "--difficulty", str(int(3 * bare) or 1))
        with running("node", ("dev-node", *node)):
            files = base / "chains" / "dev"
            wait(lambda: all((files / name).exists() for name in ("miner-auth-token", "miner-tls-cert-sha256")))
            source = (
                f"--node-addr=127.0.0.1:{port}",
                f"--auth-token-file={files}/miner-auth-token",
                f"--tls-cert-sha256-file={files}/miner-tls-cert-sha256",
            )
            with mining(options, base / "state", source, bare) as service:
                through(options, service, bare)


def through_pool(options: Options, bare: float) -> None:
    """The service with a development pool, and then the soak: memory, until the time is up."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port(socket.SOCK_STREAM)
        difficulties = ("--share-difficulty", str(int(bare) or 1), "--difficulty", str(int(12 * bare) or 1))
        with running("pool", ("dev-pool", "--listen", str(port), *difficulties)):
            source = (f"--pool=stratum+tcp://127.0.0.1:{port}", "--wallet", DEV_WALLET)
            with mining(options, Path(folder), source, bare) as service:
                through(options, service, bare)
                soak(options, service)


def soak(options: Options, service: Service) -> None:
    """Prints memory and rate every ten seconds."""
    began = time.monotonic()
    while True:
        rate, _ = service.rate(max(1.0, min(10.0, options.until - time.monotonic())))
        lines = f"{resident_mb(service.process.pid):.1f} MB resident, {rate / 1e6:.3f} MH/s"
        print(f"  soak, {time.monotonic() - began:4.0f} s: {lines}", flush=True)
        if time.monotonic() >= options.until:
            return


def run(report: Report, options: Options) -> None:
    """All parts."""
    device, rate = options.device, 0.0
    driver = drivers.load(options.engine.removeprefix("gpu-"))
    with tempfile.TemporaryDirectory() as folder:
        opened: list[gpu_switch.WatchedLauncher] = []

        def open_device() -> gpu_switch.WatchedLauncher:
            opened.append(gpu_switch.WatchedLauncher(driver.open_device(device, Path(folder))))
            return opened[-1]

        engine = GpuEngine(
            options.engine, device, open_device, language=options.engine.removeprefix("gpu-"), blocks=tuning.BLOCKS
        )
        with report.part("self test and golden vectors"):
            began = time.perf_counter()
            engine.open()
            print(f"{device.name}, {opened[-1].multiprocessors} multiprocessors, PCI {device.pci or '?'}")
            print(f"driver {device.driver}; compiled, loaded and tested in {time.perf_counter() - began:.1f} s")
            golden(engine)
        with report.part("bench --tune"):
            measured: dict[int, float] = {}

            def tried(blocks: int, result: bench.BenchResult) -> None:
                measured[blocks] = result.hash_rate
                print(bench.tried(blocks, result), flush=True)

            bench.tune(engine, options.seconds / 3, tried)
            gain = measured[engine.blocks] / measured[tuning.BLOCKS]
            print(f"chosen: {engine.blocks} blocks a multiprocessor, {gain:.4f} x those of the default {tuning.BLOCKS}")
        rates: dict[Order, float] = {}
        with report.part("speed"):
            for order, runs in ((Order.WALK, options.runs), (Order.COUNTING, 3)):
                result = gpu.speed(engine, opened[-1], order, options.seconds, runs)
                rates[order] = result.rate
                if order is Order.WALK:
                    rate = result.rate
                    published(rate, result.clock, opened[-1].multiprocessors)
        with report.part("job switches, wanted p99 <= 60 ms"):
            gpu_switch.measure(engine, opened[-1], options.switches, options.seconds)
        if options.engine == "gpu-cuda":
            with report.part("a context that breaks"):
                lose_and_return(engine)
        with report.part(f"{options.nonces:,} nonces in both orders against the CPU"):
            right = [gpu.exact(engine, order, options.nonces // 2) for order in (Order.WALK, Order.COUNTING)]
            assert all(right), "more differences than expected"
        multiprocessors = opened[-1].multiprocessors
        opened[-1].close()
        if options.engine == "gpu-cuda":
            with report.part("the card's own limits"):
                try:
                    gpu.limits(engine, multiprocessors, rates, options.seconds / 3)
                except NotCountedError as error:
                    print(f"no instructions: {error}")
    with report.part("two processes on the card"):
        two_at_once(options)
    with report.part("service with a node"):
        through_node(options, rate)
    with report.part("service with a pool, and soak"):
        through_pool(options, rate)


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pack", type=Path, metavar="DIR", help="put what that machine needs into DIR, and end")
    parser.add_argument("--engine", choices=("gpu-cuda", "gpu-opencl"), default="gpu-cuda")
    parser.add_argument("--device", type=int, default=0, help="its index, as quantus-miner devices lists it")
    parser.add_argument("--minutes", type=float, default=8.0, help="that it may take")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--runs", type=int, default=10, help="of the speed")
    parser.add_argument("--nonces", type=int, default=10**9, help="that are compared with the CPU's")
    parser.add_argument("--switches", type=int, default=100)
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    if arguments.pack:
        pack(arguments.pack)
        return
    report = Report()
    with report.part("environment"):
        versions()
        say("devices")
        say("doctor", "--engine", arguments.engine, "--gpu-devices", str(arguments.device), "--port", "0")
    try:
        devices = {device.index: device for device in drivers.load(arguments.engine.removeprefix("gpu-")).devices()}
        device = devices[arguments.device]
    except DriverError as error:
        sys.exit(f"{arguments.engine} is not available: {error}")
    except KeyError:
        sys.exit(f"{arguments.engine} has no device {arguments.device}")
    options = Options(
        arguments.engine, device, arguments.seconds, arguments.runs, arguments.nonces, arguments.switches, until
    )
    run(report, options)
    took = time.monotonic() - until + 60 * arguments.minutes
    print(f"\n{took:.0f} s in all; failed: {', '.join(report.failed) or 'nothing'}")
    sys.exit(bool(report.failed))


if __name__ == "__main__":
    main()
