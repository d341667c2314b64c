"""Opens files for data that would take too much memory. The system deletes such a file when it is closed."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

MOST_BYTES = 4 << 30
"""Maximum size of a file."""
_SHARE = 2
"""A file may take 1 / `_SHARE` of the free space, because other processes of the worker write files, too."""
_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def room() -> int:
    """Return how many bytes a file may take: 0 if the folder for temporary files is in memory, or cannot be used."""
    try:
        folder = tempfile.gettempdir()
        found = os.statvfs(folder)
        if _is_in_memory(os.stat(folder).st_dev):
            return 0
    except OSError:
        return 0
    return min(MOST_BYTES, found.f_bavail * found.f_frsize // _SHARE)


def open_scratch() -> BinaryIO:
    """Open a new file without a name in the folder for temporary files. Raise `OSError` if this fails."""
    return tempfile.TemporaryFile(buffering=0)


def open_files(count: int) -> list[BinaryIO]:
    """Open a number of such files, through which processes forked later share data. Return none if this fails."""
    files: list[BinaryIO] = []
    try:
        for _ in range(count):
            files.append(open_scratch())
    except OSError as error:
        log.warning("spool.unwritable", extra={"error": str(error)})
        for file in files:
            file.close()
        return []
    return files


def _is_in_memory(device: int) -> bool:
    """Return whether a device is a file system in memory. Where the system does not say so, it is not."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_text().splitlines():
            place, _, about = line.partition(" - ")
            if place.split()[2] == wanted:
                return about.split()[0] in _IN_MEMORY
    return False
