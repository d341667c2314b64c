"""What a worker process keeps in memory, read from the environment once."""

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
"""Of the 30 s that a dyno has: a part about to be written is written, the others are soon back in the queue."""


TIME_LIMIT_S = 600
SOFT_TIME_LIMIT_S = TIME_LIMIT_S - 60
"""What a part or a step may take."""
PROCESSES_KNOWN_S = 600
"""How long it is remembered how many processes there are, which `reconcile` counts."""
BEAT_CONNECTIONS = 2
"""Connections to Redis that the clock holds."""
PASSING_CONNECTIONS = 3
"""Connections that a worker opens for a moment: when it counts processes, or answers an application."""


def worker_connections(processes: int) -> int:
    """Count the connections to Redis that a worker holds: six of its main process, and two of each other.

    The broker's are for the queue, for what is not acknowledged, for control commands and for answers to them; each
    other process has the ledger's, and one to send. ``tests/faults/test_procfile.py`` counts them on a server.
    """
    return 6 + 2 * processes


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker keeps in memory."""

    concurrency: int | None
    """Processes of a worker; None where memory and cores decide."""
    cache_bytes: int | None
    """Of models, for each process; None where memory decides."""
    preload: tuple[str, ...]
    """Models to load before the fork, as ``name``, ``name@alias`` or ``name@version``."""
    lease_s: float
    """How long a part is left to a process that does not say that it lives."""
    reconcile_s: float
    """How often the clock asks for the jobs under way to be looked after."""
    tick_s: float
    """How often the clock asks for what the schedules have due."""
    soft_shutdown_s: float
    """How long parts may go on after the worker was told to stop; Celery sleeps all of it where any is under way."""
    parts_per_process: int
    """Parts of one job in the queue at once, for each process."""

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
