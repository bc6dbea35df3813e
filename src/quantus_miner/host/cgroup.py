"""Find the folders of the cgroups that this process is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> str | None:
    """Return the text of a kernel file, stripped of white space, or None if it is missing, unreadable or empty."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip() or None
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None


def own_folders(root: Path, controller: str) -> tuple[list[Path], list[Path]]:
    """Return the folders of this process's cgroups as ``(v2, v1)``, each from its own cgroup up to the mount's root.

    ``root``: the root of the file system. ``controller``: ``cpuset`` or ``cpu``. The folders may not exist: a container
    often sees only the root of its part of the tree, but is told the path on the host.
    """
    mount = root / "sys/fs/cgroup"
    v2_path, v1_path, v1_mount = "/", "/", controller
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            v2_path = path
        elif controller in controllers.split(","):
            v1_path, v1_mount = path, controllers

    v2 = _up(mount, v2_path)
    if read(mount / "cgroup.controllers") is None:
        v2 += _up(mount / "unified", v2_path)  # a hybrid layout, v2 beside v1
    # Controllers mounted together (cpu,cpuacct) are usually linked under each name, but not always.
    v1 = [folder for name in dict.fromkeys((v1_mount, controller)) for folder in _up(mount / name, v1_path)]
    return v2, v1


def _up(mount: Path, path: str) -> list[Path]:
    """Return ``mount/path`` and all its parents up to ``mount``."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []  # outside of our cgroup namespace, where only the mount's root is ours
    own = mount.joinpath(*parts)
    return [own, *own.parents[: len(parts)]]
