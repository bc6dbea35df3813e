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
from typing import TYPE_CHECKING, Final, TypeVar

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
from quantus_miner.parts.live import PRIORITIES
from quantus_miner.parts.page import WebPage
from quantus_miner.parts.part import Components, MinerComponents
from quantus_miner.parts.pauses import AutomaticPauses
from quantus_miner.parts.rig import LiveOfRig
from quantus_miner.parts.rig_managers import CgminerPort, ClaymorePort, RigApiServer
from quantus_miner.parts.supervisor import Supervisor
from quantus_miner.parts.upkeep import Log, SignsOfLife, StateFolder, Watch
from quantus_miner.parts.web import Exporter, JobList, JobServer
from quantus_miner.setting_table import BY_NAME, names_of
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.store.writer import Store
from quantus_miner.web import server
from quantus_miner.web.control import Control
from quantus_miner.web.job_api import JobApi
from quantus_miner.web.rig_api import RigApi
from quantus_miner.web.routes import Access, Routes
from quantus_miner.web.status import StatusApi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantus_miner.backends.base import Engine
    from quantus_miner.host.cpus import EffectiveCpus
    from quantus_miner.host.signals import Signals
    from quantus_miner.parts.part import Part
    from quantus_miner.setting import CommandName
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

ComponentsT = TypeVar("ComponentsT", bound=Components)

PARTS: Final[list[type[Part]]] = [
    Log,
    StateFolder,
    JobList,
    LiveOfRig,
    Engines,
    AutomaticPauses,
    Exporter,
    RigApiServer,
    ClaymorePort,
    CgminerPort,
    JobServer,
    WebPage,
    Watch,
    SignsOfLife,
    Console,
]
"""The parts in the order in which they start. They stop in reverse order.

When the service ends, it first refuses new jobs. Then the workers stop, their results are sent and saved, and the store
is closed.
"""


def run(settings: Settings, signals: Signals, load: Callable[[], Settings]) -> None:
    """Run the miner until SIGTERM or SIGINT. Raises MinerError if it cannot start or cannot continue.

    ``load``: called after SIGHUP to read the settings again. It raises MinerError if they are wrong.
    """
    prepare()
    log.info("Starting external miner service...")
    tell_settings(settings, "serve")
    effective, workers = count_workers(settings)
    on_job_solved: list[Callable[[], None]] = []
    engines = make_engines(settings, workers, on_job_solved.append)

    def connect() -> MinerComponents:
        return _connect(settings, effective, workers, engines, on_job_solved)

    def handlers(components: MinerComponents) -> dict[int, Callable[[], object]]:
        miner = components.miner
        return {signal.SIGUSR1: lambda: miner.pause(USER), signal.SIGUSR2: lambda: miner.resume(USER)}

    asyncio.run(serve(settings, signals, load, connect, PARTS, handlers))


def prepare() -> None:
    """Set the hooks of a service. Raises MachineError if the limit of open files is too low."""
    threading.excepthook = _on_thread_failure
    sys.unraisablehook = _on_unraisable
    server.check_files()


def tell_settings(settings: Settings, command: CommandName) -> None:
    """Log the settings of a command: where it listens, and what differs from the defaults. At debug, all of them."""
    names = names_of(command)
    own = [name for name in names if name in ("port", "bind") or settings.differs(BY_NAME[name])]
    log.info("Effective config: %s; the others are the defaults", settings.summary(own))
    log.debug("All settings: %s", settings.summary(names))


async def serve(
    settings: Settings,
    signals: Signals,
    load: Callable[[], Settings],
    connect: Callable[[], ComponentsT],
    parts: Sequence[Callable[[ComponentsT], Part]],
    handlers: Callable[[ComponentsT], dict[int, Callable[[], object]]],
) -> None:
    """Run ``parts``, with the objects that ``connect`` makes, until a signal. Raises MinerError, see ``run``.

    ``handlers``: returns what SIGUSR1 and SIGUSR2 do.
    """
    components = connect()
    monitor = components.monitor
    supervisor = Supervisor(
        [part(components) for part in parts],
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
            **handlers(components),
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
) -> MinerComponents:
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
    Control(miner, routes, access, settings.state_dir)
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
    rig_api, rig_routes = RigApi(monitor.look, miner, access), Routes()
    rig_api.add_to(routes)
    rig_api.add_to(rig_routes)
    return MinerComponents(
        store, live, Notifier(os.environ), monitor, routes, access, engines, on_job_solved, miner, jobs, api, rig_routes
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
