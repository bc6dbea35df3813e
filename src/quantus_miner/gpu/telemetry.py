"""What NVIDIA cards say about themselves, through NVML; nothing where that is not installed."""

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
"""Degrees below the limit at which a card goes on."""
AGE_S: Final = 0.5
"""Seconds after which a card is read again if somebody asks for it: who asks once a second gets what is new."""
FRESH_S: Final = 3.0
"""Seconds after which readings are too old to be shown. A card that nobody asks for so long is not read any more."""
DEADLINE_S: Final = 0.3
"""Seconds that a thermostat waits for the temperature."""
OPEN_S: Final = 10.0
"""Seconds that NVML may take to start if somebody waits for it: cards that nobody keeps awake are slow."""
LOOK_S: Final = 1.0
"""Between two looks at the temperature."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one card, now. Degrees Celsius, watts, hertz, 0 to 1; None: it does not say."""

    temperature: float | None
    power: float | None
    sm_clock: float | None
    memory_clock: float | None
    fan: float | None
    utilization: float | None


class Telemetry:
    """Reads cards by their PCI address, as long as somebody asks for them. Any thread may ask.

    NVML is called in a thread of its own, which ends when nobody asks any more: a driver that hangs costs its readings,
    and holds up neither those who ask nor the end of the process. ``clock``: tells how old readings are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml: Any = None
        self._changed = threading.Condition()
        self._asked: dict[str, float] = {}  # cards, and until when somebody wants to know
        self._last: dict[str, tuple[float, Readings | None]] = {}  # when, and what they said
        self._busy_since: float | None = None  # with a call of NVML
        self._warned = False
        self._thread: threading.Thread | None = None

    def temperature(self, pci: str | None, wait_s: float = DEADLINE_S) -> float | None:
        """Return degrees Celsius; None if the card does not say, or not in time."""
        readings = self.read(pci, wait_s)
        return None if readings is None else readings.temperature

    def read(self, pci: str | None, wait_s: float = 0.0) -> Readings | None:
        """Return the last readings of the card; None if NVML does not know it, or if they are older than FRESH_S.

        Waits up to ``wait_s`` seconds for them, if NVML has not kept others waiting as long already.
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
            log.warning("NVML has not answered for %.1f s: readings of GPUs are left out until it does", busy_s)
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
                log.exception("A reading of a GPU has failed")
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
        except self._nvml.NVMLError:  # not this card, or not this value
            return None


class Thermostat:
    """Says when a card is too hot: from ``limit`` degrees Celsius on, until HYSTERESIS below. Asks once in LOOK_S."""

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
        """Whether to pause. A card that no longer says how hot it is goes on: it protects itself."""
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
                log.warning("%s: %s at %s degrees", self._name, "pausing" if hot else "going on", degrees)
        return self._hot
