"""The settings of workers and beat, which are read once from the environment, and the limits of all workers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.keys import is_name
from scoreline.storage.ledger.shares import MAX_WEIGHT
from scoreline.storage.models.manifest import parse_ref
from scoreline.storage.settings import Environment
from scoreline.tasks.dispatch.dispatcher import LEASE_S, PARTS_PER_PROCESS
from scoreline.tasks.job.plan import BATCH_BYTES

DEFAULT_CACHE_BYTES = 1 << 30
DEFAULT_SPOOL_BYTES = 256 << 20
DEFAULT_RECONCILE_S = 60
DEFAULT_TICK_S = 30
DEFAULT_REDIS_IDLE_S = 10
DEFAULT_SOFT_SHUTDOWN_S = 8
"""Seconds that running parts have to finish when a dyno is stopped. The dyno itself has 30 s. Unfinished parts return
to the queue."""

GC_S = 600
"""Seconds between two messages with which beat requests that old results are removed. Once a day, such a message begins
a round, and the next messages continue it until it is done. All other messages have no effect."""
TIME_LIMIT_S = 600
SOFT_TIME_LIMIT_S = TIME_LIMIT_S - 60
"""Seconds after which a part or a step is interrupted. A minute later, the process of the part is killed."""
PROCESSES_KNOWN_S = 600
"""Seconds for which Redis stores the number of worker processes, which the task `reconcile` counts."""
BEAT_CONNECTIONS = 1
"""Number of connections to Redis that beat opens while it sends a message."""
CLIENT_CONNECTIONS = 2
"""Connections to Redis of each application that submits jobs, and of each command."""
PASSING_CONNECTIONS = 2
"""Number of connections that a worker opens for a moment. The first waits for answers when the worker counts the
processes of all workers. The second finds the queue of a message that the worker returns to the queue."""


def worker_connections(processes: int) -> int:
    """Return the number of Redis connections of a busy worker: three in the main process and one in each child.

    The main process waits for messages on the first connection, and for remote control on the second. Redis has no
    command that waits for both, and a waiting connection cannot send commands. Commands use the third connection. The
    third connection and the connections of the children are closed while they are idle.
    ``tests/faults/test_procfile.py`` counts the connections on a server.
    """
    return 3 + processes


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker, and of beat."""

    concurrency: int | None
    """Number of processes in the pool; if None, the number is computed from memory and cores."""
    cache_bytes: int | None
    """Memory for the models of each process; if None, the memory that the process does not need otherwise."""
    preload: tuple[str, ...]
    """Models to load before the fork, as ``name``, ``name@alias`` or ``name@version``."""
    lease_s: float
    """Seconds after which a part is given to another process, unless its lease is renewed."""
    reconcile_s: float
    """Seconds between two messages with which beat requests that jobs under way are reconciled."""
    tick_s: float
    """Seconds between two messages with which beat requests that due schedules are run."""
    soft_shutdown_s: float
    """Seconds that running parts have to finish when the worker stops. Celery sleeps this long if any part is
    running."""
    redis_idle_s: float
    """Seconds after which a process closes a connection to Redis that it does not use."""
    parts_per_process: int
    """Maximum number of parts of one job in the queue, for each worker process."""
    group_weights: Mapping[str, int]
    """Weights of groups of jobs. A group with the weight 3 gets three times as much time as one with the weight 1."""
    batch_bytes: int
    """Maximum memory of the rows that are scored together, with their features and results."""
    spool_bytes: int
    """Maximum size of the small objects that each process keeps on disk for all processes of the worker."""
    profile: bool
    """Whether the rows of jobs are counted that do not say so themselves."""
    remote_control: bool
    """Whether ``celery control`` may change the worker. Anyone with access to the broker can send commands."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WorkerSettings:
        """Read the settings; raises `InvalidSettings` with a message that lists all faults."""
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
        redis_idle_s = env.number("REDIS_IDLE_SECONDS", DEFAULT_REDIS_IDLE_S, minimum=1)
        parts_per_process = env.number("PARTS_PER_PROCESS", PARTS_PER_PROCESS, minimum=1)
        group_weights = _weights(env)
        batch_bytes = env.number("BATCH_MB", BATCH_BYTES >> 20, minimum=1) << 20
        spool_bytes = env.number("SMALL_OBJECTS_MB", DEFAULT_SPOOL_BYTES >> 20) << 20
        profile = env.flag("DATA_PROFILE", True)
        remote_control = env.flag("REMOTE_CONTROL", False)
        env.finish()
        return cls(
            concurrency=concurrency,
            cache_bytes=cache_bytes,
            preload=preload,
            lease_s=lease_s,
            reconcile_s=reconcile_s,
            tick_s=tick_s,
            soft_shutdown_s=soft_shutdown_s,
            redis_idle_s=redis_idle_s,
            parts_per_process=parts_per_process,
            group_weights=group_weights,
            batch_bytes=batch_bytes,
            spool_bytes=spool_bytes,
            profile=profile,
            remote_control=remote_control,
        )


def _weights(env: Environment) -> dict[str, int]:
    """Read GROUP_WEIGHTS, in the form ``name=weight,name=weight``."""
    weights: dict[str, int] = {}
    for item in filter(None, (item.strip() for item in env.text("GROUP_WEIGHTS").split(","))):
        name, _, weight = (text.strip() for text in item.partition("="))
        if not is_name(name) or not re.fullmatch(r"[0-9]{1,4}", weight) or not 1 <= int(weight) <= MAX_WEIGHT:
            env.faults.append(
                f"GROUP_WEIGHTS: {item!r} is not of the form NAME=WEIGHT, with a whole number from 1 to {MAX_WEIGHT}"
            )
        elif name in weights:
            env.faults.append(f"GROUP_WEIGHTS: the group {name!r} has two weights")
        else:
            weights[name] = int(weight)
    return weights
