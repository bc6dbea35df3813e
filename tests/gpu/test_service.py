"""The service with GPU engines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from quantus_miner.model import MAX

from ..conftest import MinerProcess
from ..test_commands import run

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device


def mine(miner: MinerProcess, job_id: str, **fields: str) -> tuple[int, Any]:
    return miner.call("POST", "/mine", {"job_id": job_id, "mining_hash": "07" * 32, **fields})


def test_a_miner_with_a_gpu_and_no_cpu_engine(cpu: Device) -> None:
    flags = ("--port", "0", "--metrics-port", "0", "--engine", "gpu-opencl", "--gpu-devices", str(cpu.index))
    with MinerProcess(*flags) as miner:
        miner.wait_for_line(f"Engine gpu-opencl searches qpow-poseidon2 with kernel opencl on device {cpu.index}")
        assert not any("--workers" in line for line in miner.log)
        assert mine(miner, "a", difficulty="20000")[0] == 200
        result = miner.result("a")
        assert result["status"] == "completed"
        checked = run("verify", "--difficulty", "20000", "--header", "07" * 32, "--nonce", result["nonce"])
        assert checked.returncode == 0
        code, refusal = mine(miner, "b", distance_threshold="1", nonce_start="00" * 64, nonce_end="ff" * 64)
        assert (code, refusal["message"]) == (400, "no engine here searches qpow-sha3")
        samples = miner.metrics()
        assert samples["miner_gpu_devices", frozenset()] == samples["miner_workers", frozenset()] == 1
        labels = frozenset({("device", str(cpu.index)), ("engine", "gpu-opencl")})
        assert samples["miner_gpu_up", labels] == 1
        assert samples["miner_gpu_false_positives_total", labels] == 0
        assert samples["miner_gpu_info", labels | {("name", cpu.name)}] == 1
        assert not any(name == "miner_gpu_temperature_celsius" for name, _ in samples)
        # Stopped while it works.
        assert mine(miner, "c", difficulty=str(MAX))[0] == 200
        while not miner.metrics()["miner_gpu_hash_rate", frozenset()]:
            pass
        assert miner.stop() == 0


def test_a_gpu_that_fails_at_the_start_does_not_keep_the_service_down(cpu: Device, tmp_path: Path) -> None:
    # Compilers of drivers fail in many ways; this one gets nothing that it could compile.
    (tmp_path / "sitecustomize.py").write_text("from quantus_miner.gpu import opencl\nopencl.source = lambda _: '?'\n")
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    flags = ("--engine", "gpu-opencl,cpu-fast", "--gpu-devices", str(cpu.index), "--workers", "1")
    with MinerProcess(*flags, "--port", "0", "--metrics-port", "0", PYTHONPATH=path) as miner:
        line = miner.wait_for_line("Engine gpu-opencl cannot use device")
        assert f"device {cpu.index}, {cpu.name}, and tries again while there is work: OpenCL: " in line
        assert not any("Engine gpu-opencl searches" in line for line in miner.log)
        assert mine(miner, "a", difficulty="20000")[0] == 200
        assert miner.result("a")["status"] == "completed"
        samples = miner.metrics()
        assert samples["miner_gpu_up", frozenset({("device", str(cpu.index)), ("engine", "gpu-opencl")})] == 0
        assert samples["miner_gpu_devices", frozenset()] == 0
        assert miner.stop() == 0


def test_two_gpus_and_a_cpu_engine_share_a_job(cpu: Device) -> None:
    devices = f"{cpu.index},{cpu.index + 1}"
    flags = ("--engine", "gpu-opencl,cpu-fast", "--gpu-devices", devices, "--workers", "1", "--kernel", "scalar")
    more = ("--port", "0", "--metrics-port", "0", "--progress-chunk-ms", "20")
    with MinerProcess(*flags, *more, POCL_DEVICES="pthread pthread") as miner:
        last = 400_000
        job = {"difficulty": str(MAX), "nonce_start": f"{1:0128x}", "nonce_end": f"{last:0128x}"}
        assert mine(miner, "a", **job)[0] == 200
        result = miner.result("a")
        assert (result["status"], result["hash_count"]) == ("failed", last)
        samples = miner.metrics()
        assert samples["miner_gpu_devices", frozenset()] == 2
        by_worker = {
            (dict(labels)["engine"], dict(labels)["thread_id"]): value
            for (name, labels), value in samples.items()
            if name == "miner_thread_hashes_total"
        }
        assert by_worker.keys() == {("gpu-opencl", "0"), ("gpu-opencl", "1"), ("cpu-fast", "2")}
        assert all(by_worker.values())
        assert sum(by_worker.values()) == last
        # What the GPU cannot, the CPU does.
        assert mine(miner, "b", distance_threshold=str(MAX), nonce_start="00" * 64, nonce_end="ff" * 64)[0] == 200
        assert miner.result("b")["status"] == "completed"
        assert miner.stop() == 0
