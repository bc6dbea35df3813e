"""A stratum miner that mines in the hub's pool, over an upstream connection of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.model import Solution
from quantus_miner.sources.link import Handover
from quantus_miner.wire.stratum_pool import StratumPoolState
from quantus_miner.wire.validator import STALE, ShareValidator

if TYPE_CHECKING:
    from quantus_miner.hub.door import DoorSession
    from quantus_miner.model import LiveJob
    from quantus_miner.sources.link import Verdict
    from quantus_miner.sources.pool import PoolLink
    from quantus_miner.wire.stratum_pool import RequestId, ShareCame

log = logging.getLogger("miner.hub")

FIRST_JOB_S: Final = 1.0
"""Seconds after the pool's reply to the login for which the first job is waited for. Then ours goes out without one."""


class Proxy:
    """Implements Upstream, and Listener for ``link``, which it runs. The miner's login is answered when the pool's is.

    A pool's extranonce is too short to be divided among miners that count from zero. So each has a connection of its
    own. When that ends, the miner's ends as well, so that it logs in again or uses its next pool.
    """

    def __init__(self, session: DoorSession, pool: PoolLink, link: PoolLink) -> None:
        self.pool: PoolLink | None = pool
        self._session = session
        self._link = link
        self._validator = ShareValidator(session.door.hasher.is_hash)
        self._header = b""
        self._pending: dict[int, RequestId] = {}  # by nonce
        self._task: asyncio.Task[None] | None = None
        self._late: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """See ``Upstream``."""
        self._task = asyncio.create_task(self._run(), name="proxy")
        self._session.door.hold(self._task)

    def on_work(self) -> None:
        """See ``Upstream``."""

    def tick(self) -> None:
        """See ``Upstream``."""

    def on_share(self, came: ShareCame) -> None:
        """See ``Upstream``."""
        share = self._validator.validate(came)
        if isinstance(share, str):
            self._session.answer(came.request, share, 0)
            return
        # As the link, the session has sent this nonce at most once.
        self._pending[share.nonce] = came.request
        if self._link.submit(share.job, Solution(share.nonce, share.value), 0, 0.0) is not Handover.SENT:
            del self._pending[share.nonce]
            self._session.answer(came.request, STALE, 0)

    def close(self) -> None:
        """See ``Upstream``."""
        if self._late is not None:
            self._late.cancel()
        if self._task is not None:
            self._task.cancel()

    # --- Listener ---

    def on_open(self) -> None:
        """Take the miner's login, at the latest when its first job should have come."""
        self._late = self._session.loop.call_later(FIRST_JOB_S, self._take_login, None)

    def on_alive(self) -> None:
        """Do nothing: the link itself ends if the pool is silent."""

    def on_job(self, job: LiveJob) -> None:
        """Pass a job on."""
        if self._session.transport.is_closing():
            return
        clean, self._header = job.header != self._header, job.header
        self._validator.give(job, clean=clean)
        self._session.tally.difficulty = job.difficulty
        if self._session.core.state is StratumPoolState.CHECKING:
            self._take_login(job)
        elif self._session.is_open:
            self._session.core.send_job(job, clean=clean)
            self._session.flush()

    def on_no_job(self) -> None:
        """Do nothing: pools withdraw no job."""

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        """Do nothing: to pools shares go at once."""

    def on_verdict(self, verdict: Verdict) -> None:
        """Pass the pool's verdict on."""
        request = self._pending.pop(verdict.nonce)
        if verdict.accepted:
            self._session.door.hub.prove(verdict.difficulty)
        self._session.answer(request, None if verdict.accepted else verdict.reason, verdict.difficulty, ours=False)

    def _take_login(self, job: LiveJob | None) -> None:
        if self._session.core.state is StratumPoolState.CHECKING and not self._session.transport.is_closing():
            self._session.core.take_login(job)
            self._session.flush()

    async def _run(self) -> None:
        try:
            await self._link.run(self)
        except (LinkLostError, LinkRefusedError) as error:
            log.info("The connection of miner %s to %s has ended: %s", self._session.worker, self._link.name, error)
        except asyncio.CancelledError:
            return
        except Exception:  # a bug of ours must not affect the other miners
            log.exception("The connection of miner %s to %s has failed", self._session.worker, self._link.name)
        self._session.on_upstream_lost()
