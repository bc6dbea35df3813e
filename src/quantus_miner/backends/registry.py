"""Creates engines by name, and tests them on known vectors before they are given work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from quantus_miner.backends import table
from quantus_miner.backends.backend import Resources
from quantus_miner.backends.selftest import self_test
from quantus_miner.errors import EngineUnavailableError, SettingError
from quantus_miner.gpu.device import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantus_miner.backends.backend import Backend, EngineOptions
    from quantus_miner.backends.base import Engine
    from quantus_miner.gpu.device import Device

log = logging.getLogger("miner.gpu")


def create_engines(
    options: EngineOptions,
    workers: int,
    subscribe: Callable[[Callable[[], None]], None] = lambda _: None,
) -> list[Engine]:
    """Return the engines that ``options.engine`` names; the CPU engines share ``workers`` threads evenly.

    A GPU engine gives one for each of its devices; a device that cannot be used now has a ``fault``. A GPU engine
    without a device is left out and logged. ``subscribe``: see Resources. Raises EngineUnavailableError if a CPU
    engine fails its self test, or if no engine is without a fault; SettingError if there are more CPU engines than
    workers or the kernel is unknown.
    """
    backends = [table.find(name) for name in options.engine]
    on_cpu = [backend for backend in backends if backend.kind == "cpu"]
    if len(on_cpu) > workers:
        raise SettingError(f"--engine: {len(on_cpu)} CPU engines need {len(on_cpu)} workers, there are {workers}")
    engines: list[Engine] = []
    known = {"all"}
    reasons: dict[str, str] = {}  # why an engine has no device, or cannot use it
    for backend in backends:
        if backend.kind == "cpu":
            share = len(range(on_cpu.index(backend), workers, len(on_cpu)))
            engines.append(_cpu_engine(backend, options, Resources(share, None, subscribe)))
            continue
        try:
            chosen = _choose_devices(backend, options.gpu_devices)
        except DriverError as error:
            reasons[backend.name] = str(error)
            continue
        known |= {text for device in chosen for text in (str(device.index), device.pci) if text}
        for device in chosen:
            if not any(_works(engine) and _same_card(engine, device) for engine in engines):
                engines.append(backend.create(backend.name, options, Resources(1, device, subscribe)))
    engines = _one_driver_a_card(engines)
    left_out = dict(reasons)
    for engine in engines:
        if (fault := engine.status().fault) is not None:
            reasons.setdefault(engine.name, fault)
    if not any(_works(engine) for engine in engines):
        raise _unavailable(reasons)
    for name, reason in left_out.items():
        log.warning("Engine %s is left out: %s", name, reason)
    if known != {"all"}:
        for text in options.gpu_devices:
            if text not in known:
                log.warning("--gpu-devices: there is no device %s; the others mine without it", text)
    return engines


def _cpu_engine(backend: Backend, options: EngineOptions, resources: Resources) -> Engine:
    engine = backend.create(backend.name, options, resources)
    try:
        self_test(engine)
    except EngineUnavailableError as error:
        raise EngineUnavailableError(f"{error}; use {table.BASELINE} and report this") from None
    return engine


def _works(engine: Engine) -> bool:
    return engine.status().fault is None


def _unavailable(reasons: Mapping[str, str]) -> EngineUnavailableError:
    said = "; ".join(f"engine '{name}' is not available: {reason}" for name, reason in reasons.items())
    return EngineUnavailableError(f"{said}; use {table.FAST} or {table.BASELINE}")


def unavailable_reason(name: str, gpu_devices: tuple[str, ...] = ("all",)) -> str | None:
    """Return why the engine called ``name`` cannot run on this machine, or None if it can."""
    backend = table.find(name)
    if backend.probe is None:
        return None
    try:
        _choose_devices(backend, gpu_devices)
    except DriverError as error:
        return str(error)
    return None


def _choose_devices(backend: Backend, wanted: tuple[str, ...]) -> list[Device]:
    """Return those devices that ``wanted`` names, at least one; ``all`` are those that are not CPUs.

    Raises DriverError, which lists what there is.
    """
    devices = backend.probe() if backend.probe is not None else ()
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
    other = engine.status().device
    return other is not None and other.pci == device.pci is not None and other.platform != device.platform


def _one_driver_a_card(engines: Sequence[Engine]) -> list[Engine]:
    """Return ``engines`` without those that cannot use a card which another one has."""
    kept: list[Engine] = []
    for engine in engines:
        device, fault = engine.status().device, engine.status().fault
        rivals = [other for other in engines if device is not None and _same_card(other, device)]
        if fault is not None and any(_works(other) or other in kept for other in rivals):
            log.warning("Engine %s leaves %s to %s: %s", engine.name, device, rivals[0].name, fault)
        else:
            kept.append(engine)
    return kept
