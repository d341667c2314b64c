"""Whether clocks agree, and whether the times in the settings fit each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from scoreline.storage.errors import QueueUnavailable, ScorelineError
from scoreline.tasks.dispatch.queue import QUEUE
from scoreline.tasks.schedules.schedule import ON_TIME
from scoreline.worker.doctor.base import Finding, error, ok, warning
from scoreline.worker.doctor.setup import Setup
from scoreline.worker.settings import PROCESSES_KNOWN_S, TIME_LIMIT_S, WorkerSettings

SKEW_S = 2.0
"""More makes leases of other lengths than they are."""
LARGE_SKEW_S = 60.0
"""More than a whole lease; and from 15 minutes on, signatures are refused."""
DYNO_STOPS_S = 30
LONGEST_SOFT_SHUTDOWN_S = 20
"""Of a dyno's 30 s; the rest is for giving parts back and for uploads to be ended."""
SHORTEST_LEASE_S = 10
"""It is renewed three times in its length, each time by a request to Redis."""
DEFAULT_VISIBILITY_S = 3600
"""What kombu takes where an application says nothing."""
READ_TRIES = 5
"""What a worker's store does for one object."""
_SET_CLOCK = "set the clock of this machine: timedatectl set-ntp true, or have its host do so"


def clocks_agree(setup: Setup) -> Iterator[Finding]:
    """Compare this machine's clock with those of the bucket and of Redis."""
    offsets = {name: offset for name, offset in (_bucket_offset(setup), _redis_offset(setup)) if offset is not None}
    if not offsets:
        yield warning("no server says what time it is", "mend redis and bucket")
        return
    far = {name: offset for name, offset in offsets.items() if abs(offset) > SKEW_S}
    for name, offset in far.items():
        message = (
            f"this machine's clock is {abs(offset):,.0f} s {'ahead of' if offset > 0 else 'behind'} that of {name}: "
            "leases and signatures go by it"
        )
        yield error(message, _SET_CLOCK) if abs(offset) > LARGE_SKEW_S else warning(message, _SET_CLOCK)
    if not far:
        yield ok(f"the clocks of this machine and of {' and '.join(offsets)} agree to {SKEW_S:g} s")


def _bucket_offset(setup: Setup) -> tuple[str, float | None]:
    from scoreline.storage.objects.r2 import (
        R2Store,
    )  # boto3 takes 0.2 s to import

    if not setup.storage.use_r2:
        return "the bucket", None
    try:
        store = setup.store
        assert isinstance(store, R2Store)
        before = setup.now()
        at = store.now().timestamp()
    except ScorelineError:  # the check of the bucket says why
        return "the bucket", None
    return "the bucket", _outside(before, at, setup.now(), 1.0)


def _redis_offset(setup: Setup) -> tuple[str, float | None]:
    before = setup.now()
    try:
        at = setup.ledger.server().now
    except ScorelineError:  # the check of Redis says why
        return "Redis", None
    return "Redis", None if at is None else _outside(before, at, setup.now(), 0.0)


def _outside(before: float, at: float, after: float, resolution_s: float) -> float:
    """Seconds by which this clock is certainly off, where a server read `at` between `before` and `after`.

    >>> _outside(100.0, 100.5, 101.0, 0.0), _outside(110.0, 100.0, 111.0, 1.0), _outside(90.0, 100.0, 91.0, 1.0)
    (0.0, 9.0, -9.0)
    """
    if before > at + resolution_s:
        return before - at - resolution_s
    return min(0.0, after - at)


def timeouts(setup: Setup) -> Iterator[Finding]:
    """Hold the times in the settings, in the app and on the Procfile's line against each other."""
    wrong = [*_of_settings(setup, setup.worker), *_of_apps(setup)]
    for message, remedy in wrong:
        yield warning(message, remedy)
    if not wrong:
        yield ok("leases, time limits and timeouts fit each other")


def _of_settings(setup: Setup, worker: WorkerSettings) -> Iterator[tuple[str, str]]:
    if worker.soft_shutdown_s > LONGEST_SOFT_SHUTDOWN_S:
        yield (
            f"SOFT_SHUTDOWN_SECONDS={worker.soft_shutdown_s:g}: a dyno is killed {DYNO_STOPS_S} s after it is told to "
            "stop, before its parts are given back",
            f"at most {LONGEST_SOFT_SHUTDOWN_S}; 8 is enough for a part that is nearly done",
        )
    if worker.lease_s < SHORTEST_LEASE_S:
        yield (
            f"PART_LEASE_SECONDS={worker.lease_s:g}: a pause of Redis as short as that has parts scored twice",
            "60, and at least 10",
        )
    if worker.reconcile_s > PROCESSES_KNOWN_S:
        yield (
            f"RECONCILE_SECONDS={worker.reconcile_s:g}: a lost part waits so long, and how many processes there are is "
            f"forgotten after {PROCESSES_KNOWN_S} s, so that few parts are given out",
            f"60, and at most {PROCESSES_KNOWN_S}",
        )
    if worker.lease_s > TIME_LIMIT_S:
        yield (
            f"PART_LEASE_SECONDS={worker.lease_s:g}: a part whose process died waits longer than any part may take",
            "60: it is renewed while a part is being scored",
        )
    if worker.tick_s > ON_TIME.total_seconds():
        yield (
            f"TICK_SECONDS={worker.tick_s:g}: slots are seen over {ON_TIME.total_seconds():g} s late, which counts as "
            "missed",
            "30",
        )
    r2 = setup.storage.r2
    if r2 is not None and r2.timeout_s * READ_TRIES > TIME_LIMIT_S:
        yield (
            f"R2_TIMEOUT_SECONDS={r2.timeout_s:g}: {READ_TRIES} tries of one object take longer than a part may",
            "30, and at most 100",
        )


def _of_apps(setup: Setup) -> Iterator[tuple[str, str]]:
    """Compare this app and every worker of any application on the broker: the shortest visibility timeout wins."""
    confs: dict[str, Mapping[str, Any]] = {}
    from scoreline.worker.celery import app  # late: it reads the settings, which may be what is wrong

    names = ("task_default_queue", "task_time_limit", "task_soft_time_limit", "broker_transport_options")
    confs["the app"] = {name: app.conf[name] for name in names} | _on_line(setup.worker_line)
    with contextlib.suppress(QueueUnavailable):  # the check of Redis says why
        confs |= {f"worker {name}": conf for name, conf in sorted(setup.broker.ask_workers("conf").items())}
    ours = {who: conf for who, conf in confs.items() if conf.get("task_default_queue") == QUEUE}
    for who, conf in ours.items():
        if conf["task_soft_time_limit"] >= conf["task_time_limit"]:
            yield (
                f"{who}: a soft limit of {conf['task_soft_time_limit']} s is not below the hard one of "
                f"{conf['task_time_limit']} s: a part that is cut off cannot say so",
                "leave --soft-time-limit and --time-limit away, or keep a minute between them",
            )
    limit_s = max((conf["task_time_limit"] for conf in ours.values()), default=0)
    for who, conf in confs.items() if setup.queue.broker_url.startswith("redis") else ():
        visible_s = (conf.get("broker_transport_options") or {}).get("visibility_timeout", DEFAULT_VISIBILITY_S)
        if visible_s <= limit_s:
            yield (
                f"{who} has messages given out again after {visible_s} s (visibility_timeout), and a task may take "
                f"{limit_s} s: parts that are under way are begun again",
                "a longer visibility_timeout there: the shortest of all applications on a broker wins; or a broker of "
                "its own (CELERY_BROKER_URL)",
            )


def _on_line(words: Sequence[str]) -> dict[str, int]:
    """Return the time limits that the Procfile's line gives the worker."""
    found = {}
    for option, name in (("--time-limit", "task_time_limit"), ("--soft-time-limit", "task_soft_time_limit")):
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            value = following if word == option else word.removeprefix(f"{option}=")
            if word.startswith(option) and value.isdigit():
                found[name] = int(value)
    return found
