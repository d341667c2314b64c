"""A list of jobs has a limited length, and begins with the newest job."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.end_time import PART_S
from scoreline.testing import EagerClient, eager
from scoreline.worker.cli.main import cli

X = pd.DataFrame({"x": [0.0, 1.0]})
JOBS = 30
NEWEST = [f"job-{(7 * n) % JOBS:02}" for n in range(JOBS)][::-1]
"""The ids, newest first. This order differs from the alphabetical order."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EagerClient]:
    with eager(tmp_path, run=False) as client:
        client.models.publish("line", LinearRegression().fit(X, [1.0, 3.0]))
        uri = client.put("in/a.parquet", X)
        for second, job_id in enumerate(NEWEST[::-1]):
            client.submit("line", uri, job_id=job_id)
            key = keys.job(job_id)
            job = json.loads(client.buckets.main.get(key).data)
            job["submitted"] = f"2026-11-28T09:00:{second:02}.000+00:00"
            client.buckets.main.put(key, json.dumps(job).encode())
            os.utime(client.folder / "scoreline" / key, (1_700_000_000 + second,) * 2)
        yield client


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the requests that read one object."""
    counts: Counter[str] = Counter()
    real = DirectoryStore.get

    def get(self: DirectoryStore, key: str, **options: Any) -> Any:
        counts[key.split("/")[1]] += 1
        return real(self, key, **options)

    monkeypatch.setattr(DirectoryStore, "get", get)
    return counts


def test_the_newest_jobs_come_first_and_only_they_are_read(client: EagerClient, reads: Counter[str]) -> None:
    assert [job.job_id for job in client.jobs(limit=4)] == NEWEST[:4]
    assert set(reads) == set(NEWEST[:4])
    assert [job.job_id for job in client.jobs(limit=99)] == NEWEST
    assert [job.job_id for job in client.jobs()] == sorted(NEWEST)


def test_the_time_left_follows_from_the_pace_and_the_processes(client: EagerClient) -> None:
    job_id = NEWEST[0]
    assert client.status(job_id).left_s is None
    job = read_job(client.buckets.main, job_id)
    client.ledger.begin(job_id, "p", 4, budget=9)
    assert (client.status(job_id).state, client.status(job_id).work_left_s) == ("running", None)
    client.ledger.counters.note_pace(job.work, 0.5)
    client.ledger.note_processes(3, 60)
    client.submission.statuses._total_rows[job_id] = 6
    client.ledger.dispatch(job_id, "p", window=4)
    client.ledger.complete(job_id, "p", 0, rows=2, rejected=1)
    now = client.status(job_id)
    assert now.work_left_s == pytest.approx(3 / 0.5 + 3 * PART_S)
    assert now.left_s == pytest.approx((3 / 0.5 + 3 * PART_S) / 3)
    assert now.processes == 3
    assert now.to_dict()["work_left_s"] == now.work_left_s
    assert "work_left_s" not in client.status(NEWEST[1]).to_dict()


def test_a_corrupt_job_is_listed_among_the_others(client: EagerClient) -> None:
    client.buckets.main.put(keys.job(NEWEST[5]), b"{")
    listed = {job.job_id: job for job in client.jobs(limit=9)}
    assert set(listed) == {NEWEST[5], *NEWEST[:9]}
    assert listed[NEWEST[5]].state == "failed"


def test_the_command_says_that_older_jobs_are_left_out(client: EagerClient) -> None:
    some = CliRunner().invoke(cli, ["jobs", "--limit", "3"])
    assert [line.split()[0] for line in some.stdout.splitlines()[1:]] == NEWEST[:3]
    assert some.stderr == "older jobs than the latest 3 are left out: see --limit\n"
    every = CliRunner().invoke(cli, ["jobs", "--json"])
    assert ([job["job_id"] for job in json.loads(every.stdout)], every.stderr) == (NEWEST, "")
