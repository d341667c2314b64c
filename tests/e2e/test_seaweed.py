"""Jobs and models of every kind run on SeaweedFS, to show that no code depends on the other embedded S3 server."""

from __future__ import annotations

import gzip
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.multipart import THRESHOLD_BYTES
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.schedules.scheduler import Scheduler
from scoreline.worker.dev.stack import Stack
from scoreline.worker.doctor import examine
from tests.support.estimators import Paced
from tests.support.waiting import HANG_S

REGIONS = ["north", "a/b c", "50%=half", "zürich", "", None]
ROWS = 3_000
PART_ROWS = 300
HOLES = [0, 1000, 2000]


@pytest.fixture(scope="module")
def client(seaweed: Stack) -> Client:
    seaweed.start_worker(2)
    return Client.from_env(seaweed.environ)


@pytest.fixture
def models(seaweed: Stack) -> ModelStorageManager:
    return ModelStorageManager.from_env(seaweed.environ)


def table(first: int = 0, rows: int = ROWS) -> pd.DataFrame:
    ids = np.arange(first, first + rows)
    return pd.DataFrame({"id": ids, "x": ids / 8, "region": [REGIONS[number % len(REGIONS)] for number in ids]})


def put(client: Client, key: str, frame: pd.DataFrame) -> str:
    """Write a table in the format that its key names, and return its URI."""
    if key.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, row_group_size=PART_ROWS)
        data = sink.getvalue()
    elif key.endswith(".jsonl"):
        data = frame.to_json(orient="records", lines=True).encode()
    else:
        data = frame.to_csv(index=False).encode()
    client.buckets.main.put(key, gzip.compress(data) if key.endswith(".gz") else data)
    return client.buckets.main.uri(key)


def ended(client: Client, job: Status) -> Status:
    return list(client.watch(job.job_id, timeout_s=HANG_S))[-1]


def results(client: Client, job: Status) -> pd.DataFrame:
    """Read the result files of a job, in the order of their names."""
    store, folder = client.buckets.main, parse_uri(job.output)[1]
    keys = sorted(info.key for info in store.list(folder))
    visible = [key for key in keys if not key.removeprefix(folder).startswith("_")]
    return pa.concat_tables(pq.read_table(io.BytesIO(store.get(key).data)) for key in visible).to_pandas()


def test_jobs_of_every_kind_score_each_row_once_on_seaweedfs(
    client: Client, models: ModelStorageManager, tmp_path: Path
) -> None:
    # Given a model that refuses missing values, the same rows in one object and in several, and rows with missing
    # values
    train = pd.DataFrame({"x": [0.0, 1.0]})
    models.publish("line", LinearRegression().fit(train, [1.0, 3.0]), alias="champion")
    rows = table()
    whole = put(client, "in/whole.parquet", rows)
    holes = put(client, "in/holes.parquet", rows.assign(x=rows["x"].where(~rows["id"].isin(HOLES))))
    put(client, "in/several/a-1.parquet", rows[:1500])
    put(client, "in/several/a.csv", rows[1500:2000])
    put(client, "in/several/a/z.jsonl", rows[2000:2500])
    put(client, "in/several/a0.csv.gz", rows[2500:])
    # When jobs of all kinds run at the same time
    jobs = {
        "several": client.submit("line@champion", client.buckets.main.uri("in/several/"), keep="id"),
        "parts": client.submit("line", whole, keep="id", part_rows=PART_ROWS),
        "folders": client.submit("line", whole, part_rows=PART_ROWS, partition_by="region"),
        "gathered": client.submit("line", whole, keep="id", part_rows=PART_ROWS, gather=True),
        "holes": client.submit("line", holes, keep="id", part_rows=PART_ROWS),
        "too many holes": client.submit("line", holes, keep="id", part_rows=PART_ROWS, max_rejected=0),
    }
    records = client.submit_records("line", [{"id": "a", "x": 2.0}], keep="id")
    done = {name: ended(client, job) for name, job in jobs.items()}
    # Then each job scores every row once, in the order of the keys, although the server lists keys in another order
    assert done["too many holes"].state == "failed"
    done["resumed"] = ended(client, client.resume(done.pop("too many holes").job_id, max_rejected=len(HOLES)))
    for name, job in done.items():
        complete = name not in ("holes", "resumed")
        assert (job.state, job.error) == ("succeeded" if complete else "partial", ""), name
        found = results(client, job)
        expected = rows if complete else rows[~rows["id"].isin(HOLES)]
        assert (found.sort_values("id") if name == "folders" else found)["id"].tolist() == expected["id"].tolist(), name
        assert np.allclose(found["prediction"], 2 * found["id"] / 8 + 1, rtol=0, atol=1e-9), name
    assert records.wait(timeout_s=HANG_S) == [{"id": "a", "prediction": pytest.approx(5.0)}]
    # And rejected rows are scored after a version is published that accepts missing values
    models.publish("line", make_pipeline(SimpleImputer(), LinearRegression()).fit(train, [1.0, 3.0]))
    mended = ended(client, client.resume_rejected(done["holes"].job_id, model="line"))
    assert results(client, mended)["id"].tolist() == HOLES
    # And a schedule, whose state is replaced by compare-and-swap, scores only new objects
    file = tmp_path / "schedules.toml"
    file.write_text(
        '[new]\ncron = "0 2 * * *"\nmodel = "line"\ninput = "s3://scoreline/in/several/"\nonly_new = true\n'
    )
    scheduler, slot = Scheduler(client, file), datetime(2026, 11, 25, 2, tzinfo=UTC)
    scheduler.tick(slot - timedelta(minutes=5))  # this first tick registers the schedule
    for day, expected_ids in enumerate([range(ROWS), range(ROWS, ROWS + 10)]):
        scheduler.tick(slot + timedelta(days=day, minutes=1))
        *_, job = (job for job in client.jobs() if job.job_id.startswith("new-"))
        assert results(client, ended(client, job))["id"].tolist() == list(expected_ids)
        put(client, "in/several/b.parquet", table(ROWS, 10))


def test_models_of_every_kind_predict_the_same_on_seaweedfs(
    client: Client, models: ModelStorageManager, cells: pd.DataFrame, trained: Any
) -> None:
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    # Given a bundle, two models in one version, models of other libraries, a text model, and a model in several parts
    scaler, forest, encoder = trained
    labels = (cells["mean radius"] > 14).to_numpy().astype(int)
    plain = cells.set_axis([name.replace(" ", "_") for name in cells.columns], axis=1)
    texts = pd.DataFrame({"text": [f"{'large' if label else 'small'} {row}" for row, label in enumerate(labels)]})
    flatten = FunctionTransformer(np.ravel, feature_names_out=None)
    large = Paced().fit(plain)
    large.ballast_ = np.ones(THRESHOLD_BYTES // 8)
    one = LogisticRegression(max_iter=5000).fit(plain, labels)
    published: dict[str, tuple[Any, pd.DataFrame]] = {
        "several": ({"one": one, "other": large}, plain),
        "xgboost": (xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(plain, labels), plain),
        "lightgbm": (lightgbm.LGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1).fit(plain, labels), plain),
        "text": (make_pipeline(flatten, TfidfVectorizer(), LogisticRegression()).fit(texts, labels), texts),
    }
    # When a job runs with each model
    models.publish("bundle", forest, scaler, encoder)
    jobs = {"bundle": client.submit("bundle", put(client, "in/bundle.parquet", cells))}
    for name, (model, frame) in published.items():
        models.publish(name, model)
        uri = put(client, f"in/{name}.parquet", frame)
        jobs[name] = client.submit(name, uri, features=["text"] if frame is texts else None)
    found = {name: results(client, ended(client, job)) for name, job in jobs.items()}
    # Then every prediction equals that of the same model in this process
    bundled = encoder.inverse_transform(forest.predict(scaler.transform(cells)))
    assert found["bundle"]["prediction"].tolist() == bundled.tolist()
    assert found["several"]["one_prediction"].tolist() == one.predict(plain).tolist()
    assert found["several"]["other_prediction"].tolist() == large.predict(plain).tolist()
    for name in ("xgboost", "lightgbm", "text"):
        model, frame = published[name]
        assert found[name]["prediction"].tolist() == model.predict(frame).tolist(), name


def test_the_doctor_finds_no_fault_on_seaweedfs(client: Client, seaweed: Stack) -> None:
    findings = examine(seaweed.environ, only=("bucket",))
    assert [finding for finding in findings if finding.severity != "ok"] == []
