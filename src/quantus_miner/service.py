"""The service: builds the parts from the settings, runs them until a signal, shuts down in order."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from quantus_miner import logs, metrics, server
from quantus_miner.engines import create_engines
from quantus_miner.errors import LinkRefusedError
from quantus_miner.gpu.telemetry import Telemetry
from quantus_miner.heartbeat import Heartbeat
from quantus_miner.host import cpus, topology
from quantus_miner.host.notify import Notifier
from quantus_miner.miner import Miner
from quantus_miner.model import Pow
from quantus_miner.proto.address import address_warning, compose_login
from quantus_miner.sources.http import HttpSource
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.store.writer import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.host.cpus import EffectiveCpus
    from quantus_miner.proto.pool_url import PoolUrl
    from quantus_miner.settings import Settings
    from quantus_miner.sources.link import Link

log = logging.getLogger("miner")

TICK_S: Final = 1.0
SCRAPERS: Final = 32
"""Connections that the metrics exporter holds at once."""
GRACE_S: Final = 0.3
"""Seconds that requests under way get at the end."""


def run(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT. Raises MinerError where it cannot start."""
    log.info("Starting external miner service...")
    log.info("Effective config: %s", settings.summary())
    effective = detect_cpus()
    workers = 0
    if any(name.startswith("cpu-") for name in settings.engine):
        workers = choose_workers(settings.workers, effective)
        log.info(
            "Using %d worker thread(s) for mining (effective logical CPUs available: %d)", workers, effective.count
        )
    engines = create_engines(settings, workers)
    log.info("Using engine: %s", ", ".join(settings.engine))
    for engine in engines:
        if engine.fault is not None:
            log.error(
                "Engine %s cannot use %s, and tries again while there is work: %s",
                engine.name,
                engine.device,
                engine.fault,
            )
            continue
        for pow_ in Pow:
            if kernel := engine.kernel(pow_):
                log.info("Engine %s searches %s with kernel %s", engine.name, pow_, kernel)
    places = topology.places(workers, effective.cpus)
    log.debug("Workers keep to CPUs: %s", [sorted(place) for place in places] or "any")
    miner = Miner(engines, chunk_s=settings.progress_chunk_ms / 1000, places=places)
    asyncio.run(_serve(settings, miner, effective))


def detect_cpus() -> EffectiveCpus:
    """The CPUs that this process can really use, told to the log."""
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
    """``requested`` CPU workers if that many CPUs are there, else what is sensible; the log says why."""
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
    (log.info if requested is None else log.warning)(
        "%s Defaulting to %d (leaving ~%d for other processes) based on effective %d logical CPUs.",
        "No --workers specified." if requested is None else "--workers 0 is no number of workers.",
        workers,
        available - workers,
        available,
    )
    return workers


async def _serve(settings: Settings, miner: Miner, effective: EffectiveCpus) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)

    store = Store(settings.state_dir, history_days=settings.history_days)
    jobs = store.start()
    priority = {"live": (1, 0), "equal": (0, 0), "http": (0, 1)}[settings.priority]
    links = create_links(settings)
    live = None
    if links:
        ends = settings.exit_on_refusal == "on"
        live = LiveSource(miner, links, priority=priority[0], store=store, exit_on_refusal=ends)
    source = HttpSource(miner, store, token=settings.api_token, expiry_s=settings.job_expiry_s, priority=priority[1])
    api_socket = server.listen(settings.bind, settings.port, "--port")
    connections = server.possible_connections()
    servers = [server.Server(source.app, api_socket, connections)]
    if settings.metrics_port is None:
        log.info("Metrics disabled (no --metrics-port provided)")
    else:
        metrics_socket = server.listen(settings.bind, settings.metrics_port, "--metrics-port")
        links_stats = live.stats if live else tuple
        collector = metrics.MinerCollector(
            miner.stats, source.stats, links_stats, lambda: store.ok, effective.count, Telemetry().read
        )
        servers.append(server.Server(metrics.create_app([collector]), metrics_socket, min(SCRAPERS, connections // 4)))
        log.info("Starting metrics endpoint on %s", server.endpoint(metrics_socket))
    if not settings.bind.startswith("127.") and settings.bind != "::1" and settings.api_token is None:
        log.warning("The job API listens on %s without --api-token: anyone who reaches it can use it", settings.bind)

    source.restore(jobs)
    notifier = Notifier(os.environ)
    heartbeat = Heartbeat(miner, notifier)
    if notifier.watchdog:
        # The manager ends a stuck service with SIGABRT: the log then says where each thread was.
        faulthandler.enable()
    miner.start()
    source.accepting = True
    # What was imported until now stays: no collection has to look at it again.
    gc.collect()
    gc.freeze()
    async with asyncio.TaskGroup() as tasks:
        for part in servers:
            tasks.create_task(part.run_until_stopped())
        ticks = tasks.create_task(_tick(miner.tick, source.tick, heartbeat.tick, logs.tick))
        mining = tasks.create_task(_mine_live(live, stop)) if live else None
        log.info("Server starting on %s", server.endpoint(api_socket))
        for part in servers:
            await part.ready.wait()
        heartbeat.ready()
        await stop.wait()
        heartbeat.stopping()
        source.accepting = False
        ticks.cancel()
        for part in servers:
            part.stop(GRACE_S)
        # A thread of its own: the loop's may be busy with a scrape.
        with ThreadPoolExecutor(1) as pool:
            if not await loop.run_in_executor(pool, miner.close, GRACE_S):
                log.warning("Some workers did not stop in time")
        source.save()
        # After the miner: what it found in the last moment has been sent.
        if mining is not None:
            mining.cancel()
    with ThreadPoolExecutor(1) as pool:
        await loop.run_in_executor(pool, store.close, GRACE_S)
    stats = miner.stats()
    log.info("Stopped: %d hashes, %d solutions", stats.hashes, sum(stats.solved_by_engine.values()))
    if mining is not None and not mining.cancelled() and (refusal := mining.result()) is not None:
        raise refusal


def create_links(settings: Settings) -> list[Link]:
    """The live sources in the order of preference: the node, then the pools as given."""
    links: list[Link] = []
    if settings.node_addr is not None and settings.auth_token is not None:
        links.append(NodeLink(*settings.node_addr, settings.auth_token, settings.tls_cert_sha256))
    if settings.pool is not None and settings.wallet is not None:
        if warning := address_warning(settings.wallet):
            log.warning("--wallet: %s", warning)
        login = compose_login(settings.wallet, settings.worker_name or _worker_name())
        links += [_pool_link(url, login) for url in settings.pool]
    return links


def _worker_name() -> str:
    """The host's name, without what a worker's name may not have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:64] or "miner"


def _pool_link(url: PoolUrl, login: str) -> Link:
    if url.scheme == "quic":
        return NodeLink(url.host, url.port, login, url.pin, kind="pool")
    return PoolLink(url, login)


async def _mine_live(live: LiveSource, stop: asyncio.Event) -> LinkRefusedError | None:
    """Until cancelled, or with --exit-on-refusal until every live source refuses us, which ends the service."""
    try:
        await live.run()
    except LinkRefusedError as error:
        stop.set()
        return error
    return None


def _on_signal(number: int, stop: asyncio.Event) -> None:
    log.info("Received %s: stopping", signal.Signals(number).name)
    stop.set()


async def _tick(*parts: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        for part in parts:
            part()
