"""Readings of NVIDIA cards through NVML: temperature, power, clocks. There are none if NVML is not installed."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("miner.gpu")

HYSTERESIS: Final = 3
"""Degrees below the limit at which a card resumes."""
AGE_S: Final = 0.5
"""Seconds after which a card is read again on request, so that a caller once a second always gets new readings."""
FRESH_S: Final = 3.0
"""Seconds after which readings are too old to show. A card that was not requested for this long is no longer read."""
DEADLINE_S: Final = 0.3
"""Seconds that a thermostat waits for the temperature."""
OPEN_S: Final = 10.0
"""Seconds that NVML may take to start. It is slow while no other program uses the cards."""
LOOK_S: Final = 1.0
"""Seconds between two looks at the temperature."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of one card, in degrees Celsius, watts and hertz; ratios from 0 to 1. None: not reported."""

    temperature: float | None
    power: float | None
    sm_clock: float | None
    memory_clock: float | None
    fan: float | None
    utilization: float | None


class Telemetry:
    """Reads cards by their PCI address, for as long as they are requested. Any thread may call it.

    NVML is called in a separate thread, which ends when no card is requested any more. If the driver hangs, readings
    are missing, but neither the callers nor the end of the process wait for it. ``clock``: time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml: Any = None
        self._changed = threading.Condition()
        self._asked: dict[str, float] = {}  # by card: until when it is requested
        self._last: dict[str, tuple[float, Readings | None]] = {}  # by card: when it was read, and the readings
        self._busy_since: float | None = None  # when the present call of NVML began
        self._warned = False
        self._thread: threading.Thread | None = None

    def temperature(self, pci: str | None, wait_s: float = DEADLINE_S) -> float | None:
        """Return the temperature in degrees Celsius, or None if the card does not report it in time."""
        readings = self.read(pci, wait_s)
        return None if readings is None else readings.temperature

    def read(self, pci: str | None, wait_s: float = 0.0) -> Readings | None:
        """Return the last readings of the card, or None if NVML does not know it or they are older than FRESH_S.

        Waits up to ``wait_s`` seconds for them, unless the present call of NVML has taken that long already.
        """
        if pci is None:
            return None
        with self._changed:
            if self._thread is None:
                self._busy_since = self._clock()
                self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
                self._thread.start()
            self._asked[pci] = max(self._asked.get(pci, 0.0), self._clock() + max(FRESH_S, wait_s))
            self._changed.notify_all()
            if not self._fresh(pci) and self._busy_s() < wait_s:
                self._changed.wait_for(lambda: self._fresh(pci), wait_s)
            readings = self._last[pci][1] if self._fresh(pci) else None
            busy_s = self._busy_s()
            warn = not self._warned and busy_s >= (wait_s or FRESH_S)
            self._warned |= warn
        if warn:
            log.warning("NVML has not answered for %.1f s; GPU readings are missing until it does", busy_s)
        return readings

    def _fresh(self, pci: str) -> bool:
        return pci in self._last and self._clock() - self._last[pci][0] <= FRESH_S

    def _busy_s(self) -> float:
        return 0.0 if self._busy_since is None else self._clock() - self._busy_since

    # --- NVML's thread ---

    def _run(self) -> None:
        if self._nvml is None:
            self._open()
        while (pci := self._next()) is not None:
            try:
                readings = self._readings(pci)
            except Exception:
                log.exception("Reading a GPU has failed")
                readings = None
            with self._changed:
                now = self._clock()
                self._last[pci] = now, readings
                self._asked[pci] = min(self._asked[pci], now + FRESH_S)

    def _open(self) -> None:
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            self._nvml = pynvml
        except pynvml.NVMLError as error:
            log.debug("No readings of GPUs: %s", error)

    def _next(self) -> str | None:
        """Wait for a card that has to be read. Return it, or None if nobody has asked for any lately."""
        with self._changed:
            self._busy_since, self._warned = None, False
            self._changed.notify_all()
            while True:
                now = self._clock()
                self._asked = {pci: until for pci, until in self._asked.items() if now < until}
                self._last = {pci: read for pci, read in self._last.items() if pci in self._asked}
                if not self._asked:
                    self._thread = None
                    return None
                for pci in self._asked:
                    if pci not in self._last or now - self._last[pci][0] >= AGE_S:
                        self._busy_since = now
                        return pci
                self._changed.wait(FRESH_S)

    def _temperature(self, pci: str | None) -> float | None:
        return self._number(pci, lambda nvml, card: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU))

    def _readings(self, pci: str | None) -> Readings | None:
        if self._read(pci, lambda _, card: card) is None:
            return None

        return Readings(
            temperature=self._temperature(pci),
            power=self._number(pci, lambda nvml, card: nvml.nvmlDeviceGetPowerUsage(card) / 1e3),
            sm_clock=self._number(pci, lambda nvml, card: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM) * 1e6),
            memory_clock=self._number(
                pci, lambda nvml, card: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_MEM) * 1e6
            ),
            fan=self._number(pci, lambda nvml, card: nvml.nvmlDeviceGetFanSpeed(card) / 1e2),
            utilization=self._number(pci, lambda nvml, card: nvml.nvmlDeviceGetUtilizationRates(card).gpu / 1e2),
        )

    def _number(self, pci: str | None, get: Callable[[Any, Any], float]) -> float | None:
        value = self._read(pci, get)
        return None if value is None else float(value)

    def _read(self, pci: str | None, get: Callable[[Any, Any], Any]) -> Any:  # noqa: ANN401 - NVML has no types
        if self._nvml is None or pci is None:
            return None
        try:
            return get(self._nvml, self._nvml.nvmlDeviceGetHandleByPciBusId(pci.encode()))
        except self._nvml.NVMLError:  # NVML does not know this card or this value
            return None


class Thermostat:
    """Tells if a card is too hot: from ``limit`` degrees Celsius until it is HYSTERESIS cooler. Reads every LOOK_S."""

    def __init__(
        self, name: str, limit: float, read: Callable[[], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._limit = limit
        self._read = read
        self._clock = clock
        self._next_look = 0.0
        self._hot = False

    def too_hot(self) -> bool:
        """Return True if the card should pause. A card that reports no temperature continues: it protects itself."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            degrees = self._read()
            if degrees is None:
                hot = False
            else:
                hot = degrees > self._limit - HYSTERESIS if self._hot else degrees >= self._limit
            if hot != self._hot:
                self._hot = hot
                log.warning("%s: %s at %s degrees", self._name, "pausing" if hot else "resuming", degrees)
        return self._hot
