"""Collects the metrics of a deployment for Prometheus at each scrape.

Redis stores the counters (`scoreline.storage.ledger.counters`). The current state comes from Redis, the bucket, the
broker and the workers; all of them are queried in parallel. If a service does not answer in time, its metrics are left
out, because a missing metric is less misleading than a zero.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from scoreline.storage import keys
from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.ledger.counters import Totals
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.tasks.backlog.reader import Backlog as Work
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.messages import Backlog
from scoreline.tasks.dispatch.queue import Queue
from scoreline.tasks.schedules.in_force import InForce, read_in_force
from scoreline.tasks.schedules.successes import Successes

log = logging.getLogger(__name__)

DEADLINE_S = 5.0
"""Seconds for all services to answer: half of the default scrape timeout of Prometheus, 10 s."""
SERVICES = ("redis", "bucket", "broker")


@dataclass(frozen=True, kw_only=True)
class Redis:
    """The metrics of a deployment that come from Redis."""

    totals: Totals
    memory_bytes: int
    limit_bytes: int
    """Memory limit of Redis; 0 if there is no limit."""
    last_tick: float | None
    """Time of the last tick that a worker ran, in seconds since 1970; None if no tick ran within a day."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The metrics of a deployment that come from the bucket."""

    jobs_active: int
    schedules: int
    schedule_faults: int
    successes: Mapping[str, float]
    """The latest slot of each schedule whose job succeeded, in seconds since 1970."""


class Deployment(Collector):
    """A collector of the metrics of one deployment.

    Parameters
    ----------
    client : Client
        The client, which has connections to the services of the deployment.
    deadline_s : float
        Seconds within which a service must answer.
    """

    def __init__(self, client: Client, deadline_s: float = DEADLINE_S) -> None:
        self._client = client
        self._deadline_s = deadline_s
        self._successes = Successes()

    def registry(self) -> CollectorRegistry:
        """Return a registry that contains only this collector."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Query all services, and yield the metrics of the services that answered."""
        answers = query_all(
            {
                "redis": self._redis,
                "bucket": self._in_bucket,
                "broker": self._client.queue.backlog,
                "workers": self._gauges,
                "work": self._client.backlog,
            },
            self._deadline_s,
        )
        yield _up(answers)
        if (redis := answers.get("redis")) is not None:
            yield from _job_metrics(redis.totals)
            yield from _redis_metrics(redis)
        if (bucket := answers.get("bucket")) is not None:
            yield from _bucket_metrics(bucket)
        if (backlog := answers.get("broker")) is not None:
            yield from _queue_metrics(backlog)
        if (work := answers.get("work")) is not None:
            yield from _work_metrics(work)
        if (workers := answers.get("workers")) is not None:
            yield from _worker_metrics(workers)

    def _redis(self) -> Redis:
        ledger = self._client.ledger
        assert isinstance(ledger, RedisLedger)  # always, except in tests
        totals, (used, limit), since_s = ledger.counters.read(), ledger.memory(), ledger.seconds_since_tick()
        last_tick = None if since_s is None else time.time() - since_s
        return Redis(totals=totals, memory_bytes=used, limit_bytes=limit, last_tick=last_tick)

    def _gauges(self) -> dict[str, Any]:
        queue = self._client.queue
        assert isinstance(queue, Queue)  # always, except in tests
        return queue.own_gauges()

    def _in_bucket(self) -> Bucket:
        main = self._client.buckets.main
        active = sum(1 for _ in main.list(keys.JOBS_ACTIVE))
        in_force = read_in_force(main) or InForce()
        return Bucket(
            jobs_active=active,
            schedules=len(in_force.tables),
            schedule_faults=len(in_force.faults),
            successes=self._successes.of(main, in_force.tables),
        )


def query_all(probes: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Call all probes in parallel. Leave out probes that fail or take longer than `seconds`."""
    answers: dict[str, Any] = {}

    def query(name: str, probe: Callable[[], Any]) -> None:
        try:
            answers[name] = probe()
        except ScorelineError as error:
            log.warning("metrics.unavailable", extra={"service": name, "error": describe(error)})

    threads = [threading.Thread(target=query, args=item, daemon=True, name="probe") for item in probes.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def _up(answers: Mapping[str, Any]) -> Metric:
    up = GaugeMetricFamily(
        "scoreline_up",
        "Whether the service answered this scrape within 5 s. If 0, the metrics that come from it are missing.",
        labels=["service"],
    )
    for service in SERVICES:
        up.add_metric([service], float(service in answers))
    return up


def _job_metrics(totals: Totals) -> Iterator[Metric]:
    jobs = CounterMetricFamily(
        "scoreline_jobs",
        "Jobs that have ended, by state. Partial means success with some rows rejected. A slot of a schedule whose job "
        "was refused counts as failed.",
        labels=["state"],
    )
    for state, count in totals.jobs.items():
        jobs.add_metric([state], count)
    yield jobs
    yield CounterMetricFamily("scoreline_rows_scored", "Rows that were scored.", value=totals.rows)
    yield CounterMetricFamily(
        "scoreline_rows_rejected",
        "Rows that were rejected because they could not be scored.",
        value=totals.rejected,
    )
    parts = CounterMetricFamily(
        "scoreline_parts",
        "Parts that are done, by outcome. Each counts once, however often it was delivered.",
        labels=["outcome"],
    )
    parts.add_metric(["scored"], totals.parts_scored)
    parts.add_metric(["failed"], totals.parts_failed)
    yield parts
    yield HistogramMetricFamily(
        "scoreline_part_duration_seconds",
        "Time to read, score and write one part, including the load of its model if the process did not hold it. "
        "Scored parts only. Celery ends a part after 600 s.",
        buckets=[("+Inf" if bound == inf else str(bound), count) for bound, count in totals.part_buckets],
        sum_value=totals.part_seconds,
    )
    loads = SummaryMetricFamily(
        "scoreline_model_load_duration_seconds",
        "Time to load and verify a model from the bucket into one process. More than one load for each process means "
        "that MODEL_CACHE_MB is too small for the models in use.",
        labels=["model"],
    )
    for name, load in totals.loads.items():
        loads.add_metric([name], load.count, load.seconds)
    yield loads


def _redis_metrics(redis: Redis) -> Iterator[Metric]:
    yield _gauge(
        "redis_memory_bytes",
        "Memory that Redis has allocated for the queue, the ledger and all other keys.",
        redis.memory_bytes,
    )
    if redis.limit_bytes:
        yield _gauge("redis_memory_limit_bytes", "Memory that Redis may allocate (maxmemory).", redis.limit_bytes)
    if redis.last_tick is not None:
        yield _gauge(
            "clock_last_tick_timestamp_seconds",
            "When a worker last ran a tick, which celery beat asks for every 30 s. If this falls well behind time(), "
            "beat is down or no worker takes its messages.",
            redis.last_tick,
        )


def _bucket_metrics(bucket: Bucket) -> Iterator[Metric]:
    yield _gauge(
        "jobs_active",
        "Jobs in the bucket that have not ended, or whose webhook has not been sent.",
        bucket.jobs_active,
    )
    yield _gauge("schedules", "Schedules in force, as the latest tick found them.", bucket.schedules)
    yield _gauge(
        "schedule_faults",
        "Faults in the text of the schedules, as the latest tick found them. The schedules that they concern run as "
        "they were before.",
        bucket.schedule_faults,
    )
    latest = GaugeMetricFamily(
        "scoreline_schedule_last_success_timestamp_seconds",
        "The latest slot whose job succeeded or was partial, in seconds since 1970, for each schedule in force.",
        labels=["schedule"],
    )
    for name, slot in sorted(bucket.successes.items()):
        latest.add_metric([name], slot)
    yield latest


def _queue_metrics(backlog: Backlog) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "scoreline_queue_messages",
        "Messages that wait for a worker. A job has only a window of its parts in the queue. If the queue "
        "scoreline.clock.<bucket> grows, no worker is taking messages.",
        labels=["queue"],
    )
    for name, count in backlog.waiting.items():
        waiting.add_metric([name], count)
    yield waiting
    if backlog.unacked is not None:
        yield _gauge(
            "unacked_messages",
            "Messages that workers have taken and not acknowledged, in all applications that share this Redis.",
            backlog.unacked,
        )
    if backlog.oldest_unacked_s is not None:
        yield _gauge(
            "unacked_oldest_seconds",
            "Age of the oldest unacknowledged message. Celery ends a task after 600 s; far above that, a worker has "
            "died or hangs.",
            backlog.oldest_unacked_s,
        )


def _work_metrics(work: Work) -> Iterator[Metric]:
    seconds = GaugeMetricFamily(
        "scoreline_backlog_seconds",
        "Seconds that one process would take for the rest of all jobs under way, by the pace of earlier jobs with the "
        "same model version.",
        labels=["group"],
    )
    rows = GaugeMetricFamily(
        "scoreline_backlog_rows", "Rows left to score in all jobs that are planned.", labels=["group"]
    )
    jobs = GaugeMetricFamily(
        "scoreline_backlog_jobs",
        "Jobs that have not ended. Jobs that wait for their plan have no seconds and no rows yet.",
        labels=["group"],
    )
    for group, found in work.groups().items():
        seconds.add_metric([group], found.seconds)
        rows.add_metric([group], found.rows)
        jobs.add_metric([group], found.jobs)
    yield seconds
    yield rows
    yield jobs


def _worker_metrics(workers: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("workers", "Workers that answered the broker within a second.", len(workers))
    processes = GaugeMetricFamily("scoreline_worker_processes", "Processes in the pool of a worker.", labels=["worker"])
    cached = GaugeMetricFamily(
        "scoreline_model_cache_bytes",
        "Memory of the models that the processes of a worker hold. Models of PRELOAD_MODELS are shared and count once.",
        labels=["worker"],
    )
    for name, gauges in sorted(workers.items()):
        processes.add_metric([name], gauges["processes"])
        cached.add_metric([name], gauges["cache_bytes"])
    yield processes
    yield cached


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"scoreline_{name}", documentation, value=value)
