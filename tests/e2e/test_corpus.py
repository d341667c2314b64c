"""Broken and strange inputs end in scored and rejected rows, or in one clear error that names the object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.worker.dev.stack import Stack
from tests.support.corpus import CASES, Case
from tests.support.waiting import HANG_S


@pytest.fixture(scope="module")
def jobs(worker: Stack) -> Iterator[tuple[Client, dict[str, str]]]:
    """All cases, submitted side by side: what one of them does to a worker, the others feel."""
    client = Client.from_env(worker.environ)
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    ModelStorageManager.from_env(worker.environ).publish("corpus", LinearRegression().fit(frame, [1.0, 3.0]))

    def submit(number: int, case: Case) -> tuple[str, str]:
        store, folder = client.buckets.main, f"in/corpus/{number:03}/"
        for key, data in case.objects.items():
            store.put(folder + key, data if isinstance(data, bytes) else data())
        options = {"max_rejected": "100%", **case.options}
        job = client.submit("corpus", store.uri(folder + (case.of or "")), job_id=f"corpus-{number}", **options)
        return case.name, job.job_id

    with ThreadPoolExecutor(4) as pool:
        yield client, dict(pool.map(submit, range(len(CASES)), CASES))


def test_the_corpus_has_at_least_sixty_cases_with_unique_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_row_of_the_corpus_is_scored_or_rejected_or_the_object_is_named(
    jobs: tuple[Client, dict[str, str]], case: Case
) -> None:
    client, ids = jobs
    job = list(client.watch(ids[case.name], timeout_s=HANG_S))[-1]
    said = told(client, job)
    print(f"{job.state}: {job.rows} scored, {job.rejected} rejected; {said}")  # noqa: T201
    assert job.state in ("succeeded", "partial", "failed")
    assert "Traceback" not in job.error
    assert "worker process died" not in job.error
    if case.scored is None:
        assert (job.state, job.rows) == ("failed", 0)
        assert re.search(r"s3://|'x'|'y'|'prediction'|rows tried", job.error), job.error
    else:
        assert (job.state in ("succeeded", "partial"), job.rows, job.rejected) == (True, case.scored, case.rejected), (
            said
        )
    assert case.says in said


def told(client: Client, job: Status) -> str:
    if not job.rejected or job.error:
        return job.error
    reasons = client.rejected(job.job_id).reasons
    return "; ".join(example.message for reason in reasons for example in reason.examples)
