"""Checks that clocks agree, and that the time limits in the settings are consistent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from scoreline.storage.errors import QueueUnavailable, ScorelineError
from scoreline.tasks.dispatch.queue_names import SHARED
from scoreline.tasks.schedules.schedule import ON_TIME
from scoreline.worker.doctor.check import Finding, error, ok, warning
from scoreline.worker.doctor.context import Context
from scoreline.worker.settings import PROCESSES_KNOWN_S, TIME_LIMIT_S, WorkerSettings

SKEW_S = 2.0
"""Maximum difference of clocks in seconds. With a larger difference, leases are noticeably too long or too short."""
LARGE_SKEW_S = 60.0
"""If clocks differ by at least so many seconds, this is an error, because a lease lasts only as long. With a difference
of 15 minutes, the bucket refuses signatures."""
DYNO_STOPS_S = 30
LONGEST_SOFT_SHUTDOWN_S = 20
"""Maximum of SOFT_SHUTDOWN_SECONDS. A dyno has 30 s to stop, and needs the remaining time to return parts to the queue
and to finish uploads."""
SHORTEST_LEASE_S = 10
"""Minimum duration of a lease. A process renews a lease three times before it would expire, each time with a request to
Redis."""
DEFAULT_VISIBILITY_S = 3600
"""The default visibility timeout of kombu, for applications that do not set one."""
READ_TRIES = 5
"""Number of times that the store of a worker tries to read one object."""
_SET_CLOCK = "synchronise the clock of this machine or its host, for example with `timedatectl set-ntp true`"


def clocks_agree(context: Context) -> Iterator[Finding]:
    """Compare this machine's clock with the clocks of the bucket and of Redis."""
    offsets = {name: offset for name, offset in (_bucket_offset(context), _redis_offset(context)) if offset is not None}
    if not offsets:
        yield warning("neither the bucket nor Redis says what time it is", "fix the checks `redis` and `bucket` first")
        return
    far = {name: offset for name, offset in offsets.items() if abs(offset) > SKEW_S}
    for name, offset in far.items():
        message = (
            f"this machine's clock is {abs(offset):,.0f} s {'ahead of' if offset > 0 else 'behind'} that of {name}, "
            "and leases and signatures depend on it"
        )
        yield error(message, _SET_CLOCK) if abs(offset) > LARGE_SKEW_S else warning(message, _SET_CLOCK)
    if not far:
        yield ok(f"the clocks of this machine and of {' and '.join(offsets)} agree within {SKEW_S:g} s")


def _bucket_offset(context: Context) -> tuple[str, float | None]:
    from scoreline.storage.objects.r2 import R2Store  # importing boto3 takes 0.2 s, and not all stores need it

    if not context.storage.use_r2:
        return "the bucket", None
    try:
        store = context.store
        assert isinstance(store, R2Store)
        before = context.now()
        at = store.server_time().timestamp()
    except ScorelineError:  # the check `bucket` reports this error
        return "the bucket", None
    return "the bucket", _certain_offset(before, at, context.now(), 1.0)


def _redis_offset(context: Context) -> tuple[str, float | None]:
    before = context.now()
    try:
        at = context.ledger.server().now
    except ScorelineError:  # the check `redis` reports this error
        return "Redis", None
    return "Redis", None if at is None else _certain_offset(before, at, context.now(), 0.0)


def _certain_offset(before: float, at: float, after: float, resolution_s: float) -> float:
    """Return the minimum error of this clock in seconds.

    The clock of a server showed the time `at` at a moment between `before` and `after`.

    >>> _certain_offset(100.0, 100.5, 101.0, 0.0)
    0.0
    >>> _certain_offset(110.0, 100.0, 111.0, 1.0), _certain_offset(90.0, 100.0, 91.0, 1.0)
    (9.0, -9.0)
    """
    if before > at + resolution_s:
        return before - at - resolution_s
    return min(0.0, after - at)


def timeouts(context: Context) -> Iterator[Finding]:
    """Compare the time limits in the settings, in the Celery app and in the worker line of the Procfile."""
    wrong = [*_faults_of_settings(context, context.worker), *_faults_of_apps(context)]
    for message, remedy in wrong:
        yield warning(message, remedy)
    if not wrong:
        yield ok("leases, time limits and timeouts fit each other")


def _faults_of_settings(context: Context, worker: WorkerSettings) -> Iterator[tuple[str, str]]:
    if worker.soft_shutdown_s > LONGEST_SOFT_SHUTDOWN_S:
        yield (
            f"SOFT_SHUTDOWN_SECONDS={worker.soft_shutdown_s:g}: a dyno is killed {DYNO_STOPS_S} s after SIGTERM, "
            "before its parts are returned to the queue",
            f"set it to at most {LONGEST_SOFT_SHUTDOWN_S}; 8 is enough for a part that is nearly done",
        )
    if worker.lease_s < SHORTEST_LEASE_S:
        yield (
            f"PART_LEASE_SECONDS={worker.lease_s:g}: if Redis pauses for that long, parts are scored twice",
            f"set it to 60, and to at least {SHORTEST_LEASE_S}",
        )
    if worker.reconcile_s > PROCESSES_KNOWN_S:
        yield (
            f"RECONCILE_SECONDS={worker.reconcile_s:g}: a lost part waits that long, and the number of processes is "
            f"forgotten after {PROCESSES_KNOWN_S} s, so that too few parts are dispatched",
            f"set it to 60, and to at most {PROCESSES_KNOWN_S}",
        )
    if worker.lease_s > TIME_LIMIT_S:
        yield (
            f"PART_LEASE_SECONDS={worker.lease_s:g}: a part whose process died waits longer than a part may take",
            "set it to 60; a lease is renewed while its part is being scored",
        )
    if worker.tick_s > ON_TIME.total_seconds():
        yield (
            f"TICK_SECONDS={worker.tick_s:g}: slots are found more than {ON_TIME.total_seconds():g} s late, and then "
            "count as missed",
            "set it to 30",
        )
    r2 = context.storage.r2
    if r2 is not None and r2.timeout_s * READ_TRIES > TIME_LIMIT_S:
        yield (
            f"R2_TIMEOUT_SECONDS={r2.timeout_s:g}: {READ_TRIES} attempts to read one object may take longer than a "
            f"part's time limit of {TIME_LIMIT_S} s",
            "set it to 30, and to at most 100",
        )


def _faults_of_apps(context: Context) -> Iterator[tuple[str, str]]:
    """Compare this app with all workers on the broker, including the workers of other applications.

    All workers share the unacknowledged messages, so the shortest visibility timeout applies to every message.
    """
    confs: dict[str, Mapping[str, Any]] = {}
    from scoreline.worker.celery import app  # imported late, because it reads the settings, which may be invalid

    names = ("task_default_queue", "task_time_limit", "task_soft_time_limit", "broker_transport_options")
    confs["this app"] = {name: app.conf[name] for name in names} | _limits_on_line(context.worker_line)
    with contextlib.suppress(QueueUnavailable):  # the check `redis` reports this error
        confs |= {f"worker {name}": conf for name, conf in sorted(context.broker.ask_workers("conf").items())}
    ours = {
        who: conf
        for who, conf in confs.items()
        if conf.get("task_default_queue") in (context.broker.names.jobs, SHARED.jobs)
    }
    for who, conf in ours.items():
        if conf["task_soft_time_limit"] >= conf["task_time_limit"]:
            yield (
                f"{who}: the soft time limit of {conf['task_soft_time_limit']} s is not below the hard one of "
                f"{conf['task_time_limit']} s, so a part that takes too long cannot report it",
                "omit --soft-time-limit and --time-limit, or keep a minute between them",
            )
    limit_s = max((conf["task_time_limit"] for conf in ours.values()), default=0)
    for who, conf in confs.items() if context.queue.broker_url.startswith("redis") else ():
        visible_s = (conf.get("broker_transport_options") or {}).get("visibility_timeout", DEFAULT_VISIBILITY_S)
        if visible_s <= limit_s:
            yield (
                f"{who} has messages redelivered after {visible_s} s (visibility_timeout), but a task may take "
                f"{limit_s} s, so running parts are started again",
                f"raise the visibility_timeout of {who}, because the shortest one on a broker applies to all; or use a "
                "separate broker (CELERY_BROKER_URL)",
            )


def _limits_on_line(words: Sequence[str]) -> dict[str, int]:
    """Return the time limits in the worker line of the Procfile."""
    found = {}
    for option, name in (("--time-limit", "task_time_limit"), ("--soft-time-limit", "task_soft_time_limit")):
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            value = following if word == option else word.removeprefix(f"{option}=")
            if word.startswith(option) and value.isdigit():
                found[name] = int(value)
    return found
