"""Create engines by name and test them on known vectors before they get work."""

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

    A GPU backend gives one engine for each of its devices. An engine whose device cannot be used now has a ``fault``.
    A GPU backend without a device is left out and logged. ``subscribe``: see Resources. Raises EngineUnavailableError
    if a CPU engine fails its self test or every engine has a fault, SettingError if there are more CPU engines than
    workers or the kernel is unknown.
    """
    return update_engines((), options, workers, subscribe)


def update_engines(
    engines: Sequence[Engine],
    options: EngineOptions,
    workers: int,
    subscribe: Callable[[Callable[[], None]], None] = lambda _: None,
) -> list[Engine]:
    """Return the same as create_engines, but keep each of ``engines`` that can apply the options.

    They may be searching. A device that no driver lists any more stays with its engine. If this raises, ``engines`` are
    unchanged.
    """
    update = _Update(engines, options)
    try:
        chosen = update.choose(workers)
    except BaseException:
        for engine in update.made:
            engine.close()
        raise
    for change in update.changes:
        change()
    for callback in update.callbacks:
        subscribe(callback)
    return chosen


class _Update:
    """Chooses engines once. It does not touch the present ones: ``changes`` has the functions that do."""

    def __init__(self, engines: Sequence[Engine], options: EngineOptions) -> None:
        self._present = list(engines)
        self._options = options
        self.made: list[Engine] = []
        self.changes: list[Callable[[], None]] = []
        self.callbacks: list[Callable[[], None]] = []

    def choose(self, workers: int) -> list[Engine]:
        """Return the engines. See create_engines."""
        options = self._options
        backends = [table.find(name) for name in options.engine]
        on_cpu = [backend for backend in backends if backend.kind == "cpu"]
        if len(on_cpu) > workers:
            raise SettingError(f"--engine: {len(on_cpu)} CPU engines need {len(on_cpu)} workers, there are {workers}")
        engines: list[Engine] = []
        known = {"all"}
        reasons: dict[str, str] = {}  # why an engine has no device or cannot use it
        for backend in backends:
            if backend.kind == "cpu":
                share = len(range(on_cpu.index(backend), workers, len(on_cpu)))
                engines.append(self._engine(backend, share, None))
                continue
            try:
                chosen = self._choose_devices(backend)
            except DriverError as error:
                reasons[backend.name] = str(error)
                continue
            known |= {text for device in chosen for text in (str(device.index), device.pci) if text}
            for device in chosen:
                if not any(_works(engine) and _same_card(engine, device) for engine in engines):
                    engines.append(self._engine(backend, 1, device))
        engines = _one_driver_a_card(engines)
        left_out = dict(reasons)
        for engine in engines:
            if (fault := engine.status().fault) is not None:
                reasons.setdefault(engine.name, fault)
        if all(engine in self.made and not _works(engine) for engine in engines):
            raise _unavailable(reasons)
        for name, reason in left_out.items():
            log.warning("Engine %s is left out: %s", name, reason)
        if known != {"all"}:
            for text in options.gpu_devices:
                if text not in known:
                    log.warning("--gpu-devices: there is no device %s; mining with the others", text)
        return engines

    def _engine(self, backend: Backend, workers: int, device: Device | None) -> Engine:
        """Return the present engine if it can apply the options, otherwise a new one."""
        for engine in self._present:
            if engine.name == backend.name and _same_device(engine.status().device, device):
                change = engine.adapt(self._options, workers)
                if change is not None:
                    self.changes.append(change)
                    return engine
        engine = backend.create(backend.name, self._options, Resources(workers, device, self.callbacks.append))
        self.made.append(engine)
        if device is None:
            try:
                self_test(engine)
            except EngineUnavailableError as error:
                raise EngineUnavailableError(f"{error}; use {table.BASELINE} and report this") from None
        return engine

    def _choose_devices(self, backend: Backend) -> list[Device]:
        """Return the devices of ``backend`` to use. Raises DriverError if there is none."""
        wanted = self._options.gpu_devices
        lost = [
            device
            for engine in self._present
            if engine.name == backend.name and (device := engine.status().device) and _is_wanted(device, wanted)
        ]
        try:
            found = _choose_devices(backend, wanted)
        except DriverError:
            if not lost:
                raise
            found = []
        # It is not known which of several equal devices was lost.
        keys = {_key(device) for device in found}
        return found + [device for device in lost if _key(device) not in keys]


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
    """Return the devices that ``wanted`` names, at least one. ``all`` means every device that is not a CPU.

    Raises DriverError if there is none; its text lists the devices that exist.
    """
    devices = backend.probe() if backend.probe is not None else ()
    listed = ", ".join(f"{device.index} is {device.name} ({device.kind})" for device in devices)
    chosen = [device for device in devices if _is_wanted(device, wanted)]
    if wanted == ("all",):
        missing = "its drivers list no GPU"
        if devices:
            missing += f"; to mine on a CPU through it, name its index with --gpu-devices: {listed}"
    else:
        missing = f"it has no device {', '.join(wanted)}, only: {listed}" if devices else "its drivers list no device"
    if not chosen:
        raise DriverError(missing)
    return chosen


def _is_wanted(device: Device, wanted: tuple[str, ...]) -> bool:
    """Return True if ``wanted`` names ``device``. ``all`` means every device that is not a CPU."""
    return device.kind != "cpu" if wanted == ("all",) else str(device.index) in wanted or device.pci in wanted


def _key(device: Device) -> tuple[str, str, str | None]:
    """Return a key that is the same for equal devices."""
    return device.platform, device.name, device.pci


def _same_device(one: Device | None, other: Device | None) -> bool:
    """Return True if both are the same device, whatever their index, or both are None."""
    if one is None or other is None:
        return one is other
    return (one.identity, one.id) == (other.identity, other.id)


def _same_card(engine: Engine, device: Device) -> bool:
    """Return True if ``engine`` uses the card of ``device`` through another platform.

    Devices of one platform with the same PCI address are parts of one card.
    """
    other = engine.status().device
    return other is not None and other.pci == device.pci is not None and other.platform != device.platform


def _one_driver_a_card(engines: Sequence[Engine]) -> list[Engine]:
    """Return ``engines`` without those that fail on a card that another engine can use."""
    kept: list[Engine] = []
    for engine in engines:
        device, fault = engine.status().device, engine.status().fault
        rivals = [other for other in engines if device is not None and _same_card(other, device)]
        if fault is not None and any(_works(other) or other in kept for other in rivals):
            log.warning("Engine %s leaves %s to %s: %s", engine.name, device, rivals[0].name, fault)
        else:
            kept.append(engine)
    return kept
