"""The service: builds the parts from the settings, runs them until a signal, shuts down in order.

A part that raises is logged. What the service can live without, it then lives without; anything else ends it, and
that too in order.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from quantus_miner import logs
from quantus_miner.backends import table
from quantus_miner.backends.registry import create_engines
from quantus_miner.backoff import Backoff
from quantus_miner.errors import MinerError, describe
from quantus_miner.events import ShareJudged, SolutionSent
from quantus_miner.gpu.telemetry import Telemetry
from quantus_miner.heartbeat import Heartbeat
from quantus_miner.host import cpus, topology
from quantus_miner.host.notify import Notifier
from quantus_miner.jobs import Jobs
from quantus_miner.mining.miner import Miner
from quantus_miner.model import Pow
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.store.rows import Find
from quantus_miner.store.writer import Store
from quantus_miner.web import metrics, server
from quantus_miner.web.job_api import JobApi
from quantus_miner.wire.address import address_warning, compose_login

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from quantus_miner.events import Event
    from quantus_miner.host.cpus import EffectiveCpus
    from quantus_miner.host.signals import Signals
    from quantus_miner.settings import Settings
    from quantus_miner.sources.link import Link
    from quantus_miner.wire.pool_url import PoolUrl

log = logging.getLogger("miner")

TICK_S: Final = 1.0
GRACE_S: Final = 0.3
"""Seconds that requests under way get at the end."""
CLOSE_S: Final = 2.0
"""Seconds that the parts get after that, before the service ends without them."""


def run(settings: Settings, signals: Signals) -> None:
    """Runs the service until SIGTERM or SIGINT. Raises MinerError if it cannot start, or cannot go on."""
    threading.excepthook = _on_thread_failure
    sys.unraisablehook = _on_unraisable
    server.check_files()
    log.info("Starting external miner service...")
    log.info("Effective config: %s", settings.summary())
    effective = detect_cpus()
    workers = 0
    if any(table.find(name).kind == "cpu" for name in settings.engine):
        workers = choose_workers(settings.workers, effective)
        log.info(
            "Using %d worker thread(s) for mining (effective logical CPUs available: %d)", workers, effective.count
        )
    on_job_solved: list[Callable[[], None]] = []
    engines = create_engines(settings, workers, on_job_solved.append)
    log.info("Using engine: %s", ", ".join(dict.fromkeys(engine.name for engine in engines)))
    for engine in engines:
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
    places = topology.places(workers, effective.cpus)
    log.debug("Workers keep to CPUs: %s", [sorted(place) for place in places] or "any")
    miner = Miner(engines, chunk_s=settings.progress_chunk_ms / 1000, places=places, on_job_solved=on_job_solved)
    asyncio.run(_serve(settings, miner, effective, signals))


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


async def _serve(settings: Settings, miner: Miner, effective: EffectiveCpus, signals: Signals) -> None:
    service = _Service(settings, miner, effective)
    try:
        await service.start(signals)
        failure = await service.ending
    finally:
        signals.hand_over(asyncio.get_running_loop(), service.end)
        await service.stop()
    if failure is not None:
        raise failure


class _Service:
    """The parts, from their start to their end, which comes when ``ending`` is done: with why, or None if asked to."""

    def __init__(self, settings: Settings, miner: Miner, effective: EffectiveCpus) -> None:
        self._settings = settings
        self._miner = miner
        self._effective = effective
        self.ending: asyncio.Future[MinerError | None] = asyncio.get_running_loop().create_future()
        self._store: Store | None = None
        self._live: LiveSource | None = None
        self._jobs: Jobs | None = None
        self._api: JobApi | None = None
        self._servers: list[server.Server] = []
        self._serving: list[asyncio.Task[None]] = []
        self._working: list[asyncio.Task[None]] = []
        self._notifier = Notifier(os.environ)
        self._heartbeat = Heartbeat(
            miner,
            self._notifier,
            links=lambda: self._live.stats() if self._live else (),
            store_ok=lambda: self._store is not None and self._store.ok,
        )

    async def start(self, signals: Signals) -> None:
        """Starts all parts; the service is ready when this returns. Raises MinerError if it cannot be."""
        settings, miner, effective = self._settings, self._miner, self._effective
        store = Store(settings.state_dir, history_days=settings.history_days)
        earlier = store.start()
        self._store = store
        signals.hand_over(asyncio.get_running_loop(), self.end)
        priority = {"live": (1, 0), "equal": (0, 0), "http": (0, 1)}[settings.priority]
        links = create_links(settings)
        live = None
        if links:
            ends = settings.exit_on_refusal == "on"
            live = LiveSource(
                miner, links, priority=priority[0], publish=partial(_keep_history, store), exit_on_refusal=ends
            )
        self._live = live
        jobs = Jobs(
            miner,
            store,
            expiry_s=settings.job_expiry_s,
            clock=time.monotonic,
            call_soon=asyncio.get_running_loop().call_soon_threadsafe,
            priority=priority[1],
        )
        api = JobApi(jobs, miner, token=settings.api_token)
        self._jobs, self._api = jobs, api
        api_socket = server.listen(settings.bind, settings.port, "--port")
        apps = [(api.app, api_socket, settings.bind)]
        if settings.metrics_port is None:
            log.info("Metrics disabled (no --metrics-port provided)")
        else:
            metrics_socket = server.listen(settings.metrics_bind, settings.metrics_port, "--metrics-port")
            links_stats = live.stats if live else tuple
            collector = metrics.MinerCollector(
                miner.stats, api.stats, links_stats, lambda: store.ok, effective.count, Telemetry().read
            )
            apps.append((metrics.create_app([collector]), metrics_socket, settings.metrics_bind))
            log.info("Starting metrics endpoint on %s", server.endpoint(metrics_socket))
        if not settings.bind.startswith("127.") and settings.bind != "::1" and settings.api_token is None:
            log.warning(
                "The job API listens on %s without --api-token: anyone who reaches it can use it", settings.bind
            )

        shares = server.share_connections(len(links), len(apps))
        servers = [
            server.Server(app, sock, connections, server.host_names(address) | frozenset(settings.allowed_hosts or ()))
            for (app, sock, address), connections in zip(apps, shares, strict=True)
        ]
        jobs.restore(earlier)
        if self._notifier.watchdog and sys.stderr is not None:
            # The manager ends a stuck service with SIGABRT: the log then says where each thread was.
            faulthandler.enable()
        miner.start()
        api.accepting = True
        # What was imported until now stays: no collection has to look at it again.
        gc.collect()
        gc.freeze()
        self._servers = servers
        for part, name in zip(servers, ("The job API", "The metrics exporter"), strict=False):
            self._serving.append(self._run(name, part.run_until_stopped(), vital=part is servers[0]))
        self._working.append(self._run("The tick", self._tick(jobs), vital=True))
        if live is not None:
            self._working.append(self._run("The live source", self._mine(live)))
        log.info("Server starting on %s", server.endpoint(api_socket))
        for part, serving in zip(servers, self._serving, strict=True):
            ready = asyncio.create_task(part.ready.wait())
            await asyncio.wait((ready, serving), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        if not self.ending.done():
            with _contained("The heartbeat"):
                self._heartbeat.ready()

    def end(self, failure: MinerError | None = None) -> None:
        """Lets the service end, because of ``failure`` if there is one."""
        if not self.ending.done():
            self.ending.set_result(failure)

    async def stop(self) -> None:
        """Ends what was started, in order; a step that fails does not keep the next ones from being taken."""
        self.end()
        with _contained("The heartbeat"):
            self._heartbeat.stopping()
        if self._api is not None:
            self._api.accepting = False
        for part in self._servers:
            part.stop(GRACE_S)
        with _contained("Stopping the workers"):
            if not await self._workers_ended():
                log.warning("Some workers did not stop in time")
        if self._jobs is not None:
            with _contained("Saving the jobs"):
                self._jobs.save()
        # After the miner: what it found in the last moment has been sent.
        for task in self._working:
            task.cancel()
        if tasks := self._serving + self._working:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        if self._store is not None:
            with _contained("Closing the store"):
                self._store.close(GRACE_S)
        stats = self._miner.stats()
        log.info("Stopped: %d hashes, %d solutions", stats.hashes, sum(stats.solved_by_engine.values()))

    async def _workers_ended(self) -> bool:
        """Stops the workers; whether they ended in time. The loop goes on meanwhile: it has requests to answer."""
        deadline = asyncio.get_running_loop().time() + GRACE_S
        while not self._miner.close(0.0):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def _run(self, name: str, work: Coroutine[None, None, None], *, vital: bool = False) -> asyncio.Task[None]:
        """Runs a part. If it ends before the service does, the service ends if the part is ``vital``."""

        async def supervised() -> None:
            failure = MinerError(f"{name} has ended")
            try:
                await work
            except MinerError as error:
                self.end(error)
            except Exception as error:
                log.exception("%s has failed", name)
                failure = MinerError(f"{name} has failed: {describe(error)}")
            if vital:
                self.end(failure)

        return asyncio.create_task(supervised(), name=name)

    async def _tick(self, jobs: Jobs) -> None:
        parts: tuple[tuple[str, Callable[[], None]], ...] = (
            ("The miner's tick", self._miner.tick),
            ("The job API's tick", jobs.tick),
            ("The heartbeat", self._heartbeat.tick),
            ("The log's tick", logs.tick),
        )
        while True:
            await asyncio.sleep(TICK_S)
            for name, part in parts:
                with _contained(name):
                    part()

    async def _mine(self, live: LiveSource) -> None:
        """Mines for the live source until cancelled. Raises LinkRefusedError if no live source will take us."""
        backoff = Backoff()
        while True:
            try:
                await live.run()
            except MinerError:
                raise
            except Exception:
                wait_s = backoff.wait_s(secrets.randbits(32) / 2**32)
                log.exception("The live source has failed; next try in %.1f s", wait_s)
                await asyncio.sleep(wait_s)


def _keep_history(store: Store, event: Event) -> None:
    match event:
        case SolutionSent(source, job, solution):
            store.found(Find(time.time_ns(), source, job.id, job.pow, job.header, solution))
        case ShareJudged(source, nonce, judgement):
            store.judged(source, nonce, judgement)


@contextmanager
def _contained(what: str) -> Iterator[None]:
    """Logs an exception instead of passing it on."""
    try:
        yield
    except Exception:
        log.exception("%s has failed", what)


def _on_thread_failure(failure: threading.ExceptHookArgs) -> None:
    """Python's own hook writes to stderr, and waits for whoever reads it."""
    error = failure.exc_value
    if error is not None:
        name = failure.thread.name if failure.thread else "?"
        log.error("Thread %s has failed", name, exc_info=(type(error), error, failure.exc_traceback))


def _on_unraisable(failure: sys.UnraisableHookArgs) -> None:
    """As above, for what fails where nobody can catch it: in a finalizer, or a callback of a C library."""
    if (error := failure.exc_value) is not None:
        log.error("An exception could not be raised", exc_info=(type(error), error, failure.exc_traceback))


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
