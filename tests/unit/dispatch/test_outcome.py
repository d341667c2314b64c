"""The end of a job is logged once, and as an error with its reason if the job failed. Its packs are deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.dispatch.outcome import end_job
from scoreline.tasks.job.documents import Outcome
from scoreline.testing import EagerClient, eager

X = pd.DataFrame({"x": [0.0, 1.0]})


@pytest.fixture
def client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[EagerClient]:
    caplog.set_level(logging.INFO, "scoreline.tasks.dispatch.outcome")
    with eager(tmp_path) as client:
        client.models.publish("line", LinearRegression().fit(X, [1.0, 3.0]))
        yield client


def ends(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [
        (record.levelname, record.state, getattr(record, "error", ""))  # type: ignore[attr-defined]
        for record in caplog.records
        if record.msg == "job.ended"
    ]


@pytest.mark.parametrize(
    "frame",
    [X.rename(columns={"x": "y"}), X.assign(x=None)],
    ids=["planning fails", "too many rows are rejected"],
)
def test_a_failed_job_is_an_error_in_the_log_with_its_reason(
    client: EagerClient, caplog: pytest.LogCaptureFixture, frame: pd.DataFrame
) -> None:
    done = client.submit("line", client.put("in/a.parquet", frame.astype(float)))
    assert done.state == "failed"
    assert ends(caplog) == [("ERROR", "failed", done.error)]
    assert done.error != ""


def test_any_other_end_is_not_logged_as_an_error(client: EagerClient, caplog: pytest.LogCaptureFixture) -> None:
    client.submit("line", client.put("in/a.parquet", X))
    client.submit("line", client.put("in/b.parquet", X.assign(x=[0.0, float("nan")])), max_rejected=1)
    assert ends(caplog) == [("INFO", "succeeded", ""), ("INFO", "partial", "")]


def test_an_end_that_comes_second_is_not_logged_as_the_end(
    client: EagerClient, caplog: pytest.LogCaptureFixture
) -> None:
    done = client.submit("line", client.put("in/a.parquet", X))
    end_job(client.submission.dispatcher, done.job_id, Outcome(state="failed", error="late", failures={}))
    assert ends(caplog) == [("INFO", "succeeded", "")]
    assert caplog.records[-1].msg == "outcome.exists"


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_when_a_job_ends_its_packs_are_deleted(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    # Given many small objects in a store that counts as remote
    monkeypatch.setattr(DirectoryStore, "remote", True)
    for number in range(40):
        client.put(f"in/{number}.parquet", X)
    if state == "failed":
        client.put("in/last.parquet", X.rename(columns={"x": "y"}))
    monkeypatch.setattr("scoreline.tasks.inputs.packs.PACK_BYTES", 30_000)
    # And a pack that a planner wrote before it died
    main = client.submission.dispatcher.buckets.main
    main.put(keys.pack("j", 99), b"rows")
    packs: list[str] = []
    put = DirectoryStore.put

    def noted(store: DirectoryStore, key: str, data: bytes, **options: Any) -> Any:
        packs.extend([key] if "/packs/" in key else [])
        if key.endswith("plan.json.gz") and state == "cancelled":
            client.cancel("j")
        return put(store, key, data, **options)

    monkeypatch.setattr(DirectoryStore, "put", noted)
    # When a job reads them
    done = client.submit("line", main.uri("in/"), job_id="j")
    # Then no pack is left
    assert done.state == state
    assert packs or state == "failed"
    assert list(main.list(keys.packs_folder("j"))) == []
    # And a resumed job reads the objects themselves
    if state == "cancelled":
        assert client.resume("j").rows == 80
