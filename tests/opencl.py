"""OpenCL on the CPU for the tests: which of the implementations on this machine builds a kernel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

SYSTEM: Final = Path("/etc/OpenCL/vendors")
OCLGRIND: Final = Path("/usr/lib/oclgrind/liboclgrind-rt-icd.so")
MISSING: Final = (
    "no OpenCL implementation for the CPU on this machine builds a kernel; on Debian and Ubuntu: "
    "apt install pocl-opencl-icd; on Fedora: dnf install pocl; on Alpine: apk add pocl"
)
TRY: Final = """
import pyopencl as cl

devices = [device for platform in cl.get_platforms() for device in platform.get_devices()]
device = next(device for device in devices if device.type & cl.device_type.CPU)
cl.Program(cl.Context([device]), "kernel void one(global int *out) { *out = 1; }").build()
"""
"""Builds on the first CPU device, which is what the tests take. One older than the processor may crash here."""


def choose_vendors() -> bool:
    """Set ``OCL_ICD_VENDORS`` so that the first CPU device builds kernels; return whether there is one that does.

    Tries what the environment says, then each installed implementation alone, then the one that comes as a wheel, which
    pyopencl lists last and always. To be called before anything imports pyopencl.
    """
    if importlib.util.find_spec("pyopencl") is None:
        return False
    own = os.environ.get("OCL_ICD_VENDORS")
    for vendors in (own, *map(str, sorted(SYSTEM.glob("*.icd"))), "/nonexistent"):
        environ = os.environ if vendors is None else os.environ | {"OCL_ICD_VENDORS": vendors}
        if subprocess.run([sys.executable, "-c", TRY], capture_output=True, check=False, env=environ).returncode == 0:
            os.environ.update(environ)
            return True
    return False


def oclgrind_environment(log: Path) -> dict[str, str]:
    """Environment in which pyopencl's first device is oclgrind, which writes what it complains of to ``log``."""
    vendors = Path(tempfile.mkdtemp(dir=log.parent))
    (vendors / "oclgrind.icd").write_text(f"{OCLGRIND}\n", encoding="ascii")
    checks = ("DATA_RACES", "UNINITIALIZED", "CHECK_API")
    return (
        os.environ
        | {f"OCLGRIND_{name}": "1" for name in checks}
        | {
            "OCL_ICD_VENDORS": str(vendors),
            "OCLGRIND_LOG": str(log),
            "OCLGRIND_BUILD_OPTIONS": "-cl-opt-disable",  # it does not know what the optimiser makes of rotations
        }
    )
