"""Rejected rows are scored again in one job, however often that is requested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import NothingToResume, QueueUnavailable
from scoreline.tasks.job.documents import read_job
from scoreline.testing import EagerClient, eager

X = pd.DataFrame({"x": [0.0, 1.0]})
ROWS = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})


class Moody(LinearRegression):
    """Refuses some values. Tests change these values, as if a service that the model uses had been repaired."""

    refused: ClassVar[set[float]] = set()

    def predict(self, x: Any) -> Any:
        if self.refused & set(np.asarray(x).ravel().tolist()):
            raise ValueError("refused")
        return super().predict(x)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EagerClient]:
    monkeypatch.setattr(Moody, "refused", {1.0, 2.0})
    with eager(tmp_path, run=False) as client:
        client.models.publish("line", Moody().fit(X, [1.0, 3.0]), alias="champion")
        yield client


def reject(client: EagerClient, job_id: str = "j") -> str:
    """Run a job that rejects two rows, let the model accept one of them from now on, and return the id of the job."""
    Moody.refused = {1.0, 2.0}
    client.submit("line@champion", client.put("in/a.parquet", ROWS), job_id=job_id, max_rejected=2)
    client.run()
    assert client.status(job_id).state == "partial"
    Moody.refused = {2.0}
    return job_id


def jobs(client: EagerClient) -> list[str]:
    return sorted(status.job_id for status in client.jobs())


@pytest.mark.parametrize("ran", [False, True], ids=["under way", "ended meanwhile"])
def test_a_request_that_is_repeated_after_an_error_makes_no_second_job(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, ran: bool
) -> None:
    job = reject(client)

    def unreachable(name: str, **_: Any) -> None:
        raise QueueUnavailable("no answer")

    # Given a request to score rejected rows, and a queue that the message of this request does not reach
    with monkeypatch.context() as patch:
        patch.setattr(client.submission.dispatcher, "send", unreachable)
        with pytest.raises(QueueUnavailable):
            client.resume_rejected(job)
    if ran:
        client.reconcile()
        client.run()
        assert client.status("j-rejected-1").state == "partial"
    # When the request is repeated
    again = client.resume_rejected(job)
    client.run()
    # Then the same job scores the rejected rows
    assert (again.job_id, jobs(client)) == ("j-rejected-1", ["j", "j-rejected-1"])
    done = client.status("j-rejected-1")
    assert (done.state, done.rows, done.rejected) == ("partial", 1, 1)


def test_another_model_scores_the_rows_in_a_further_job_after_the_first(client: EagerClient) -> None:
    job = reject(client)
    client.resume_rejected(job)
    client.models.publish("line", Moody().fit(X, [2.0, 3.0]), alias="champion")
    with pytest.raises(NothingToResume, match=r"job j-rejected-1 scores the rejected rows of job j already, in anot"):
        client.resume_rejected(job)
    client.run()
    # Given a new version that has the same alias and can score the rejected rows
    Moody.refused = set()
    again = client.resume_rejected(job)
    client.run()
    done = client.status(again.job_id)
    assert (done.job_id, done.state, done.rows) == ("j-rejected-2", "succeeded", 2)
    # And a further request returns the last job, which has scored the same rows with the same version
    assert client.resume_rejected(job).job_id == "j-rejected-2"
    assert jobs(client) == ["j", "j-rejected-1", "j-rejected-2"]


def test_a_job_that_did_not_complete_is_followed_by_another(client: EagerClient) -> None:
    job = reject(client)
    client.resume_rejected(job, max_rejected=0)
    client.run()
    assert client.status("j-rejected-1").state == "failed"
    assert client.resume_rejected(job, max_rejected=0).job_id == "j-rejected-2"


def test_rows_that_were_rejected_since_are_scored_by_a_further_job(client: EagerClient) -> None:
    # Given a job that failed at its first rejected row, and a second job that scored this row again
    client.put("in/a.parquet", ROWS[:2])
    client.put("in/b.parquet", ROWS[2:])
    client.submit("line@champion", "s3://scoreline/in/", job_id="j", max_rejected=0, part_rows=2)
    client.run()
    assert (client.status("j").state, client.status("j").rejected) == ("failed", 1)
    Moody.refused = {2.0}
    client.resume_rejected("j")
    client.run()
    assert client.status("j-rejected-1").total_rows == 1
    # When the failed job is resumed, and rejects another row
    client.resume("j", max_rejected=2)
    client.run()
    assert client.status("j").rejected == 2
    # Then both rejected rows are scored again
    again = client.resume_rejected("j")
    client.run()
    assert (again.job_id, client.status(again.job_id).total_rows) == ("j-rejected-2", 2)


@pytest.mark.parametrize("length", [88, 89, 90, 99, 100])
def test_a_job_with_a_long_id_can_be_followed_by_others(client: EagerClient, length: int) -> None:
    job = reject(client, "n" * length)
    first = client.resume_rejected(job)
    client.run()
    assert client.status(first.job_id).state == "partial"
    assert len(first.job_id) <= 100
    assert (first.job_id == f"{job}-rejected-1") == (length <= 89)
    # And the rejected rows of the second job can also be scored again
    Moody.refused = set()
    second = client.resume_rejected(first.job_id)
    client.run()
    assert client.status(second.job_id).state == "succeeded"
    assert len({job, first.job_id, second.job_id}) == 3
    assert read_job(client.buckets.main, second.job_id).spec.rejected_of == first.job_id


def test_long_ids_with_the_same_beginning_are_followed_by_jobs_of_their_own(client: EagerClient) -> None:
    ids = [client.resume_rejected(reject(client, "n" * 99 + end)).job_id for end in "ab"]
    assert len(set(ids)) == 2
