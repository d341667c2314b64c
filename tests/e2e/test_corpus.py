"""A job on a broken or unusual input scores or rejects each row, or fails with one error that names the object."""

from __future__ import annotations

import re
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

SIDE_BY_SIDE = 12


class Corpus:
    """Submits several cases at once, so that a case that damages a worker makes the other cases fail.

    When a test requests a case, this case is submitted together with the next `SIDE_BY_SIDE` cases. Several test
    processes share the cases, and each process submits only the cases that its tests need.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._ids: dict[int, str] = {}

    def job_id(self, case: Case) -> str:
        number = CASES.index(case)
        due = [n for n in range(number, min(number + SIDE_BY_SIDE, len(CASES))) if n not in self._ids]
        with ThreadPoolExecutor(4) as pool:
            self._ids |= zip(due, pool.map(self._submit, due), strict=True)
        return self._ids[number]

    def _submit(self, number: int) -> str:
        case, store, folder = CASES[number], self.client.buckets.main, f"in/corpus/{number:03}/"
        for key, data in case.objects.items():
            store.put(folder + key, data if isinstance(data, bytes) else data())
        options = {"max_rejected": "100%", **case.options}
        uri = store.uri(folder + (case.of or ""))
        return self.client.submit(case.model, uri, job_id=f"corpus-{number}", **options).job_id


@pytest.fixture(scope="module")
def corpus(worker: Stack) -> Corpus:
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    for name in {case.model for case in CASES}:
        ModelStorageManager.from_env(worker.environ).publish(name, LinearRegression().fit(frame, [1.0, 3.0]))
    return Corpus(Client.from_env(worker.environ))


def test_the_corpus_has_at_least_sixty_cases_with_unique_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_row_of_the_corpus_is_scored_or_rejected_or_the_object_is_named(corpus: Corpus, case: Case) -> None:
    client = corpus.client
    job = list(client.watch(corpus.job_id(case), timeout_s=HANG_S))[-1]
    said = report(client, job)
    print(f"{job.state}: {job.rows} scored, {job.rejected} rejected; {said}")  # noqa: T201
    assert job.state in ("succeeded", "partial", "failed")
    assert "Traceback" not in job.error
    assert "worker process died" not in job.error
    if case.scored is None:
        assert (job.state, job.rows) == ("failed", 0)
        assert re.search(r"s3://|'x'|'y'|'prediction'|rows? tried", job.error), job.error
    else:
        assert (job.state in ("succeeded", "partial"), job.rows, job.rejected) == (True, case.scored, case.rejected), (
            said
        )
    assert case.says in said


def report(client: Client, job: Status) -> str:
    if not job.rejected or job.error:
        return job.error
    reasons = client.rejected(job.job_id).reasons
    return "; ".join(example.message for reason in reasons for example in reason.examples)
