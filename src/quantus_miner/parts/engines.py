"""The miner's engines and workers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from quantus_miner.backends import table
from quantus_miner.backends.backend import EngineOptions
from quantus_miner.backends.registry import create_engines, update_engines
from quantus_miner.host import cpus, topology
from quantus_miner.host.deadline import in_thread
from quantus_miner.model import Pow
from quantus_miner.parts.part import MinerPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from quantus_miner.backends.base import Engine
    from quantus_miner.host.cpus import EffectiveCpus
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

CLOSE_S: Final = 3.0
"""Seconds that workers may take to end their slices. It takes milliseconds, but on an overloaded machine they wait that
long for a CPU, and the nonces of a slice that is not handed back are searched again after the next start."""


class Engines(MinerPart):
    """The engines and the miner's workers, which belong to them."""

    name = "The miner"
    vital = True
    settings = frozenset(field.name for field in fields(EngineOptions)) - {"state_dir"} | {
        "workers",
        "progress_chunk_ms",
    }
    stop_s = CLOSE_S + 0.1

    async def start(self, settings: Settings) -> None:  # noqa: ARG002 - the engines are made from them already
        """Start the workers."""
        self.components.miner.start()

    def tick(self) -> None:
        """Check that the workers advance."""
        self.components.miner.tick()

    async def apply(self, old: Settings, new: Settings) -> None:
        """Make or change engines as needed; workers of engines that stay continue.

        Making an engine may take minutes. Raises MinerError if an engine cannot run.
        """
        components = self.components
        if any(getattr(old, name) != getattr(new, name) for name in self.settings - {"progress_chunk_ms"}):
            effective, workers = count_workers(new)
            engines = await in_thread(
                lambda: update_engines(components.engines, new, workers, components.on_job_solved.append)
            )
            components.miner.set_engines(engines, affinity=affinity(workers, effective))
            new_ones = [engine for engine in engines if engine not in components.engines]
            components.engines, components.monitor.effective_cpus = engines, effective.count
            tell_engines(engines, new_ones)
        components.miner.chunk_s = new.progress_chunk_ms / 1000

    async def stop(self) -> None:
        """Stop the workers. Meanwhile the event loop continues to answer requests."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_S
        while not self.components.miner.close(0.0):
            if loop.time() >= deadline:
                log.warning("Some workers did not stop in time")
                return
            await asyncio.sleep(0.005)


def make_engines(settings: Settings, workers: int, subscribe: Callable[[Callable[[], None]], None]) -> list[Engine]:
    """Create the first engines, log them, and return them. Raises MinerError if they cannot be made."""
    engines = create_engines(settings, workers, subscribe)
    tell_engines(engines, engines)
    return engines


def count_workers(settings: Settings) -> tuple[EffectiveCpus, int]:
    """Return the CPUs that this process can really use, and the number of CPU workers. The log says why."""
    effective = detect_cpus()
    if all(table.find(name).kind != "cpu" for name in settings.engine):
        return effective, 0
    workers = choose_workers(settings.workers, effective)
    log.info("Using %d worker thread(s) for mining (effective logical CPUs available: %d)", workers, effective.count)
    return effective, workers


def affinity(workers: int, effective: EffectiveCpus) -> list[frozenset[int]]:
    """Return the CPUs that each worker keeps to. An empty list means any."""
    found = topology.affinity(workers, effective.cpus)
    log.debug("Workers keep to CPUs: %s", [sorted(cpus) for cpus in found] or "any")
    return found


def tell_engines(engines: Sequence[Engine], new: Iterable[Engine]) -> None:
    """Log the names of the engines, and the kernels or the fault of the ``new`` ones."""
    log.info("Using engine: %s", ", ".join(dict.fromkeys(engine.name for engine in engines)))
    for engine in new:
        status = engine.status()
        if status.fault is not None:
            log.error(
                "Engine %s cannot use %s, and tries again while there is work: %s",
                engine.name,
                status.device,
                status.fault,
            )
            continue
        for pow_ in Pow:
            if kernel := engine.kernel(pow_):
                log.info("Engine %s searches %s with kernel %s", engine.name, pow_, kernel)


def detect_cpus() -> EffectiveCpus:
    """Return the CPUs that this process can really use, and log how they were found."""
    effective = cpus.detect()
    for warning in effective.warnings:
        log.warning("%s", warning)
    if effective.mask is None:
        log.debug("No cpuset mask detected; using full logical CPU count")
    else:
        log.debug("Detected cpuset mask: %s", effective.mask)
    if effective.quota is not None:
        log.debug("Detected CPU quota: %g CPUs", effective.quota)
    return effective


def choose_workers(requested: int | None, effective: EffectiveCpus) -> int:
    """Return ``requested`` if there are enough CPUs, otherwise a sensible number of CPU workers. The log says why."""
    available = effective.count
    if requested is not None and requested > available:
        log.warning(
            "Requested %d workers exceeds available logical CPUs in cpuset (%d). Clamping to %d.",
            requested,
            available,
            available,
        )
        return available
    if requested:
        return requested
    workers = cpus.default_workers(available)
    if requested is None:
        log.info(
            "No --workers specified. Defaulting to %d (leaving ~%d for other processes) based on effective %d logical "
            "CPUs.",
            workers,
            available - workers,
            available,
        )
    else:
        log.warning("--workers must be at least 1, got %d; using %d.", requested, workers)
    return workers
