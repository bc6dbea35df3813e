"""The log of one live source: its fields in every record, and no flood of warnings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from quantus_miner.model import LiveJob

MINUTE_S: Final = 60.0
"""Seconds in which a source causes one warning of a kind at most; the others are logged as debug."""
REPEAT_S: Final = 600.0
"""Seconds after which a warning or an error for the same reason is logged as one again."""


@dataclass(slots=True)
class _Logged:
    """A warning that was logged. ``more``: those of its kind that were not, since."""

    reason: str
    at: float
    more: int = 0


class SourceLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the field ``source`` to what it passes to ``logger``. ``clock``: in seconds."""

    def __init__(self, logger: logging.Logger, name: str, clock: Callable[[], float]) -> None:
        super().__init__(logger, {"source": name})
        self._clock = clock
        self._logged: dict[str, _Logged] = {}  # by kind of warning

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """See ``logging.LoggerAdapter.process``. The fields of the call come on top."""
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
        """Log ``text`` at ``level``, or as debug if there was one of its kind a short time ago."""
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
    """Return the fields that tell of a job."""
    return {"job": job.id, "difficulty": job.difficulty}
