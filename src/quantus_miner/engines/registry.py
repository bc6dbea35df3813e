"""Makes engines by name, tested on known vectors before they are given work."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from quantus_miner.engines.autotune import fastest_kernels
from quantus_miner.engines.cpu import CpuEngine, baseline_kernels, fast_kernels
from quantus_miner.engines.gpu import GpuEngine
from quantus_miner.engines.selftest import self_test
from quantus_miner.engines.throttled import ThrottledEngine
from quantus_miner.errors import DeviceLostError, DevicePausedError, EngineUnavailableError, SettingError
from quantus_miner.gpu import drivers, tuning
from quantus_miner.gpu.device import DriverError
from quantus_miner.gpu.telemetry import OPEN_S, Telemetry, Thermostat

if TYPE_CHECKING:
    from collections.abc import Collection

    from quantus_miner.engines.base import Engine
    from quantus_miner.gpu.device import Device
    from quantus_miner.settings import Settings


def create_engines(settings: Settings, workers: int) -> list[Engine]:
    """The engines that ``settings.engine`` names; the CPU engines share ``workers`` threads evenly.

    Of a GPU engine there is one for each device; those that cannot be used now have a ``fault``. Raises
    EngineUnavailableError where one cannot run here, a CPU engine fails its self test, or all engines have a fault;
    SettingError where there are more CPU engines than workers or a kernel or a device is unknown.
    """
    names = settings.engine
    cpu_names = [name for name in names if name.startswith("cpu-")]
    if len(cpu_names) > workers:
        raise SettingError(f"--engine: {len(cpu_names)} CPU engines need {len(cpu_names)} workers, there are {workers}")
    shares = {name: len(range(turn, workers, len(cpu_names))) for turn, name in enumerate(cpu_names)}
    engines: list[Engine] = []
    devices: list[Device] = []
    for name in names:
        if name in shares:
            engines.append(_create(name, settings, shares[name]))
        else:
            try:
                chosen = _choose_devices(name, settings.gpu_devices, [device.pci for device in devices])
            except DriverError as error:
                raise _unavailable(name, str(error)) from None
            engines += [_gpu_engine(name, settings, device) for device in chosen]
            devices += chosen
    known = {"all", *(str(device.index) for device in devices), *(device.pci for device in devices)}
    if len(cpu_names) < len(names) and (unknown := [name for name in settings.gpu_devices if name not in known]):
        raise SettingError(f"--gpu-devices: there is no device {unknown[0]}; name one that quantus-miner devices lists")
    faults = [(engine.name, engine.fault) for engine in engines if engine.fault is not None]
    if len(faults) == len(engines):
        raise _unavailable(*faults[0])
    return engines


def _unavailable(name: str, reason: str) -> EngineUnavailableError:
    return EngineUnavailableError(f"engine '{name}' is not available: {reason}; use cpu-fast or cpu-baseline")


def unavailable_reason(name: str) -> str | None:
    """Why the engine called ``name`` cannot run on this machine; None where it can."""
    if not name.startswith("gpu-"):
        return None
    try:
        _choose_devices(name, ("all",), ())
    except DriverError as error:
        return str(error)
    return None


def _choose_devices(name: str, wanted: tuple[str, ...], taken: Collection[str | None]) -> list[Device]:
    """Those of ``wanted`` that no engine has ``taken``, one at least, or DriverError. All: those that are no CPUs."""
    devices = drivers.load(name).devices()
    if wanted == ("all",):
        chosen = [device for device in devices if device.kind != "cpu"]
        missing = "its drivers know no GPU"
    else:
        chosen = [device for device in devices if str(device.index) in wanted or device.pci in wanted]
        missing = f"it has no device {', '.join(wanted)}"
    chosen = [device for device in chosen if device.pci is None or device.pci not in taken]
    if not chosen:
        raise DriverError(missing)
    return chosen


def _gpu_engine(name: str, settings: Settings, device: Device) -> GpuEngine:
    thermostat = None
    if settings.gpu_temp_limit is not None:
        read = partial(Telemetry(OPEN_S).temperature, device.pci)
        if read() is None:
            raise SettingError(f"--gpu-temp-limit: {device}, does not say how hot it is; leave the limit unset")
        thermostat = Thermostat(f"Engine {name}, {device}", settings.gpu_temp_limit, read)
    engine = GpuEngine(
        name,
        device,
        partial(drivers.load(name).open_device, device, settings.state_dir / "gpu"),
        blocks=tuning.load(settings.state_dir, name, device),
        duty=settings.gpu_duty,
        thermostat=thermostat,
    )
    with suppress(DeviceLostError, DevicePausedError):  # the first is the engine's fault from then on
        engine.open()
    return engine


def _create(name: str, settings: Settings, workers: int) -> Engine:
    if name == "cpu-baseline":
        return _tested(CpuEngine(name, workers, baseline_kernels()))
    if settings.kernel is None:
        kernels = fastest_kernels(settings.state_dir / "kernels.json")
    else:
        kernels = fast_kernels(settings.kernel)
    fast = _tested(CpuEngine(name, workers, kernels))
    if name == "cpu-fast":
        return fast
    return ThrottledEngine(
        name,
        fast,
        solved_blocks=settings.manip_solved_blocks,
        base_delay_ns=settings.manip_base_delay_ns,
        step_batch=settings.manip_step_batch,
        throttle_cap=settings.manip_throttle_cap,
        state_file=settings.state_dir / "solved-blocks",
    )


def _tested(engine: CpuEngine) -> CpuEngine:
    self_test(engine)
    return engine
