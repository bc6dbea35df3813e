"""The log of one live source. Adds its fields to every record and limits repeated warnings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from quantus_miner.model import LiveJob

MINUTE_S: Final = 60.0
"""Seconds in which a source logs at most one warning of a kind. The others are logged as debug."""
REPEAT_S: Final = 600.0
"""Seconds in which it logs at most one warning or error of a kind with the same reason."""


@dataclass(slots=True)
class _Logged:
    """A warning that was logged. ``more``: number of later ones of its kind that were logged as debug."""

    reason: str
    at: float
    more: int = 0


class SourceLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the field ``source`` to every record. ``clock``: time in seconds."""

    def __init__(self, logger: logging.Logger, name: str, clock: Callable[[], float]) -> None:
        super().__init__(logger, {"source": name})
        self._clock = clock
        self._logged: dict[str, _Logged] = {}  # by kind of warning

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """See ``logging.LoggerAdapter.process``. The fields of the call are added."""
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def warn_of(
        self,
        kind: str,
        reason: str,
        text: str,
        *args: object,
        level: int = logging.WARNING,
        extra: dict[str, object] | None = None,
    ) -> None:
        """Log ``text`` at ``level``, or as debug if one of its kind was logged recently."""
        now, last = self._clock(), self._logged.get(kind)
        if last is not None and now - last.at < (REPEAT_S if reason == last.reason else MINUTE_S):
            last.more += 1
            level = logging.DEBUG
        else:
            if last is not None and last.more:
                text += f" ({last.more:,} more since the last such line)"
            self._logged[kind] = _Logged(reason, now)
        self.log(level, text, *args, stacklevel=2, extra=extra or {})


def job_fields(job: LiveJob) -> dict[str, object]:
    """Return the log fields of a job."""
    return {"job": job.id, "difficulty": job.difficulty}
