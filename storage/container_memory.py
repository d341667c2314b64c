"""Reads the memory limit and the available memory of this container or machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_UNLIMITED = 1 << 60
_MOUNT = Path("sys/fs/cgroup")
_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2_FILES = ("memory.max", "memory.current", "inactive_file")


def limit_bytes(root: Path = Path("/")) -> int:
    """Return the memory limit of this container in bytes, or the memory of the machine if no limit is set.

    A process can be in several nested control groups (versions 1 and 2 of cgroups). The lowest of their limits applies.

    Parameters
    ----------
    root : Path
        The directory that contains ``sys/fs/cgroup`` and ``proc/self/cgroup``.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group, (limit, _, _) in _groups(root):
        limits += _number_in(group / limit)
    return min(limits)


def available_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process can still allocate within its container or machine.

    The page cache of the container counts as available, because the kernel can reclaim it.

    Parameters
    ----------
    root : Path
        The same as in `limit_bytes`.
    """
    import psutil

    available = [int(psutil.virtual_memory().available)]
    for group, (limit, usage, cached) in _groups(root):
        for most in _number_in(group / limit):
            available += [most - used + _statistic(group, cached) for used in _number_in(group / usage)]
    return max(0, min(available))


def _groups(root: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Return the control groups that contain this process, each as a folder and the names of its files.

    A container may show only the folder of the mount, not the folders of single control groups.
    """
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            mount, files = root / _MOUNT, _V2_FILES
        elif "memory" in controllers.split(","):
            mount, files = root / _MOUNT / "memory", _V1_FILES
        else:
            continue
        folder = mount / path.strip("/")
        for group in (folder, *folder.parents):
            found.append((group, files))
            if group == mount:
                break
    return found


def _number_in(file: Path) -> list[int]:
    """Return the number in a file of a control group; an empty list if the file is missing or sets no limit."""
    with contextlib.suppress(OSError, ValueError):  # the file contains "max" if there is no limit
        value = int(file.read_text())
        if value < _UNLIMITED:
            return [value]
    return []


def _statistic(group: Path, name: str) -> int:
    """Return the number with the given name in ``memory.stat``; 0 if the file does not contain it."""
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
