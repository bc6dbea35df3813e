"""The name of the user."""

from __future__ import annotations

import getpass
import os


def user_name() -> str:
    """Return the name of the user who runs this process, or ``uid 1000`` if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
