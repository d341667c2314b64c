"""How many processes fit into the memory of this machine, and how much each may take.

A dyno that runs out of memory is killed, or swaps until it might as well be. So a worker counts before it forks: what
its limit is, what a process takes, and what the models that it will load were measured to take.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scoreline.storage.errors import ScorelineError
from scoreline.storage.models.registry import ModelRegistry
from scoreline.worker.settings import DEFAULT_CACHE_BYTES

MIB = 1 << 20
SHARED_BYTES = 230 * MIB
"""The main process, and what its children share with it: measured at 218 MiB on Linux x86-64."""
PROCESS_BYTES = 260 * MIB
"""What a child has for itself besides models: measured at 241 to 262 MiB, on parts of 250,000 rows of 20 columns."""
USABLE = 0.95
"""Of the limit; the rest is for the shell, for page tables, and for what was not measured."""
_UNLIMITED = 1 << 60
_MODELS_LOOKED_AT = 100


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """What a worker makes of its memory."""

    limit_bytes: int
    processes: int
    cache_bytes: int
    """Of models, for each process."""
    process_bytes: int
    """Resident memory, what is shared included, after which a process is replaced between two tasks."""
    short_bytes: int
    """How much more memory even one process would need; 0 where it fits."""


def size(
    *,
    limit_bytes: int,
    cores: int,
    asked: int | None = None,
    preloaded_bytes: int = 0,
    model_bytes: int = 0,
    cache_bytes: int | None = None,
) -> Sizing:
    """Divide the memory: as many processes as fit, one a core at most, at least one.

    Parameters
    ----------
    limit_bytes : int
        What the machine or the container has.
    cores : int
        Processes beyond these would only fight.
    asked : int, optional
        Processes that somebody asked for, whatever fits.
    preloaded_bytes : int
        Models loaded before the fork: in memory once, however many processes there are.
    model_bytes : int
        The largest model that a process may have to load besides.
    cache_bytes : int, optional
        Models that each process may keep, where the settings say; by default what is left to it, up to 1 GiB.

    >>> size(limit_bytes=512 * MIB, cores=8).processes, size(limit_bytes=1024 * MIB, cores=8).processes
    (1, 2)
    """
    free = int(USABLE * limit_bytes) - SHARED_BYTES - preloaded_bytes
    models = model_bytes if cache_bytes is None else cache_bytes
    processes = asked or max(1, min(cores, free // (PROCESS_BYTES + models)))
    share = max(free // processes, 0)
    return Sizing(
        limit_bytes=limit_bytes,
        processes=processes,
        cache_bytes=cache_bytes or max(model_bytes, min(DEFAULT_CACHE_BYTES, share - PROCESS_BYTES), MIB),
        process_bytes=SHARED_BYTES + preloaded_bytes + max(share, PROCESS_BYTES + models),
        short_bytes=max(PROCESS_BYTES + models - share, 0),
    )


def measured(registry: ModelRegistry, preload: Sequence[str]) -> tuple[int, int]:
    """Return the bytes of the models to load before the fork, and of the largest that a process may load by itself.

    Where none is named to be preloaded, that is the largest of the newest versions in the bucket. A model that cannot
    be asked for counts nothing: whoever loads it says why.

    Raises
    ------
    StoreError
        The bucket cannot be listed: there is none, it is not ours, or it is away.
    """

    def ask(ref: str) -> int:
        with contextlib.suppress(ScorelineError):
            return registry.show(ref).memory_bytes
        return 0

    with ThreadPoolExecutor(8, thread_name_prefix="manifest") as pool:
        if preload:
            return sum(pool.map(ask, preload)), 0
        return 0, max(pool.map(ask, registry.names()[:_MODELS_LOOKED_AT]), default=0)


def limit_bytes(root: Path = Path("/")) -> int:
    """Return the memory of this container, else of the machine.

    Parameters
    ----------
    root : Path
        Where ``sys/fs/cgroup`` and ``proc/self/cgroup`` are; both versions of control groups are read, and every
        group that this process is in.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    mount = root / "sys/fs/cgroup"
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            limits += _read(mount, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _read(mount / "memory", path, "memory.limit_in_bytes")
    return min(limits)


def cores() -> int:
    """Count the cores that this process may use, by affinity and by the quota of its control group."""
    from joblib import cpu_count  # late: the main process of a worker that has its number needs no joblib

    return int(cpu_count())


def _read(mount: Path, path: str, name: str) -> list[int]:
    """Return the limits of a group and of those above it; inside a container only the mount itself may be there."""
    found = []
    folder = mount / path.strip("/")
    for group in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            value = int((group / name).read_text())
            if value < _UNLIMITED:
                found.append(value)
        if group == mount:
            break
    return found
