"""Computes how many worker processes fit into the memory of this machine, and how much memory each process may use.

A dyno that runs out of memory is killed, or slows down because it swaps. Before a worker forks, it therefore computes
the number of processes. The number follows from the memory limit, the memory of one process, and the measured memory of
the models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scoreline.storage.errors import ScorelineError
from scoreline.storage.models.registry import ModelRegistry
from scoreline.worker.settings import DEFAULT_CACHE_BYTES

log = logging.getLogger(__name__)

MIB = 1 << 20
SHARED_BYTES = 230 * MIB
"""Memory of the main process, most of which its children share. On Linux x86-64, 218 MiB were measured."""
PROCESS_BYTES = 260 * MIB
"""Unshared memory of a child, without models. On 250,000 rows of 20 columns, 241 to 262 MiB were measured."""
USABLE = 0.95
"""Fraction of the memory limit that processes may use. The rest is for the shell, page tables, and unmeasured
memory."""
_MAX_MODELS_MEASURED = 100


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """How a worker divides its memory."""

    limit_bytes: int
    processes: int
    cache_bytes: int
    """Memory that each process may use for models."""
    process_bytes: int
    """Resident memory, including shared pages, above which a process is replaced after its current task."""
    short_bytes: int
    """Memory that is missing for each process; 0 if all processes fit."""


def size(
    *,
    limit_bytes: int,
    cores: int,
    asked: int | None = None,
    preloaded_bytes: int = 0,
    model_bytes: int = 0,
    cache_bytes: int | None = None,
) -> Sizing:
    """Divide the memory among as many processes as possible: at least one, and at most one for each core.

    Parameters
    ----------
    limit_bytes : int
        Memory of the machine or the container.
    cores : int
        Number of cores that the worker may use. More processes would only compete for the cores.
    asked : int, optional
        The number of processes that the user has set, which is used even if memory is short.
    preloaded_bytes : int
        Size of the models that are loaded before the fork, which all processes share.
    model_bytes : int
        Size of the largest model that a process may have to load.
    cache_bytes : int, optional
        Memory for the models of each process, if a setting fixes it. By default, models may use the rest of the memory,
        up to 1 GiB.

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


def measure_models(registry: ModelRegistry, preload: Sequence[str]) -> tuple[int, int]:
    """Return the total size of all models in `preload`, and the size of the largest model that a process may load.

    If models are preloaded, the second size is 0. Otherwise, the newest version of each model in the bucket is
    measured. If the manifest of a model cannot be read, its size counts as 0; loading the model reports the error.

    Raises
    ------
    StoreError
        The bucket cannot be listed: it does not exist, access is denied, or the store is unreachable.
    """

    def size_of(ref: str) -> int:
        try:
            return registry.show(ref).memory_bytes
        except ScorelineError:
            return 0
        except Exception:  # other models must still be measured
            log.exception("models.unmeasured", extra={"model": ref})
            return 0

    with ThreadPoolExecutor(8, thread_name_prefix="manifest") as pool:
        if preload:
            return sum(pool.map(size_of, preload)), 0
        return 0, max(pool.map(size_of, registry.names()[:_MAX_MODELS_MEASURED]), default=0)


def cores() -> int:
    """Return how many cores this process may use, according to its CPU affinity and its cgroup quota."""
    from joblib import cpu_count  # imported late, because `doctor` also works without joblib

    return int(cpu_count())
