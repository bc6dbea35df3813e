"""Kernel sources as programs for tests: OpenCL on the CPU, and the PTX that NVRTC makes, in an interpreter."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from quantus_miner.gpu.source import BLOCK, OPTIONS

from . import ptx


class Program(Protocol):
    """A compiled kernel source."""

    threads: int

    def run(self, name: str, words: tuple[int, ...], rest: tuple[int, ...], out: int) -> list[int]:
        """Runs a kernel on 64-bit ``words`` and 32-bit ``rest``; the ``out`` 32-bit integers that it writes."""


class OpenCl:
    """On the CPU."""

    threads = 2 * BLOCK

    def __init__(self, text: str) -> None:
        self.cl: Any = pytest.importorskip("pyopencl")
        devices = [device for platform in self.cl.get_platforms() for device in platform.get_devices()]
        device = next(device for device in devices if device.type & self.cl.device_type.CPU)
        self.context = self.cl.Context([device])
        self.queue = self.cl.CommandQueue(self.context)
        program = self.cl.Program(self.context, text).build(list(OPTIONS["opencl"]))
        self.kernels = {kernel.function_name: kernel for kernel in program.all_kernels()}

    def run(self, name: str, words: tuple[int, ...], rest: tuple[int, ...], out: int) -> list[int]:
        numpy = pytest.importorskip("numpy")
        host = numpy.zeros(out + 1, numpy.uint32)  # and one that is not to be written
        buffer = self.cl.Buffer(self.context, self.cl.mem_flags.COPY_HOST_PTR, hostbuf=host)
        arguments = [*map(numpy.uint64, words), *map(numpy.uint32, rest), buffer]
        self.kernels[name](self.queue, (self.threads if rest else BLOCK,), (BLOCK,), *arguments)
        self.cl.enqueue_copy(self.queue, host, buffer)
        assert host[out] == 0
        return [int(word) for word in host[:out]]


class Ptx:
    """What NVRTC makes for ``arch``, in an interpreter."""

    threads = 7

    def __init__(self, text: str, arch: str) -> None:
        self.kernels = ptx.kernels(compile_cuda(text, f"compute_{arch}")[0], BLOCK)

    def run(self, name: str, words: tuple[int, ...], rest: tuple[int, ...], out: int) -> list[int]:
        memory = ptx.Memory(words=[0] * out)
        for thread in range(self.threads if rest else 1):
            # The first of a block: as there are more threads than nonces, each has one at most.
            self.kernels[name](thread, 0, 1, memory, *words, *rest, memory.BUFFER)
        return memory.words


def compile_cuda(text: str, arch: str) -> tuple[str, str]:
    """PTX for compute_..., the empty string for sm_..., and the compiler's report."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC has no wheel for this platform")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("NVRTC has no wheel for this platform")

    def call(name: str, *arguments: Any) -> Any:
        error, *results = getattr(nvrtc, name)(*arguments)
        assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, name
        return results[0] if results else None

    program = call("nvrtcCreateProgram", text.encode(), b"kernel.cu", 0, [], [])
    options = [f"--gpu-architecture={arch}".encode(), *(option.encode() for option in OPTIONS["cuda"])]
    if arch.startswith("sm_"):
        options.append(b"--ptxas-options=-v")
    nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = bytes(max(2, call("nvrtcGetProgramLogSize", program)))  # one byte would be shared with the whole process
    call("nvrtcGetProgramLog", program, log)
    if arch.startswith("sm_"):
        return "", log.decode()
    assert not log.strip(b" \0"), log.decode()
    code = bytes(call("nvrtcGetPTXSize", program))
    call("nvrtcGetPTX", program, code)
    return code.decode().rstrip("\0"), log.decode()
