"""Cancel, resume and reconcile, as a user types them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest

from storage.models.manager import ModelStorageManager
from storage.objects.base import ObjectStore
from tests.faults.estimators import Paced
from worker.dev.stack import Stack

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def slow(models: ModelStorageManager, put_table: Callable[..., str]) -> Iterator[str]:
    """Input of 20 parts that take a quarter of a second each."""
    models.publish("slow", Paced(seconds=0.25).fit(pd.DataFrame({"x": [0.0]})))
    frame = pd.DataFrame({"id": np.arange(2_000), "x": np.arange(2_000.0)})
    yield put_table("in/slow.parquet", frame, row_group_size=100)


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
    assert "1 jobs under way" in report.stderr
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
