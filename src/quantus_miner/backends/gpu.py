"""GPU engines, one for each device. A device tests nonces in launches, several of which are in flight."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from quantus_miner import native
from quantus_miner.backends.base import EngineStatus
from quantus_miner.backends.selftest import self_test
from quantus_miner.errors import DeviceLostError, DevicePausedError, EngineUnavailableError, SettingError
from quantus_miner.gpu import drivers, tuning
from quantus_miner.gpu.device import IN_FLIGHT
from quantus_miner.gpu.source import BLOCK, MAX_HITS
from quantus_miner.gpu.telemetry import OPEN_S, Telemetry, Thermostat
from quantus_miner.model import Job, Pow
from quantus_miner.native import Outcome
from quantus_miner.pow.order import nonce_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.backend import EngineOptions, Resources
    from quantus_miner.backends.base import Control
    from quantus_miner.gpu.device import Device, Launcher

log = logging.getLogger("miner.gpu")

LAUNCH_S: Final = 0.025
"""Seconds that a launch should take. A stop waits 0.05 s for those in flight; the host's share is still negligible."""
GROWTH: Final = 4
"""Largest factor between the sizes of two launches."""
MAX_LAUNCH: Final = 2**31
"""Nonces in a launch, at most."""
EXPECTED_HITS: Final = 64
"""Candidates in a launch on average, at most. So far below MAX_HITS that a launch practically never exceeds that."""
FALSE_POSITIVES: Final = 5
"""False positives within few candidates that set a device aside. About one candidate in 1.5 million is one."""
CANDIDATES_TO_FORGET: Final = 100
"""True candidates after which one false positive no longer counts: devices with more than 1 % of them are set aside."""
ASIDE_S: Final = (60.0, 600.0, 3600.0)
"""Seconds until a device that was set aside is tested again: after the first, the second and every later time."""


@dataclass(frozen=True, slots=True)
class _Launch:
    """A launch in flight. ``first``: offset of ``start`` in its span. ``seek``: number of the seek it belongs to."""

    seek: int
    start: int
    first: int
    count: int


class GpuEngine:
    """Searches on one device, for one thread. ``open_device`` loads the kernels, and loads them again after a loss.

    Launches that were not reported are kept between two searches. A search that continues behind the hit of the last
    one uses them. ``language``: the language of the kernels. ``duty``: percentage of the time that the device works.
    A device that reports many false positives is set aside: it counts as lost and is not opened for a while.
    """

    workers = 1

    def __init__(
        self,
        name: str,
        device: Device,
        open_device: Callable[[], Launcher],
        *,
        language: str,
        blocks: int,
        duty: int = 100,
        temp_limit: int | None = None,
        thermostat: Thermostat | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.device = device
        self.blocks = blocks
        self.fault: str | None = None
        self.false_positives = 0
        self._language = language
        self._open_device = open_device
        self._duty = duty
        self._temp_limit = temp_limit
        self._thermostat = thermostat
        self._clock = clock
        self._rest_until = 0.0
        self._suspicion = 0  # goes up with false positives, down with true candidates
        self._times_aside = 0
        self._aside_until = 0.0
        self._scalar = native.find_kernel(Pow.POSEIDON2, "scalar")
        self._launcher: Launcher | None = None
        self._in_flight: deque[_Launch] = deque()  # including those of an earlier seek
        self._size = 0  # nonces of the next launch
        self._seeks = 0
        self._job: Job | None = None
        # Everything before _position was reported, before _read collected, and before _launched launched.
        self._position = self._read = self._launched = 0
        self._hits: list[int] = []  # valid positions from _position to before _read

    def status(self) -> EngineStatus:
        """See Engine.status."""
        return EngineStatus(self.device, self.fault, self.false_positives)

    def kernel(self, pow: Pow) -> str | None:  # noqa: A002 - the field's word
        """Return the language and the device, or None for qpow-sha3."""
        if pow is Pow.SHA3:
            return None
        return f"{self._language} on {self.device}"

    def open(self) -> Launcher:
        """Load the kernels and test them.

        Raises DeviceLostError if that fails or the device is set aside, and DevicePausedError if it is too hot.
        """
        if self._clock() < self._aside_until:
            raise DeviceLostError(self.fault or "set aside")
        self._suspicion = 0
        try:
            self._launcher = launcher = self._open_device()
            self._in_flight.clear()
            self._job = None
            self._size = self.blocks * launcher.multiprocessors * BLOCK
            self_test(self)
        except DevicePausedError:
            self.close()
            raise
        except DeviceLostError as error:
            self._lose(error)
            raise
        except EngineUnavailableError:
            failed = DeviceLostError("its kernel fails the self test")
            self._lose(failed)
            raise failed from None
        self.fault = None
        return launcher

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        """See Engine.search. After a stop, it collects the launches of this job in flight, which take 0.05 s in all."""
        try:
            return self._search(self._launcher or self.open(), job, start, start + count, control)
        except DeviceLostError as error:
            self._lose(error)
            raise

    def adapt(self, options: EngineOptions, _: int) -> Callable[[], None] | None:
        """See Engine.adapt."""
        limit, thermostat = options.gpu_temp_limit, self._thermostat
        if limit != self._temp_limit:
            thermostat = _thermostat(self.name, self.device, limit)

        def change() -> None:
            self._duty, self._temp_limit, self._thermostat = options.gpu_duty, limit, thermostat

        return change

    def close(self) -> None:
        """Release the device. The next search opens it again."""
        if self._launcher is not None:
            self._launcher.close()
        self._launcher = None

    def _search(self, launcher: Launcher, job: Job, start: int, end: int, control: Control) -> Outcome:
        prepared = native.prepare(job)
        if job != self._job or start != self._position:
            self._job, self._position, self._hits = job, start, []
            self._seek(start)
        while True:
            known = min(self._read, end)
            hit = self._hits.pop(0) if self._hits and self._hits[0] < known else None
            reported = known if hit is None else hit + 1
            control.count(reported - self._position)
            self._position = reported
            if hit is not None:
                return Outcome(reported - start, nonce_at(job.order, hit))
            working = any(launch.seek == self._seeks for launch in self._in_flight)
            if known == end or (control.stopped and not working):
                return Outcome(reported - start, None)
            thermostat = self._thermostat  # which another thread may change
            hot = thermostat is not None and thermostat.too_hot()
            if hot and not working:
                raise DevicePausedError("too hot")
            if not hot and not control.stopped and not self._rests(control):
                self._fill(launcher, prepared, end)
            if self._in_flight:
                self._collect(launcher, job, prepared)

    def _seek(self, position: int) -> None:
        """Continue launching at ``position`` and discard the launches in flight."""
        self._seeks += 1
        self._read = self._launched = position

    def _rests(self, control: Control) -> bool:
        """Sleep for as long as ``duty`` asks before the next launch. Return True if the sleep was cut short."""
        left = self._rest_until - self._clock()
        return left > 0 and not self._in_flight and control.sleep(left)

    def _fill(self, launcher: Launcher, prepared: native.NativeJob, end: int) -> None:
        """Launch, in order of position and not beyond ``end``, until the maximum is in flight."""
        while len(self._in_flight) < (IN_FLIGHT if self._duty == 100 else 1) and self._launched < end:
            span = native.span(prepared, self._launched)
            left = min(end - self._launched, 2 ** native.SPAN_BITS[prepared.order] - span.offset)
            count = min(self._size, left, EXPECTED_HITS * 2**64 // (span.top_target + 1))
            blocks = min(-(-count // BLOCK), self.blocks * launcher.multiprocessors)
            launcher.launch(prepared.order, span.words, span.top_target, span.offset, count, blocks)
            self._in_flight.append(_Launch(self._seeks, self._launched, span.offset, count))
            self._launched += count

    def _collect(self, launcher: Launcher, job: Job, prepared: native.NativeJob) -> None:
        """Wait for the oldest launch and keep what it found."""
        launch = self._in_flight.popleft()
        seconds, candidates, offsets = launcher.collect()
        if self._duty < 100:
            self._rest_until = self._clock() + seconds * (100 / self._duty - 1)
        if launch.seek != self._seeks:
            return
        if candidates > launch.count:
            raise self._set_aside(f"it reported {candidates} candidates among {launch.count} nonces")
        if candidates > MAX_HITS:
            # Repeat the launch in two halves.
            self._size = launch.count // 2
            self._seek(launch.start)
            return
        self._adapt(launch.count, seconds)
        self._read = launch.start + launch.count
        for offset in sorted(set(offsets)):
            position = launch.start - launch.first + offset
            if not launch.start <= position < self._read:
                self._on_false_positive(f"position {position:x}, which is not of its launch")
            elif self._is_valid(job, prepared, position):
                self._hits.append(position)

    def _adapt(self, count: int, seconds: float) -> None:
        """Set the size of the next launches from the time that one took. One that was cut short says little."""
        if 2 * count > self._size:
            wanted = int(count * LAUNCH_S / max(seconds, 1e-6))
            self._size = max(BLOCK, min(wanted, GROWTH * self._size, MAX_LAUNCH))

    def _is_valid(self, job: Job, prepared: native.NativeJob, position: int) -> bool:
        """Check a candidate with a kernel of the CPU. Return True if its nonce is valid. Raises DeviceLostError."""
        valid = self._meets(prepared, position)
        if not valid and (nonce := nonce_at(job.order, position)) != 0:  # 0 is never valid
            # The device compares the first 64 bits of hash and target.
            rounded = native.prepare(replace(job, target=job.target | (1 << 448) - 1))
            if not self._meets(rounded, position):
                self._on_false_positive(f"nonce {nonce:x} for job {job.id!r}")
                return False
        self._suspicion = max(0, self._suspicion - 1)
        return valid

    def _meets(self, prepared: native.NativeJob, position: int) -> bool:
        return native.search(self._scalar, prepared, position, 1, native.NativeControl()).nonce is not None

    def _on_false_positive(self, candidate: str) -> None:
        """Count a false positive. Raises DeviceLostError if there are too many: the device is then set aside."""
        if not self.false_positives:
            log.warning(
                "Engine %s (%s) reported a false positive: %s",
                self.name,
                self.kernel(Pow.POSEIDON2),
                candidate,
                extra={"device": self.device.id},
            )
        self.false_positives += 1
        self._suspicion += CANDIDATES_TO_FORGET
        if self._suspicion > (FALSE_POSITIVES - 1) * CANDIDATES_TO_FORGET:
            raise self._set_aside(f"it reported {FALSE_POSITIVES} false positives within few candidates")

    def _set_aside(self, reason: str) -> DeviceLostError:
        """Prevent the device from being opened for a while. Return the error to raise."""
        seconds = ASIDE_S[min(self._times_aside, len(ASIDE_S) - 1)]
        self._times_aside += 1
        self._aside_until = self._clock() + seconds
        return DeviceLostError(f"{reason}: its clocks may be too high; it is tested again after {seconds:.0f} s")

    def _lose(self, error: DeviceLostError) -> None:
        self.fault = str(error)
        self.close()


def _thermostat(name: str, device: Device, limit: int | None) -> Thermostat | None:
    """Return the thermostat of ``device``. Raises SettingError if the device does not report its temperature."""
    if limit is None:
        return None
    read = partial(Telemetry().temperature, device.pci)
    if read(OPEN_S) is None:
        raise SettingError(f"--gpu-temp-limit: {device}, does not report its temperature; leave the limit unset")
    return Thermostat(f"Engine {name}, {device}", limit, read)


def create(language: str, name: str, options: EngineOptions, resources: Resources) -> GpuEngine:
    """Return an engine for the device of ``resources``. It has a ``fault`` if it cannot be used now. See Backend."""
    device = resources.device
    if device is None:
        raise ValueError(f"{name} needs a device")
    engine = GpuEngine(
        name,
        device,
        partial(drivers.load(language).open_device, device, options.state_dir / "gpu"),
        language=language,
        blocks=tuning.load(options.state_dir, name, device),
        duty=options.gpu_duty,
        temp_limit=options.gpu_temp_limit,
        thermostat=_thermostat(name, device, options.gpu_temp_limit),
    )
    with suppress(DeviceLostError, DevicePausedError):  # a DeviceLostError becomes the engine's fault
        engine.open()
    return engine
