"""Metrics of a deployment as Prometheus reads them, put together whenever somebody asks.

What happened is counted in Redis (`scoreline.storage.ledger.counters`); what is now is asked of Redis, the bucket, the
broker and the workers, all at once. What does not answer in time is left out: a missing metric says more than a wrong
zero.
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
from scoreline.tasks.client import Client
from scoreline.tasks.dispatch.queue import Backlog

log = logging.getLogger(__name__)

DEADLINE_S = 5.0
"""Half of the time that Prometheus gives a scrape unless it is told otherwise."""
SERVICES = ("redis", "bucket", "broker")


@dataclass(frozen=True, kw_only=True)
class Redis:
    """What Redis says of a deployment."""

    totals: Totals
    memory_bytes: int
    limit_bytes: int
    """0 where there is none."""
    last_tick: float | None
    """When a worker last did what the clock asks for, in seconds since 1970; None where it did not within a day."""


class Deployment(Collector):
    """One deployment.

    Parameters
    ----------
    client : Client
        Reaches its services.
    deadline_s : float
        How long a service is given to answer.
    """

    def __init__(self, client: Client, deadline_s: float = DEADLINE_S) -> None:
        self._client = client
        self._deadline_s = deadline_s

    def registry(self) -> CollectorRegistry:
        """Return what the library's functions take."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Ask every service and yield what is known."""
        said = gather(
            {
                "redis": self._redis,
                "bucket": self._jobs_active,
                "broker": self._client.queue.backlog,
                "workers": lambda: self._client.queue.ask_workers("gauges"),
            },
            self._deadline_s,
        )
        yield _up(said)
        if (redis := said.get("redis")) is not None:
            yield from _of_totals(redis.totals)
            yield from _of_redis(redis)
        if (active := said.get("bucket")) is not None:
            yield _gauge(
                "jobs_active",
                "Jobs under way: submitted and not ended, or with a webhook still to be sent. Counted in the bucket.",
                active,
            )
        if (backlog := said.get("broker")) is not None:
            yield from _of_broker(backlog)
        if (workers := said.get("workers")) is not None:
            yield from _of_workers(workers)

    def _redis(self) -> Redis:
        ledger = self._client.ledger
        totals, (used, limit), since_s = ledger.counters.read(), ledger.memory(), ledger.seconds_since_tick()
        last_tick = None if since_s is None else time.time() - since_s
        return Redis(totals=totals, memory_bytes=used, limit_bytes=limit, last_tick=last_tick)

    def _jobs_active(self) -> int:
        return sum(1 for _ in self._client.buckets.main.list(keys.JOBS_ACTIVE))


def gather(probes: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Ask all at once; what fails, or has not answered after so many seconds, is left out."""
    answers: dict[str, Any] = {}

    def ask(name: str, probe: Callable[[], Any]) -> None:
        try:
            answers[name] = probe()
        except ScorelineError as error:
            log.warning("metrics.unavailable", extra={"service": name, "error": describe(error)})

    threads = [threading.Thread(target=ask, args=item, daemon=True, name="probe") for item in probes.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def _up(said: Mapping[str, Any]) -> Metric:
    up = GaugeMetricFamily(
        "scoreline_up",
        "1 where the service answered this scrape within 5 s. At 0, the metrics that it would give are missing.",
        labels=["service"],
    )
    for service in SERVICES:
        up.add_metric([service], float(service in said))
    return up


def _of_totals(totals: Totals) -> Iterator[Metric]:
    jobs = CounterMetricFamily(
        "scoreline_jobs", "Jobs that ended, by state: partial is a success with some rows rejected.", labels=["state"]
    )
    for state, count in totals.jobs.items():
        jobs.add_metric([state], count)
    yield jobs
    yield CounterMetricFamily("scoreline_rows_scored", "Rows with a result.", value=totals.rows)
    yield CounterMetricFamily(
        "scoreline_rows_rejected",
        "Rows that could not be scored, and were set aside with the reason.",
        value=totals.rejected,
    )
    parts = CounterMetricFamily(
        "scoreline_parts",
        "Parts of jobs by outcome, each counted once however often it was delivered.",
        labels=["outcome"],
    )
    parts.add_metric(["scored"], totals.parts_scored)
    parts.add_metric(["failed"], totals.parts_failed)
    yield parts
    yield HistogramMetricFamily(
        "scoreline_part_duration_seconds",
        "Time to read, score and write one part, with loading its model where the process did not have it. Scored "
        "parts only; Celery ends one that takes 600 s.",
        buckets=[("+Inf" if bound == inf else str(bound), count) for bound, count in totals.part_buckets],
        sum_value=totals.part_seconds,
    )
    loads = SummaryMetricFamily(
        "scoreline_model_load_duration_seconds",
        "Time to stream a model from the bucket into one process, verified. One count a process and model is as it "
        "should be; more, and MODEL_CACHE_MB is too small for the models in use.",
        labels=["model"],
    )
    for name, load in totals.loads.items():
        loads.add_metric([name], load.count, load.seconds)
    yield loads


def _of_redis(redis: Redis) -> Iterator[Metric]:
    yield _gauge(
        "redis_memory_bytes",
        "Memory that Redis has allocated, for queue, ledger and whatever else it holds.",
        redis.memory_bytes,
    )
    if redis.limit_bytes:
        yield _gauge("redis_memory_limit_bytes", "Memory that Redis may allocate (maxmemory).", redis.limit_bytes)
    if redis.last_tick is not None:
        yield _gauge(
            "clock_last_tick_timestamp_seconds",
            "When a worker last looked at the schedules, as the clock (celery beat) asks for every 30 s. Well behind "
            "time(), either beat is down or no worker takes its messages.",
            redis.last_tick,
        )


def _of_broker(backlog: Backlog) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "scoreline_queue_messages",
        "Messages that wait for a worker. Each job keeps only a window of its parts here; while it grows in "
        "scoreline.clock, no worker is there to take them.",
        labels=["queue"],
    )
    for name, count in backlog.waiting.items():
        waiting.add_metric([name], count)
    yield waiting
    if backlog.unacked is not None:
        yield _gauge(
            "unacked_messages",
            "Messages that workers took and have not done with, of every application that shares this Redis.",
            backlog.unacked,
        )
    if backlog.oldest_unacked_s is not None:
        yield _gauge(
            "unacked_oldest_seconds",
            "How long a worker has had the message that it took first. Celery ends a task after 600 s: far above that, "
            "a worker died with its message, or hangs.",
            backlog.oldest_unacked_s,
        )


def _of_workers(answers: Mapping[str, Any]) -> Iterator[Metric]:
    workers = {
        name: answer for name, answer in answers.items() if "processes" in answer
    }  # others' know no such question
    yield _gauge("workers", "Workers that answered the broker within a second.", len(workers))
    processes = GaugeMetricFamily(
        "scoreline_worker_processes", "Processes that score parts, by worker.", labels=["worker"]
    )
    cached = GaugeMetricFamily(
        "scoreline_model_cache_bytes",
        "Memory of the models that the processes of a worker hold; what they share by PRELOAD_MODELS counts once.",
        labels=["worker"],
    )
    for name, gauges in sorted(workers.items()):
        processes.add_metric([name], gauges["processes"])
        cached.add_metric([name], gauges["cache_bytes"])
    yield processes
    yield cached


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"scoreline_{name}", documentation, value=value)
