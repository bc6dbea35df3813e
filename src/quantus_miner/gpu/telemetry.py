"""What NVIDIA cards say about themselves, through NVML; nothing where that is not installed."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("miner.gpu")

HYSTERESIS: Final = 3
"""Degrees below the limit at which a card goes on."""
DEADLINE_S: Final = 0.3
"""Seconds that a reader waits for a reading."""
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
    """Reads cards by their PCI address. Any thread may use it.

    NVML is called in a thread of its own: a driver that hangs costs its readings, and holds up neither their readers
    nor the end of the process. ``open_s``: seconds to wait for NVML to start.
    """

    def __init__(self, open_s: float = DEADLINE_S) -> None:
        self._nvml: Any = None
        self._questions: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._late: Future[Any] | None = None  # the answer that took too long
        try:
            import pynvml
        except ImportError:
            return
        threading.Thread(target=self._answer, args=(pynvml,), name="nvml", daemon=True).start()
        self._ask(lambda: None, open_s)

    def temperature(self, pci: str | None) -> float | None:
        """Degrees Celsius; None if the card does not say, or not in time."""
        degrees: float | None = self._ask(lambda: self._temperature(pci))
        return degrees

    def read(self, pci: str | None) -> Readings | None:
        """All there is to know of the card; None if NVML does not know it, or does not answer in time."""
        readings: Readings | None = self._ask(lambda: self._readings(pci))
        return readings

    def _ask(self, question: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:  # noqa: ANN401 - NVML has no types
        """The answer of NVML's thread; None if there is none in time, and at once while an earlier one is late."""
        if self._late is not None and not self._late.done():
            return None
        answer: Future[Any] = Future()
        self._questions.put((question, answer))
        try:
            return answer.result(deadline_s)
        except TimeoutError:
            self._late = answer
            log.warning("NVML has not answered for %g s: readings of GPUs are left out until it does", deadline_s)
        except Exception:
            log.exception("A reading of a GPU has failed")
        return None

    # --- NVML's thread ---

    def _answer(self, nvml: Any) -> None:  # noqa: ANN401 - NVML has no types
        try:
            nvml.nvmlInit()
            self._nvml = nvml
        except nvml.NVMLError as error:
            log.debug("No readings of GPUs: %s", error)
        while True:
            question, answer = self._questions.get()
            try:
                answer.set_result(question())
            except Exception as error:  # the reader's
                answer.set_exception(error)

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
