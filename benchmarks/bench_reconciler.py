"""Count the requests to R2 and the Redis commands of the reconciler in a month, by the number of jobs under way.

Each job has eight parts in flight: one is being scored, and seven wait in a long queue. The benchmark runs the rounds
of one hour, the third hour of the jobs, with a simulated clock. The Redis commands are those of ``INFO commandstats``.
The store counts its requests; a listing of 2,500 markers counts as three requests. For comparison, the last column is
the price if every round read the documents of every job.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import redis
from sklearn.dummy import DummyRegressor

from benchmarks.counted import PAGE_KEYS
from benchmarks.measure import no_options
from scoreline.storage import keys
from scoreline.storage.ledger.base import PartLease
from scoreline.storage.ledger.redis_ledger import RedisLedger
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch.dispatcher import Dispatcher
from scoreline.tasks.dispatch.reconcile import LIST_EVERY, reconcile, reconcile_due
from scoreline.testing import EagerClient, eager
from scoreline.worker.dev.stack import Stack

JOBS = (0, 100, 1_000, 10_000)
PARTS, ROUND_S, HOURS_A_MONTH = 8, 60.0, 730
CLASS_A, CLASS_B = 4.50, 0.36
"""Dollars per million operations, see https://developers.cloudflare.com/r2/pricing/."""
OWN_COMMANDS = {"info", "config", "ping", "client", "hello"}

counts: Counter[str] = Counter()
now = 1_800_000_000.0


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    for name in ("get", "head", "put", "delete"):
        count(name)
    print("| jobs under way | R2 lists | R2 reads | $ a month | Redis commands | each round at each job: $ a month |")
    print("|---|---|---|---|---|---|")
    for jobs in JOBS:
        with tempfile.TemporaryDirectory(dir=".scoreline") as folder, Stack(Path(".scoreline")) as stack:
            _measure(jobs, Path(folder), stack.environ["REDIS_URL"])


def _measure(jobs: int, folder: Path, url: str) -> None:
    global now
    with eager(folder, run=False) as client, redis.Redis.from_url(url) as connection:
        ledger = RedisLedger(url, namespace="bench", clock=lambda: now)
        dispatcher = replace(client.submission.dispatcher, ledger=ledger, send=lambda *_, **__: None)
        begin(client, dispatcher, jobs)
        for _ in range(12):
            now += LIST_EVERY * ROUND_S
            reconcile_due(dispatcher, clock=lambda: 0.0)
        counts.clear()
        connection.config_resetstat()
        for number in range(60):
            now += ROUND_S
            if number % LIST_EVERY == 0:
                connection.delete("scoreline:{bench}:listing")  # this lock does not follow the simulated clock
            reconcile_due(dispatcher, clock=lambda: 0.0)
        stats: Any = connection.info("commandstats")
        commands = {name.removeprefix("cmdstat_").split("|")[0]: row["calls"] for name, row in stats.items()}
        asked = HOURS_A_MONTH * sum(calls for name, calls in commands.items() if name not in OWN_COMMANDS)
        lists, reads, dollars = _month(HOURS_A_MONTH, jobs)
        counts.clear()
        reconcile(dispatcher)
        always = _month(60 * HOURS_A_MONTH, jobs)[2]
        print(f"| {jobs:,} | {lists:,} | {reads:,} | {dollars:.2f} | {asked / 1e6:,.1f} million | {always:.2f} |")
        ledger.disconnect()


def begin(client: EagerClient, dispatcher: Dispatcher, jobs: int) -> None:
    """Write planned jobs. One part of each job stays leased forever, as if a process were scoring it."""
    main = client.buckets.main
    model = DummyRegressor().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 1.0])
    client.models.publish("noop", model)
    uri = client.put("in/a.parquet", pd.DataFrame({"x": [float(n) for n in range(PARTS)]}))
    client.submit("noop", uri, job_id="first", part_rows=1)
    client.run(1)
    job, plan = main.get(keys.job("first")).data, main.get(keys.plan("first")).data
    sha256 = dispatcher.documents("first").plan.sha256
    main.delete(keys.active("first"))
    for number in range(jobs):
        job_id = f"job-{number:05}"
        main.put(keys.job(job_id), job.replace(b'"first"', f'"{job_id}"'.encode()))
        main.put(keys.plan(job_id), plan)
        dispatcher.mark_active(job_id)
        dispatcher.ledger.begin(job_id, sha256, PARTS, budget=0)
        dispatcher.ledger.dispatch(job_id, sha256, PARTS)
        lease = PartLease(job_id=job_id, plan_sha256=sha256, part=0, holder="busy", lease_s=1e9)
        dispatcher.ledger.start(lease)


def _month(times: int, jobs: int) -> tuple[int, int, float]:
    """Multiply the counted requests by `times`; return the listings, the other requests and the price of a month."""
    pages = max(1, -(-jobs // PAGE_KEYS))
    lists, reads = times * counts["list"] * pages, times * (counts["get"] + counts["head"])
    return lists, reads, (CLASS_A * (lists + times * counts["put"]) + CLASS_B * reads) / 1e6


def count(name: str) -> None:
    """Count the calls of a method of the store."""
    method = getattr(DirectoryStore, name)

    def call(self: DirectoryStore, *arguments: Any, **options: Any) -> Any:
        counts[name] += 1
        return method(self, *arguments, **options)

    setattr(DirectoryStore, name, call)


def _list(self: DirectoryStore, prefix: str) -> Any:
    counts["list"] += 1
    return _real_list(self, prefix)


_real_list = DirectoryStore.list
DirectoryStore.list = _list  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
