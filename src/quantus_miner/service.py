"""The service: create its parts from the settings and run them until a signal."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from quantus_miner import wording
from quantus_miner.events import SettingsChanged
from quantus_miner.gpu.telemetry import Telemetry
from quantus_miner.host.notify import Notifier
from quantus_miner.jobs import Jobs
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.pauses import USER
from quantus_miner.monitor import Monitor
from quantus_miner.parts.console import Console
from quantus_miner.parts.engines import Engines, affinity, count_workers, make_engines
from quantus_miner.parts.live import PRIORITIES, Live
from quantus_miner.parts.part import Components
from quantus_miner.parts.pauses import AutomaticPauses
from quantus_miner.parts.supervisor import Supervisor
from quantus_miner.parts.upkeep import Log, SignsOfLife, StateFolder, Watch
from quantus_miner.parts.web import Exporter, JobList, JobServer
from quantus_miner.settings import SETTINGS
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.store.writer import Store
from quantus_miner.web import server
from quantus_miner.web.control import Control
from quantus_miner.web.job_api import JobApi
from quantus_miner.web.routes import Access, Routes
from quantus_miner.web.status import StatusApi

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.base import Engine
    from quantus_miner.host.cpus import EffectiveCpus
    from quantus_miner.host.signals import Signals
    from quantus_miner.parts.part import Part
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

PARTS: Final[list[type[Part]]] = [
    Log,
    StateFolder,
    JobList,
    Live,
    Engines,
    AutomaticPauses,
    Exporter,
    JobServer,
    Watch,
    SignsOfLife,
    Console,
]
"""The parts in the order in which they start. They stop in reverse order.

When the service ends, it first refuses new jobs. Then the workers stop, their results are sent and saved, and the store
is closed.
"""


def run(settings: Settings, signals: Signals, load: Callable[[], Settings]) -> None:
    """Run the service until SIGTERM or SIGINT. Raises MinerError if it cannot start or cannot continue.

    ``load``: called after SIGHUP to read the settings again. It raises MinerError if they are wrong.
    """
    threading.excepthook = _on_thread_failure
    sys.unraisablehook = _on_unraisable
    server.check_files()
    log.info("Starting external miner service...")
    own = [row.name for row in SETTINGS if row.name in ("port", "bind") or settings.differs(row)]
    log.info("Effective config: %s; the others are the defaults", settings.summary(own))
    log.debug("All settings: %s", settings.summary())
    effective, workers = count_workers(settings)
    on_job_solved: list[Callable[[], None]] = []
    engines = make_engines(settings, workers, on_job_solved.append)
    asyncio.run(_serve(settings, signals, load, lambda: _connect(settings, effective, workers, engines, on_job_solved)))


async def _serve(
    settings: Settings, signals: Signals, load: Callable[[], Settings], connect: Callable[[], Components]
) -> None:
    components = connect()
    monitor = components.monitor
    supervisor = Supervisor(
        [part(components) for part in PARTS],
        settings,
        load,
        components.notifier,
        lambda names: monitor.publish(SettingsChanged(names)),
    )
    signals.hand_over(
        asyncio.get_running_loop(),
        {
            signal.SIGTERM: supervisor.end,
            signal.SIGINT: supervisor.end,
            signal.SIGHUP: supervisor.reload,
            signal.SIGUSR1: lambda: components.miner.pause(USER),
            signal.SIGUSR2: lambda: components.miner.resume(USER),
        },
    )
    if components.notifier.watchdog and sys.stderr is not None:
        # The manager ends a stuck service with SIGABRT. The log then shows where each thread was.
        faulthandler.enable()
    try:
        await supervisor.run(on_started=_keep_imports)
    finally:
        await supervisor.stop()
        log.info("%s", wording.summary(monitor.look()))


def _connect(
    settings: Settings,
    effective: EffectiveCpus,
    workers: int,
    engines: list[Engine],
    on_job_solved: list[Callable[[], None]],
) -> Components:
    """Create the objects that the parts share and connect them. Nothing is started."""
    live_priority, http_priority = PRIORITIES[settings.priority]
    miner = Miner(
        engines,
        chunk_s=settings.progress_chunk_ms / 1000,
        affinity=affinity(workers, effective),
        on_job_solved=on_job_solved,
        publish=lambda event: monitor.publish(event),
    )
    store = Store(settings.state_dir, history_days=settings.history_days)
    jobs = Jobs(
        miner,
        store,
        expiry_s=settings.job_expiry_s,
        clock=time.monotonic,
        call_soon=asyncio.get_running_loop().call_soon_threadsafe,
        priority=http_priority,
    )
    routes, access = Routes(), Access(settings.api_token)
    api = JobApi(jobs, miner, routes, access)
    Control(miner, routes, access)
    live = LiveSource(MinerSearcher(miner), (), priority=live_priority, publish=lambda event: monitor.publish(event))
    monitor = Monitor(
        miner.stats,
        sources=live.stats,
        api=api.stats,
        store_ok=lambda: store.ok,
        readings=Telemetry().read,
        effective_cpus=effective.count,
    )
    StatusApi(monitor.look, routes)
    return Components(
        engines, on_job_solved, miner, store, live, jobs, api, routes, access, Notifier(os.environ), monitor
    )


def _keep_imports() -> None:
    """Exclude all present objects from garbage collection, because they stay until the end."""
    gc.collect()
    gc.freeze()


def _on_thread_failure(failure: threading.ExceptHookArgs) -> None:
    """Log an exception that ended a thread. Python's own hook would write to stderr and might block."""
    error = failure.exc_value
    if error is not None:
        name = failure.thread.name if failure.thread else "?"
        log.error("Thread %s has failed", name, exc_info=(type(error), error, failure.exc_traceback))


def _on_unraisable(failure: sys.UnraisableHookArgs) -> None:
    """Log an exception that nothing can catch, such as one in a finalizer or in a callback of a C library."""
    if (error := failure.exc_value) is not None:
        log.error("Ignored an exception that cannot be caught", exc_info=(type(error), error, failure.exc_traceback))
