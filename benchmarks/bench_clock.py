"""Count the requests to R2 in an hour, for several numbers of schedules and of jobs under way.

Beat requests a tick of the schedules every 30 seconds, and a round of the reconciler every minute. Two processes take
turns. Jobs wait in a long queue, with one of eight parts being scored. The clock is simulated. The hour that is counted
is the third after the submission of the jobs. A listing of 2,500 markers counts as three requests.

Claim: an idle deployment costs at most 200 requests an hour.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import bench_reconciler
from benchmarks.counted import PAGE_KEYS
from benchmarks.measure import no_options, record_figure
from scoreline.storage import keys
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.tasks.dispatch.reconcile import reconcile_due
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.testing import eager

JOBS, SCHEDULES = (0, 100, 10_000), (0, 1, 2, 5, 20)
LIMIT = 200.0
TICK_S, ROUND_S = 30, 60
NIGHTLY = """
[nightly{number}]
cron = "30 2 * * *"
zone = "Europe/Berlin"
model = "noop"
input = "s3://scoreline/in/"
"""
BEGUN = datetime(2026, 11, 25, 12, tzinfo=UTC)

now = BEGUN


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    for name in ("get", "head", "put", "delete"):
        bench_reconciler.count(name)
    print("| jobs under way | schedules | lists | reads | writes | all |\n|---|---|---|---|---|---|")
    idle = [_measure(0, schedules) for schedules in SCHEDULES]
    for jobs in JOBS[1:]:
        _measure(jobs, 1)
    record_figure("clock-idle", "requests an hour to R2 of an idle deployment", [max(idle)], LIMIT)


def _measure(jobs: int, schedules: int) -> float:
    """Print a row, and return the number of requests in an hour."""
    global now
    now = BEGUN
    with tempfile.TemporaryDirectory(dir=".scoreline") as folder, eager(folder, run=False) as client:
        ledger = MemoryLedger(clock=lambda: now.timestamp())
        dispatcher = replace(client.submission.dispatcher, ledger=ledger, send=lambda *_, **__: None)
        client.ledger = ledger
        bench_reconciler.begin(client, dispatcher, jobs)
        if schedules:
            text = "".join(NIGHTLY.format(number=number) for number in range(schedules))
            client.buckets.main.put(keys.SCHEDULES, text.encode())
        processes = [Scheduler(client, Path(folder, "none.toml"), rest_s=1.5 * TICK_S) for _ in range(2)]
        counts: Counter[str] = bench_reconciler.counts
        for number in range(3 * 3600 // TICK_S):
            now += timedelta(seconds=TICK_S)
            if number == 2 * 3600 // TICK_S:
                counts.clear()
            processes[number % 2].tick(now)
            if number * TICK_S % ROUND_S == 0:
                reconcile_due(dispatcher, clock=lambda: 0.0)
        lists = counts["list"] * max(1, -(-jobs // PAGE_KEYS))
        reads, writes = counts["get"] + counts["head"], counts["put"] + counts["delete"]
        print(
            f"| {jobs:,} | {schedules} | {lists:,} | {reads:,} | {writes:,} | {lists + reads + writes:,} |", flush=True
        )
        return float(lists + reads + writes)


if __name__ == "__main__":
    main()
