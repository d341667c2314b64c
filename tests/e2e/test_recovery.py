"""Cancel, resume and reconcile, as a user types them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from celery import Celery

from storage.models.manager import ModelStorageManager
from storage.objects.base import ObjectStore
from tasks.client import Client
from tests.faults.estimators import Paced
from worker.dev.stack import Stack

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def slow(models: ModelStorageManager, put_table: Callable[..., str]) -> str:
    """Input of 20 parts that take a quarter of a second each."""
    models.publish("slow", Paced(seconds=0.25).fit(pd.DataFrame({"x": [0.0]})))
    frame = pd.DataFrame({"id": np.arange(2_000), "x": np.arange(2_000.0)})
    return put_table("in/slow.parquet", frame, row_group_size=100)


def test_a_user_cancels_a_job_and_resumes_it(worker: Stack, cli: Cli, slow: str) -> None:
    job = cli("submit", "slow", slow, "--part-rows", "100").stdout.strip()
    refused = cli("resume", job)
    assert (refused.returncode, refused.stderr.strip()) == (
        2, f"error: job {job} is under way: scoreline watch {job}",
    )  # fmt: skip
    cancelled = cli("cancel", job)
    assert cancelled.returncode == 0
    assert f"{job}: cancelled after" in cancelled.stdout
    assert cli("watch", job).returncode == 4
    resumed = cli("resume", job, "--watch")
    assert resumed.returncode == 0, resumed.stderr
    assert "2,000 scored, 0 rejected, of 2,000" in resumed.stdout
    again = cli("resume", job)
    assert (again.returncode, again.stderr.strip()) == (2, f"error: job {job} has all its results: succeeded")


def test_a_user_has_the_jobs_looked_after(worker: Stack, cli: Cli, store: ObjectStore, slow: str) -> None:
    job = cli("submit", "slow", slow, "--part-rows", "100").stdout.strip()
    report = cli("reconcile")
    assert report.returncode == 0
    assert f"{job}: " in report.stdout
    assert report.stderr.strip() == "jobs under way: 1"
    cli("cancel", job)
    assert cli("reconcile").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("cancel", "nobody"), "no job 'nobody'"),
        (("resume", "nobody"), "no job 'nobody'"),
        (("resume", "nobody", "--max-rejected", "some"), "no job 'nobody'"),
        (("submit", "slow", "s3://scoreline/in/", "--part-rows", "0"), "--part-rows"),
        (("submit", "slow", "s3://scoreline/in/", "--max-attempts", "x"), "--max-attempts"),
    ],
)
def test_what_cannot_be_done_is_said(stack: Stack, cli: Cli, arguments: tuple[str, ...], expected: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr


def test_messages_of_jobs_that_do_not_exist_are_dropped(worker: Stack, client: Client, store: ObjectStore) -> None:
    client.queue.send("scoreline.score_part", job_id="never-was", part=0)
    client.queue.send("scoreline.finalize", job_id="never-was")
    client.queue.send("scoreline.plan", job_id="never-was")
    client.queue.send("scoreline.plan", job_id="../up")
    log = next(worker.folder.glob("worker*.log"))
    deadline = time.monotonic() + 20
    while log.read_text().count("job.unknown: no job 'never-was'") < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log.read_text().count("job.unknown: no job 'never-was'") == 3
    assert list(store.list("jobs/never-was/")) == []


def test_a_message_that_submits_is_one_job_however_often_it_is_delivered(
    worker: Stack, client: Client, slow: str
) -> None:
    message = {"model": "slow", "input": slow, "max_rejected": "0"}
    app = Celery(broker=worker.environ["REDIS_URL"], set_as_current=False)
    for _ in range(2):
        app.send_task("scoreline.submit", kwargs=message, task_id="from-elsewhere", queue="scoreline")
    app.close()
    deadline = time.monotonic() + 20
    while "from-elsewhere" not in {job.job_id for job in client.jobs()}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert list(client.watch("from-elsewhere", timeout_s=60))[-1].rows == 2_000
