"""The settings of workers and of beat, read from the environment once, and limits that every worker shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import parse_ref
from scoreline.storage.settings import Environment
from scoreline.tasks.dispatch.dispatcher import LEASE_S, PARTS_PER_PROCESS

DEFAULT_CACHE_BYTES = 1 << 30
DEFAULT_RECONCILE_S = 60
DEFAULT_TICK_S = 30
DEFAULT_SOFT_SHUTDOWN_S = 8
"""How much of a dyno's 30 s parts may use: one that is nearly done is written, the others soon return to the queue."""

TIME_LIMIT_S = 600
SOFT_TIME_LIMIT_S = TIME_LIMIT_S - 60
"""How long a part or a step may take before it is interrupted; a minute later its process is killed."""
PROCESSES_KNOWN_S = 600
"""How long Redis keeps the number of worker processes, which `reconcile` counts."""
BEAT_CONNECTIONS = 2
"""Connections to Redis that beat holds."""
PASSING_CONNECTIONS = 3
"""Connections that a worker opens for a moment, to count processes or to answer an application."""


def worker_connections(processes: int) -> int:
    """Return how many connections to Redis a worker holds: six in its main process, and two in each child.

    The main process needs them for the queue, for unacknowledged messages, for control commands and for the replies to
    these. A child has one for the ledger and one to send. ``tests/faults/test_procfile.py`` counts them on a server.
    """
    return 6 + 2 * processes


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker, and of beat."""

    concurrency: int | None
    """Number of processes in the pool; if None, memory and cores decide."""
    cache_bytes: int | None
    """Memory for the models of each process; if None, what the process does not need otherwise."""
    preload: tuple[str, ...]
    """Models to load before the fork, as ``name``, ``name@alias`` or ``name@version``."""
    lease_s: float
    """Seconds after which a part is taken from a process that has stopped renewing its lease."""
    reconcile_s: float
    """Seconds between two messages of beat that ask for all jobs under way to be reconciled."""
    tick_s: float
    """Seconds between two messages of beat that ask for due schedules to be run."""
    soft_shutdown_s: float
    """Seconds that running parts have left when the worker stops. Celery sleeps for all of them if any part runs."""
    parts_per_process: int
    """How many parts of one job the queue holds at a time, for each worker process."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WorkerSettings:
        """Read the settings; raises `InvalidSettings` naming every fault at once."""
        env = Environment(environ)
        concurrency = env.number("WORKER_CONCURRENCY", 0, minimum=1) or None
        cache_bytes = (env.number("MODEL_CACHE_MB", 0, minimum=1) << 20) or None
        preload = tuple(ref.strip() for ref in env.text("PRELOAD_MODELS").split(",") if ref.strip())
        for ref in preload:
            try:
                parse_ref(ref)
            except InvalidRequest as error:
                env.faults.append(f"PRELOAD_MODELS: {error}")
        lease_s = env.number("PART_LEASE_SECONDS", int(LEASE_S), minimum=1)
        reconcile_s = env.number("RECONCILE_SECONDS", DEFAULT_RECONCILE_S, minimum=1)
        tick_s = env.number("TICK_SECONDS", DEFAULT_TICK_S, minimum=1)
        soft_shutdown_s = env.number("SOFT_SHUTDOWN_SECONDS", DEFAULT_SOFT_SHUTDOWN_S)
        parts_per_process = env.number("PARTS_PER_PROCESS", PARTS_PER_PROCESS, minimum=1)
        env.finish()
        return cls(
            concurrency=concurrency,
            cache_bytes=cache_bytes,
            preload=preload,
            lease_s=lease_s,
            reconcile_s=reconcile_s,
            tick_s=tick_s,
            soft_shutdown_s=soft_shutdown_s,
            parts_per_process=parts_per_process,
        )
