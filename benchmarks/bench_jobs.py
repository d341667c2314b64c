"""Measure what listing jobs costs if there are 10,000 of them, all submitted on one day.

Claims: ``scoreline jobs --limit 20`` sends at most 30 requests to the bucket and takes at most 1.0 s, including the
start of the command. One in ten jobs failed and one in a hundred has a label. A relay in front of the embedded S3
server counts the requests; the time is measured without the relay. Without a limit, the following are recorded too:
listings with filters, the same listing without an index, and the time and requests that building the index takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.counting_relay import CountingRelay
from benchmarks.measure import no_options, record_figure
from scoreline.storage import keys
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Job, Outcome
from scoreline.tasks.job.spec import JobSpec
from scoreline.worker.dev.stack import Stack

JOBS, RUNS = 10_000, 5
MOST_REQUESTS, MOST_S = 30, 1.0
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)
SPEC = JobSpec(job_id="x", model="churn", inputs=("s3://scoreline/in/",), output="s3://scoreline/results/churn/")
LISTINGS = {
    "20 jobs": ("jobs", "--limit", "20"),
    "20 failed jobs": ("jobs", "--limit", "20", "--state", "failed"),
    "20 jobs with a label": ("jobs", "--limit", "20", "--label", "team=risk"),
    "jobs of 5 minutes": ("jobs", "--since", "2026-11-25T12:00", "--until", "2026-11-25T12:05"),
}


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    with Stack(Path(".scoreline")) as stack, CountingRelay() as relay:
        server = urlsplit(stack.environ["R2_ENDPOINT_URL"])
        relay.server_port = server.port or 80
        relayed = stack.environ | {"R2_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}"}
        client = Client.from_env(stack.environ)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: _write(client.buckets.main, number), range(JOBS)))
        print("| figure | measured | limit | |\n|---|---|---|---|")
        _listing("20 jobs, without an index", LISTINGS["20 jobs"], relay, stack.environ, relayed, runs=1)
        begun = time.perf_counter()
        Client.from_env(stack.environ).rebuild_index()
        record_figure("jobs_index_s", f"seconds to build the index of {JOBS:,} jobs", [time.perf_counter() - begun])
        for what, words in LISTINGS.items():
            limits = (MOST_REQUESTS, MOST_S) if what == "20 jobs" else (None, None)
            _listing(what, words, relay, stack.environ, relayed, limits)


def _listing(
    what: str,
    words: tuple[str, ...],
    relay: CountingRelay,
    environ: Mapping[str, str],
    relayed: Mapping[str, str],
    limits: tuple[float | None, float | None] = (None, None),
    runs: int = RUNS,
) -> None:
    """Measure a listing: its requests once, and its time several times."""
    name = "jobs_" + "_".join(word for word in what.replace(",", "").split())
    relay.requests.clear()
    _run(words, relayed)
    record_figure(f"{name}_requests", f"{what}: requests", [len(relay.requests)], limits[0])
    record_figure(f"{name}_s", f"{what}: seconds", [_run(words, environ) for _ in range(runs)], limits[1])


def _run(words: tuple[str, ...], environ: Mapping[str, str]) -> float:
    """Run a command, check that it prints jobs, and return the seconds that it takes."""
    begun = time.perf_counter()
    command = [str(Path(sys.executable).with_name("scoreline")), *words, "--json"]
    done = subprocess.run(command, env=dict(environ), capture_output=True, check=True)
    seconds = time.perf_counter() - begun
    found = [job["submitted"] for job in json.loads(done.stdout)]
    if not found or found != sorted(found, reverse=True):
        raise RuntimeError(f"{' '.join(words)} printed {len(found)} jobs, which are not the newest first")
    return seconds


def _write(store: ObjectStore, number: int) -> None:
    """Write the documents of a job that has ended. Jobs are 8 s apart."""
    job_id = f"job-{(7919 * number) % JOBS:05}"
    submitted = MIDNIGHT + timedelta(seconds=8 * number)
    job = Job(
        spec=replace(SPEC, job_id=job_id),
        model=PinnedModel(name="churn", version="20261101T120000Z-0a1b2", manifest_sha256="0" * 64),
        submitted=submitted.isoformat(timespec="milliseconds"),
        labels={"team": "risk"} if number % 100 == 0 else {},
    )
    failed = number % 10 == 0
    outcome = Outcome(
        state="failed" if failed else "succeeded", rows=1_000, parts=1, parts_done=1, seconds=2.0, failures={}
    )
    store.put(keys.job(job_id), job.to_json())
    store.put(keys.outcome(job_id), outcome.to_json())


if __name__ == "__main__":
    main()
