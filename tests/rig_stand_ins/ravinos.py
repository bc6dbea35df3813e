"""RaveOS's module, as far as start.py and stats.py use it. The task is JSON in RAVINOS_TASK."""

from __future__ import annotations

import json
import os
from typing import Any

TASK: dict[str, Any] = json.loads(os.environ["RAVINOS_TASK"])


def get_config() -> dict[str, Any]:
    config: dict[str, Any] = TASK["config"]
    return config


def run(line: str) -> None:
    os.execvp("sh", ["sh", "-c", f"exec {line}"])  # noqa: S606, S607 - RaveOS runs a command line


def get_stats() -> dict[str, Any]:
    stats: dict[str, Any] = TASK["stats"]
    return stats


def set_stats(stats: dict[str, Any]) -> None:
    print(json.dumps(stats))
