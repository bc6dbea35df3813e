"""CUDA as far as it goes without a card: the compiler, and the calls of the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantus_miner.backends.registry import unavailable_reason
from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu.device import DriverError
from quantus_miner.gpu.source import MAX_HITS


@pytest.fixture(scope="module")
def cuda() -> Any:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings has no wheel for this platform")
    driver = pytest.importorskip("quantus_miner.gpu.cuda")
    try:
        driver.nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("NVRTC has no wheel for this platform")
    return driver


@pytest.mark.parametrize("arch", ["sm_75", "sm_120"])
def test_nvrtc_makes_a_cubin(cuda: Any, arch: str) -> None:
    cubin = cuda.compile_for(arch)
    assert cubin.startswith(b"\x7fELF")
    assert b"search_walk" in cubin
    assert b"search_counting" in cubin


@pytest.mark.parametrize("number", [900, 102])
def test_a_card_that_nvrtc_does_not_know_gets_ptx(cuda: Any, number: int) -> None:
    known = cuda.done(cuda.nvrtc.nvrtcGetSupportedArchs())
    older = f"sm_{max(other for other in known if other < number)}"
    ptx = cuda.compile_for(f"sm_{number}")
    assert f"\n.target {older}\n".encode() in ptx
    assert ptx.count(b".visible .entry search_") == 2
    assert ptx.endswith(b"\0")  # as the driver wants it


def test_what_nvrtc_says_is_one_line(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceLostError, match=r"NVRTC cannot compile for sm_1: .*invalid value for --gpu-architecture"):
        cuda.compile_for("sm_1")
    monkeypatch.setattr(cuda, "source", lambda _: "nonsense")
    with pytest.raises(DeviceLostError, match=r"NVRTC cannot compile for sm_89: .*error") as caught:
        cuda.compile_for("sm_89")
    assert "\n" not in str(caught.value)


def test_the_calls_of_the_cuda_driver(cuda: Any, tmp_path: Path) -> None:
    """Against a driver of our own, ``cuda_driver.c``, for no real one runs without a card."""
    library = tmp_path / "libcuda.so.1"
    compiler = os.environ.get("CC", "cc")
    source = Path(__file__).with_name("cuda_driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", library, "-ldl"], check=True)
    cuda.kernels_for("sm_89", tmp_path / "gpu")  # kept, for the real NVRTC does not go with that driver
    ended = subprocess.run(
        [sys.executable, "-c", DRIVE_CUDA, str(tmp_path / "gpu")],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "0 Card 0 gpu 0000:65:00.0 CUDA 12.8",
        "1 Card 1 gpu 0000:66:00.0 CUDA 12.8",
        # By its address, whatever its index is now.
        "DeviceLostError('CUDA: CUDA_ERROR_INVALID_VALUE')",
        "132 multiprocessors",
        # Offsets that the driver's kernel takes for candidates: multiples of 1000 for walks, of 7 for the others.
        "Readout(seconds=0.0015, candidates=3, offsets=[1000, 2000, 3000])",
        "Readout(seconds=0.0015, candidates=1, offsets=[4294967292])",
        f"candidates 1001, of which {MAX_HITS} are kept, the first 0",
        "DeviceLostError('CUDA: CUDA_ERROR_LAUNCH_FAILED')",
        "Readout(seconds=0.0015, candidates=1, offsets=[0])",
    ]


DRIVE_CUDA = """
import sys, threading
from dataclasses import replace
from pathlib import Path
from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import cuda
from quantus_miner.model import Order

words, folder = tuple(2**64 - 1 - i for i in range(14)), Path(sys.argv[1])
devices = cuda.devices()
for device in devices:
    print(device.index, device.name, device.kind, device.pci, device.driver)
try:
    cuda.open_device(replace(devices[1], pci="0000:67:00.0"), folder)
except DeviceLostError as error:
    print(repr(error))
launcher = cuda.open_device(replace(devices[1], index=0), folder)
print(launcher.multiprocessors, "multiprocessors")
launcher.launch(Order.WALK, words, 2**64 - 100, 1, 3000, 5)
launcher.launch(Order.COUNTING, words, 2**64 - 100, 2**32 - 10, 10, 1)
# In another thread than the one that opened it.
thread = threading.Thread(target=lambda: print(launcher.collect(), launcher.collect(), sep="\\n"))
thread.start()
thread.join()
launcher.launch(Order.WALK, words, 2**64 - 100, 0, 1000001, 2**20)
_, candidates, offsets = launcher.collect()
print(f"candidates {candidates}, of which {len(offsets)} are kept, the first {offsets[0]}")
try:
    launcher.launch(Order.WALK, words, 2**64 - 100, 0, 666, 1)  # which the driver's card does not survive
    launcher.collect()
except DeviceLostError as error:
    print(repr(error))
launcher.close()
launcher = cuda.open_device(devices[1], folder)
launcher.launch(Order.WALK, words, 2**64 - 100, 0, 10, 1)
print(launcher.collect())
"""


def test_without_a_driver_cuda_says_so(cuda: Any) -> None:
    if unavailable_reason("gpu-cuda") is None:
        pytest.skip("there is a CUDA card here")
    with pytest.raises(DriverError, match="the NVIDIA driver"):
        cuda.devices()
