"""A stratum miner that mines for the hub's node, with an extranonce and a difficulty of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantus_miner.model import LiveJob
from quantus_miner.wire.validator import STALE, Share, ShareValidator
from quantus_miner.wire.vardiff import Vardiff

if TYPE_CHECKING:
    from quantus_miner.hub.door import DoorSession
    from quantus_miner.hub.work import Hub, Work
    from quantus_miner.sources.pool import PoolLink
    from quantus_miner.wire.stratum_pool import ShareCame


class Solo:
    """Implements Upstream. A share that meets the network's target goes up at once.

    ``extranonce``: 4 bytes that no other miner has. ``difficulty``: of the first share.
    """

    def __init__(self, session: DoorSession, hub: Hub, extranonce: bytes, difficulty: int, share_time: float) -> None:
        self._session = session
        self._hub = hub
        self._extranonce = extranonce
        self._validator = ShareValidator(session.door.hasher.is_hash)
        self.pool: PoolLink | None = None
        self._vardiff = Vardiff(difficulty, share_time, hub.clock())
        self._header = b""

    def begin(self) -> None:
        """See ``Upstream``."""
        work = self._hub.work
        self._session.core.take_login(None if work is None else self._next_job(work, clean=True))
        self._session.flush()

    def on_work(self) -> None:
        """See ``Upstream``."""
        work = self._hub.work
        if work is not None and self._session.is_open:
            self._send(work, clean=work.job.header != self._header)

    def on_share(self, came: ShareCame) -> None:
        """See ``Upstream``."""
        share = self._validator.validate(came)
        if isinstance(share, Share) and share.job.header != self._header:
            share = STALE
        if isinstance(share, str):
            self._session.answer(came.request, share, 0)
            return
        self._session.answer(came.request, None, share.job.difficulty)
        self._hub.prove(share.job.difficulty, share.job.header)
        if self._session.door.is_solution(share):
            self._session.on_block(share)
        self._vardiff.count()
        self._retarget()

    def tick(self) -> None:
        """See ``Upstream``."""
        self._retarget()

    def close(self) -> None:
        """See ``Upstream``."""

    def _retarget(self) -> None:
        work = self._hub.work
        if self._vardiff.adjust(self._hub.clock()) and work is not None and self._session.is_open:
            self._send(work, clean=False)

    def _send(self, work: Work, *, clean: bool) -> None:
        self._session.core.send_job(self._next_job(work, clean=clean), clean=clean)
        self._session.flush()

    def _next_job(self, work: Work, *, clean: bool) -> LiveJob:
        # A share need not be harder than a block.
        difficulty = min(self._vardiff.difficulty, work.job.difficulty)
        self._session.tally.difficulty = difficulty
        self._header = work.job.header
        job = LiveJob(f"{work.number}-{difficulty}", work.job.header, difficulty, self._extranonce)
        self._validator.give(job, clean=clean)
        return job
