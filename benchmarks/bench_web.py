"""Measure what the pages cost if there are 10,000 jobs, all submitted on one day.

Claims: once it is warm, the page of jobs takes at most 0.3 s and 30 requests to the bucket, the page of a job takes at
most 0.15 s, and the process needs at most 150 MiB. Fifty people who watch one job cause at most 2 reads of the bucket
and 5 Redis commands a second. A relay in front of the embedded S3 server counts the requests, and Redis counts its
commands.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import redis

from benchmarks.counting_relay import CountingRelay
from benchmarks.measure import no_options, record_figure
from scoreline.storage import keys
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Job, Outcome, mark_active
from scoreline.tasks.job.index_entry import entry_of
from scoreline.tasks.job.spec import JobSpec
from scoreline.worker.dev.stack import Stack

JOBS, PEOPLE, WATCH_S, RUNS = 10_000, 50, 10, 5
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)
MODEL = PinnedModel(name="churn", version="20261101T120000Z-0a1b2", manifest_sha256="0" * 64)
UNDER_WAY, OUTPUT = "watched", "s3://scoreline/results/churn/"
MIB = 1 << 20


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    with CountingRelay() as relay, Stack(Path(".scoreline")) as stack:
        relay.server_port = urlsplit(stack.environ["R2_ENDPOINT_URL"]).port or 80
        client = Client.from_env(stack.environ)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: _write_entry(client.buckets.main, number), range(JOBS)))
        built = {"at": MIDNIGHT.isoformat(), "jobs": JOBS}
        client.buckets.main.put(keys.JOBS_INDEX_BUILT, json.dumps(built).encode())
        _write_under_way(client)
        address = stack.start_web({"R2_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}"})
        (process,) = psutil.Process(stack.guard_pids()[-1]).children()
        (server,) = process.children() or [process]
        print("| figure | measured | limit | |\n|---|---|---|---|")
        _page("jobs", f"{address}jobs/", relay, 0.3, 30)
        _page("job", f"{address}jobs/{UNDER_WAY}/", relay, 0.15, None)
        _page("home", f"{address}", relay, None, None)
        relay.requests.clear()
        counting = redis.Redis.from_url(stack.environ["REDIS_URL"])
        commands, begun = _commands(counting), time.monotonic()
        with ThreadPoolExecutor(PEOPLE) as pool:
            list(pool.map(lambda _: _watch(f"{address}jobs/{UNDER_WAY}/", begun + WATCH_S), range(PEOPLE)))
        took = time.monotonic() - begun
        reads_per_s, commands_per_s = len(relay.requests) / took, (_commands(counting) - commands) / took
        record_figure("web_watch_reads", f"requests a second for {PEOPLE} people who watch a job", [reads_per_s], 2)
        record_figure("web_watch_commands", "Redis commands a second, likewise", [commands_per_s], 5)
        record_figure("web_mib", "MiB of the process", [server.memory_info().rss / MIB], 150)


def _commands(server: redis.Redis) -> int:
    """Return how many commands the Redis has carried out."""
    return int(server.info("stats")["total_commands_processed"])


def _job(job_id: str, number: int) -> Job:
    """Return a job. Jobs are 8 s apart."""
    submitted = (MIDNIGHT + timedelta(seconds=8 * number)).isoformat(timespec="milliseconds")
    return Job(
        spec=JobSpec(job_id=job_id, model="churn", inputs=("s3://scoreline/in/",), output=OUTPUT),
        model=MODEL,
        submitted=submitted,
    )


def _write_entry(store: ObjectStore, number: int) -> None:
    """Write the entry of a job that has ended."""
    outcome = Outcome(state="succeeded", rows=1_000, parts=1, parts_done=1, seconds=2.0, failures={})
    entry = entry_of(_job(f"job-{number:05}", number), outcome)
    store.put(entry.key, entry.to_json())


def _write_under_way(client: Client) -> None:
    """Write a job that waits for a worker."""
    job, main = _job(UNDER_WAY, JOBS), client.buckets.main
    client.ledger.watchlist.add([UNDER_WAY])
    mark_active(main, UNDER_WAY)
    main.put(keys.job(UNDER_WAY), job.to_json())
    main.put(entry_of(job).key, entry_of(job).to_json())


def _page(name: str, address: str, relay: CountingRelay, limit_s: float | None, limit: float | None) -> None:
    """Measure the second and later answers of a page, each with data that the process does not share any more."""
    took, requests = [], []
    for run in range(RUNS + 1):
        time.sleep(2)  # longer than answers are shared
        relay.requests.clear()
        begun = time.perf_counter()
        _get(address)
        if run:
            took.append(time.perf_counter() - begun)
            requests.append(float(len(relay.requests)))
    record_figure(f"web_{name}_s", f"seconds of the page {name}", [statistics.median(took)], limit_s)
    record_figure(f"web_{name}_requests", f"requests of the page {name}", [max(requests)], limit)


def _watch(address: str, until: float) -> None:
    """Load the live part of a page every two seconds, as a browser does."""
    while time.monotonic() < until:
        _get(address, {"HX-Request": "true"})
        time.sleep(2)


def _get(address: str, headers: dict[str, str] | None = None) -> None:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers or {}), timeout=60) as answer:
        answer.read()


if __name__ == "__main__":
    main()
