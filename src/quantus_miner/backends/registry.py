"""Makes engines by name, tested on known vectors before they are given work."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from quantus_miner.backends.autotune import fastest_kernels
from quantus_miner.backends.cpu import CpuEngine, baseline_kernels, fast_kernels
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.backends.selftest import self_test
from quantus_miner.backends.throttled import ThrottledEngine
from quantus_miner.errors import DeviceLostError, DevicePausedError, EngineUnavailableError, SettingError
from quantus_miner.gpu import drivers, tuning
from quantus_miner.gpu.device import DriverError
from quantus_miner.gpu.telemetry import OPEN_S, Telemetry, Thermostat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantus_miner.backends.base import Engine
    from quantus_miner.gpu.device import Device
    from quantus_miner.settings import Settings

log = logging.getLogger("miner.gpu")


def create_engines(settings: Settings, workers: int) -> list[Engine]:
    """Return the engines that ``settings.engine`` names; the CPU engines share ``workers`` threads evenly.

    A GPU engine gives one for each of its devices; a device that cannot be used now has a ``fault``. A GPU engine
    without a device is left out and logged. Raises EngineUnavailableError if a CPU engine fails its self test, or if
    no engine is without a fault; SettingError if there are more CPU engines than workers or the kernel is unknown.
    """
    names = settings.engine
    cpu_names = [name for name in names if name.startswith("cpu-")]
    if len(cpu_names) > workers:
        raise SettingError(f"--engine: {len(cpu_names)} CPU engines need {len(cpu_names)} workers, there are {workers}")
    shares = {name: len(range(turn, workers, len(cpu_names))) for turn, name in enumerate(cpu_names)}
    engines: list[Engine] = []
    known = {"all"}
    reasons: dict[str, str] = {}  # why an engine has no device, or cannot use it
    for name in names:
        if name in shares:
            engines.append(_create(name, settings, shares[name]))
            continue
        try:
            chosen = _choose_devices(name, settings.gpu_devices)
        except DriverError as error:
            reasons[name] = str(error)
            continue
        known |= {text for device in chosen for text in (str(device.index), device.pci) if text}
        for device in chosen:
            if not any(engine.fault is None and _same_card(engine, device) for engine in engines):
                engines.append(_gpu_engine(name, settings, device))
    engines = _one_driver_a_card(engines)
    left_out = dict(reasons)
    for engine in engines:
        if engine.fault is not None:
            reasons.setdefault(engine.name, engine.fault)
    if all(engine.fault is not None for engine in engines):
        raise _unavailable(reasons)
    for name, reason in left_out.items():
        log.warning("Engine %s is left out: %s", name, reason)
    if known != {"all"}:
        for text in settings.gpu_devices:
            if text not in known:
                log.warning("--gpu-devices: there is no device %s; the others mine without it", text)
    return engines


def _unavailable(reasons: Mapping[str, str]) -> EngineUnavailableError:
    said = "; ".join(f"engine '{name}' is not available: {reason}" for name, reason in reasons.items())
    return EngineUnavailableError(f"{said}; use cpu-fast or cpu-baseline")


def unavailable_reason(name: str, gpu_devices: tuple[str, ...] = ("all",)) -> str | None:
    """Return why the engine called ``name`` cannot run on this machine, or None if it can."""
    if not name.startswith("gpu-"):
        return None
    try:
        _choose_devices(name, gpu_devices)
    except DriverError as error:
        return str(error)
    return None


def _choose_devices(name: str, wanted: tuple[str, ...]) -> list[Device]:
    """Return those devices that ``wanted`` names, at least one; ``all`` are those that are not CPUs.

    Raises DriverError, which lists what there is.
    """
    devices = drivers.load(name).devices()
    listed = ", ".join(f"{device.index} is {device.name} ({device.kind})" for device in devices)
    if wanted == ("all",):
        chosen = [device for device in devices if device.kind != "cpu"]
        missing = "its drivers list no GPU"
        if devices:
            missing += f"; to mine on a CPU through it, name its index with --gpu-devices: {listed}"
    else:
        chosen = [device for device in devices if str(device.index) in wanted or device.pci in wanted]
        missing = f"it has no device {', '.join(wanted)}, only: {listed}" if devices else "its drivers list no device"
    if not chosen:
        raise DriverError(missing)
    return chosen


def _same_card(engine: Engine, device: Device) -> bool:
    """Return True if ``engine`` works with the card of ``device`` through another platform.

    Devices of one platform with the same PCI address are parts of a card.
    """
    other = engine.device
    return other is not None and other.pci == device.pci is not None and other.platform != device.platform


def _one_driver_a_card(engines: Sequence[Engine]) -> list[Engine]:
    """Return ``engines`` without those that cannot use a card which another one has."""
    kept: list[Engine] = []
    for engine in engines:
        device = engine.device
        rivals = [other for other in engines if device is not None and _same_card(other, device)]
        if engine.fault is not None and any(other.fault is None or other in kept for other in rivals):
            log.warning("Engine %s leaves %s to %s: %s", engine.name, device, rivals[0].name, engine.fault)
        else:
            kept.append(engine)
    return kept


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
