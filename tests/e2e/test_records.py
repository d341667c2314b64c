"""A real worker scores the records that an application hands over."""

from __future__ import annotations

import ast
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from celery import Celery
from sklearn.linear_model import LinearRegression

import scoreline
from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, JobConflict, JobFailed, JobNotFound, MissingColumns, ModelNotFound
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.part_sizes import MOST_PART_ROWS
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.records.job import MAX_MESSAGE_BYTES, RecordsJob
from scoreline.tasks.records.submit import accept_records
from scoreline.tasks.records.table import encode, pack, table_of
from scoreline.worker.dev.stack import Stack
from tests.support.elsewhere import application
from tests.support.installed import not_installed_by
from tests.support.waiting import HANG_S, wait_until

ROWS: list[dict[str, Any]] = [{"id": f"c{n}", "x": n / 2, "at": datetime(2026, 11, 25, n)} for n in range(10)]


@pytest.fixture(scope="module")
def line(stack: Stack) -> str:
    """Publish ``2 x + 1``."""
    model = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0])
    ModelStorageManager.from_env(stack.environ).publish("records", model, alias="champion")
    return "records@champion"


@pytest.fixture
def app(worker: Stack) -> Iterator[Celery]:
    """A Celery application that does not use Scoreline."""
    url = worker.environ["REDIS_URL"]
    with application(url, url) as other:
        yield other


def scored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": row["id"], "at": row["at"], "prediction": pytest.approx(2 * row["x"] + 1)} for row in rows]


def table(store: ObjectStore, key: str) -> Any:
    return pq.read_table(io.BytesIO(store.get(key).data))


def test_records_are_returned_in_order_and_are_an_ordinary_job(
    worker: Stack, client: Client, store: ObjectStore, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When an application scores a list of dicts
    for name, value in worker.environ.items():
        monkeypatch.setenv(name, value)
    job = scoreline.submit_records(line, ROWS, keep="id,at")
    assert job.wait(timeout_s=HANG_S) == scored(ROWS)
    # Then the records become an ordinary job, whose objects have the usual keys
    status = job.status()
    assert (status.state, status.rows, status.total_rows, status.parts) == ("succeeded", 10, 10, 1)
    folder = parse_uri(status.output)[1]
    names = [info.key.removeprefix(folder) for info in store.list(folder)]
    assert names == ["_SUCCESS", "_manifest.json", "part-00000.parquet"]
    results = table(store, keys.result_part(folder, 0))
    pinned = client.registry.resolve(line)
    assert results.schema.metadata[b"scoreline.manifest_sha256"].decode() == pinned.manifest_sha256
    assert json.loads(store.get(keys.results_manifest(folder)).data)["rows"] == 10
    wait_until(lambda: not list(store.list(keys.active(job.job_id))), "the marker's end")
    # And the same rows as Parquet give the same columns and values
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    store.put("in/records.parquet", sink.getvalue())
    ordinary = list(client.watch(client.submit(line, store.uri("in/records.parquet"), keep="id,at").job_id, HANG_S))[-1]
    assert table(store, keys.result_part(parse_uri(ordinary.output)[1], 0)).equals(results)
    # And any other process can read the results by the id of the job
    assert RecordsJob(Client.from_env(worker.environ), job.job_id).wait() == scored(ROWS)


def test_a_data_frame_comes_back_as_one_with_its_index_and_a_dict_as_a_list(
    worker: Stack, client: Client, line: str
) -> None:
    columns = {"id": ["a", "b", "c"], "x": np.array([1.0, np.nan, 2.0])}
    frame = pd.DataFrame(columns, index=[30, 10, 20])
    of_frame, of_columns = client.submit_records(line, frame), client.submit_records(line, columns)
    expected = pd.DataFrame({"id": ["a", "c"], "prediction": [3.0, 5.0]}, index=[30, 20])
    pd.testing.assert_frame_equal(of_frame.wait(timeout_s=HANG_S), expected, check_dtype=False)
    assert [row["id"] for row in of_columns.wait(timeout_s=HANG_S)] == ["a", "c"]
    # And the job names the record that was rejected, with the reason
    for job in (of_frame, of_columns):
        assert job.status().state == "partial"
        assert job.rejected == {
            1: "'x' is null or NaN, which the model does not take: ValueError: Input X contains NaN."
        }


def test_requirements_txt_alone_is_enough_to_score_records_and_to_read_the_results(worker: Stack, line: str) -> None:
    missing = not_installed_by("requirements.txt")
    assert {"pandas", "pyarrow", "numpy"} <= set(missing)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import scoreline\n"
        f"print(scoreline.submit_records({line!r}, [{{'id': 1, 'x': 2.0}}], keep='id').wait(timeout_s={HANG_S}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=worker.environ, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == [{"id": 1, "prediction": pytest.approx(5.0)}]


def test_records_too_large_for_a_message_are_scored(worker: Stack, client: Client, line: str) -> None:
    rows = [{"id": f"{n:064}", "x": float(n)} for n in range(5_000)]
    assert len(json.dumps(rows)) > 300 << 10
    results = client.submit_records(line, rows).wait(timeout_s=HANG_S)
    assert [row["id"] for row in results] == [row["id"] for row in rows]
    assert results[-1]["prediction"] == pytest.approx(9_999)


def test_records_of_several_parts_are_scored_by_several_processes(worker: Stack, client: Client, line: str) -> None:
    count = MOST_PART_ROWS + 1  # fewer records are one part if earlier jobs were fast enough
    job = client.submit_records(line, {"x": range(count), "id": range(count)})
    results = job.wait(timeout_s=HANG_S)
    assert [row["id"] for row in results] == list(range(count))
    assert job.status().parts > 1
    assert job.status().rows == count


@pytest.mark.parametrize("kind", [pd.DataFrame, dict, list])
def test_very_many_records_travel_as_parquet_and_are_read_back_from_the_parts(
    worker: Stack, client: Client, line: str, kind: type
) -> None:
    x = np.arange(150_000.0)
    x[70_001] = np.nan
    columns = {"id": np.arange(len(x)), "name": [f"{n:060}" for n in range(len(x))], "x": x}
    frame = pd.DataFrame(columns, index=[f"i{n}" for n in range(len(x))])
    records = {pd.DataFrame: frame, dict: columns, list: frame[:140_000].to_dict("records")}[kind]
    job = client.submit_records(line, records)
    found = job.wait(timeout_s=HANG_S)
    assert list(job.rejected) == [70_001]
    rows = found.reset_index().to_dict("records") if kind is pd.DataFrame else found
    assert [row["id"] for row in rows] == [n for n in range(140_000 if kind is list else 150_000) if n != 70_001]
    assert rows[-1]["prediction"] == pytest.approx(2 * x[rows[-1]["id"]] + 1)
    if kind is pd.DataFrame:
        assert found.index[70_001] == "i70002"
        assert list(found.columns) == ["id", "name", "prediction"]


def test_any_celery_application_can_score_records_by_message(
    worker: Stack, app: Celery, client: Client, line: str
) -> None:
    def send(**kwargs: Any) -> Any:
        return app.send_task("scoreline.score_records", kwargs=kwargs, queue="scoreline")

    rows = [{**row, "at": row["at"].isoformat()} for row in ROWS] + [{"id": "bad", "x": math.inf, "at": None}]
    sent = send(model=line, records=rows)
    large = send(model=line, records={"id": ["a" * 80] * 2_500, "x": [1.0] * 2_500})
    refused = {
        "a message carries 262,144": send(model=line, records=[{"x": "a" * MAX_MESSAGE_BYTES}]),
        "unknown options hue": send(model=line, records=rows, hue=1),
        "the records lack 'x'": send(model=line, records=[{"y": 1}]),
        "features 7 is not a list of names": send(model=line, records=rows, features=7),
        "bucket 'theirs' is not in ALLOWED_BUCKETS": send(model=line, records=rows, output="s3://theirs/out/"),
        "mixes types": send(model=line, records=[{"x": 1}, {"x": "a"}]),
        "no model 'nobody'": send(model="nobody", records=[{"x": 1}]),
        "the message lacks records: send kwargs with model and records": send(model=line, records=None),
        "the message lacks model and records": send(max_rejected="1%"),
        "the message lacks input: send kwargs with model and input": app.send_task(
            "scoreline.submit", kwargs={"model": line}, queue="scoreline"
        ),
        "the message lacks job_id": app.send_task("scoreline.status", queue="scoreline.clock"),
    }
    # Then the answer contains the results, and the id of the Celery message is the id of the job
    answer = sent.get(timeout=HANG_S)
    assert answer["results"] == scored(rows[:-1])
    assert answer["rejected_records"][0]["record"] == 10
    assert (answer["job_id"], answer["state"], answer["rows"], answer["rejected"]) == (sent.id, "partial", 10, 1)
    assert client.status(sent.id).state == "partial"
    # And a second message with the same job id starts no other job, and gets the same answer
    assert send(model=line, records=rows, job_id=sent.id).get(timeout=HANG_S) == answer
    # And results that are too large for an answer are in the bucket as usual
    answer = large.get(timeout=HANG_S)
    assert (answer["state"], answer["rows"], "results" in answer) == ("succeeded", 2_500, False)
    assert len(RecordsJob(client, large.id).wait()) == 2_500
    # And a message that cannot be scored is refused with the reason
    for said, result in refused.items():
        with pytest.raises(Exception, match=said):
            result.get(timeout=HANG_S)
    # And the worker's log contains no values of records
    assert "'prediction': " not in next(worker.folder.glob("worker*.log")).read_text()


def test_records_that_cannot_be_scored_are_refused_before_anything_is_written(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    def refused(error: type[Exception], said: str, model: str = line, records: Any = ROWS, **options: Any) -> None:
        with pytest.raises(error, match=said):
            client.submit_records(model, records, job_id="refused", **options)

    refused(MissingColumns, "the records lack 'x'; they have 'id'", records=[{"id": 1}])
    refused(MissingColumns, "lack 'name'", keep="id,name")
    refused(ModelNotFound, "nobody", model="nobody")
    refused(InvalidRequest, "method 'guess'", method="guess")
    refused(InvalidRequest, "mixes types", records=[{"x": 1}, {"x": "1"}])
    refused(InvalidRequest, "not within ALLOWED_WEBHOOKS", webhook="https://example.org")
    refused(InvalidRequest, "unknown options hue", hue=1)
    assert list(store.list("jobs/refused/")) + list(store.list(keys.active("refused"))) == []
    # And `wait` raises an error with the reason if the job fails
    failing = client.submit_records(line, [{"x": math.nan}, {"x": None}])
    with pytest.raises(JobFailed, match=rf"job {failing.job_id} failed: none of 2 rows .* contains NaN"):
        failing.wait(timeout_s=HANG_S)
    over = client.submit_records(line, [{"x": 1.0}, {"x": None}], max_rejected="0")
    with pytest.raises(JobFailed, match="1 of 2 rows were rejected, and the job allows 0"):
        over.wait(timeout_s=HANG_S)
    with pytest.raises(JobNotFound, match="nobody"):
        RecordsJob(client, "nobody").wait(timeout_s=HANG_S)


def test_records_that_were_deleted_or_replaced_fail_the_job(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    # Given a job whose records are deleted from the bucket before its message is sent
    accept_records(client.submission, line, ROWS, job_id="gone")
    (stored,) = (info.key for info in store.list("jobs/gone/records-"))
    store.delete(stored)
    client.submission.score_inline("gone")
    with pytest.raises(JobFailed, match=f"the records of job gone are gone: no object {store.uri(stored)}"):
        RecordsJob(client, "gone").wait(timeout_s=HANG_S)
    # And a job whose records are replaced before it is accepted, because the reconciler may score an accepted job at
    # any time
    store.put(stored.replace("gone", "changed"), pack(encode(table_of([{"id": "theirs", "x": 7.0}]))))
    accept_records(client.submission, line, ROWS, job_id="changed")
    client.submission.score_inline("changed")
    with pytest.raises(JobFailed, match=r"is not what Scoreline writes there: .*its digest differs"):
        RecordsJob(client, "changed").wait(timeout_s=HANG_S)


def test_the_same_id_with_other_records_is_refused(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    first = client.submit_records(line, ROWS, job_id="records-1")
    results, before = first.wait(timeout_s=HANG_S), first.status()
    again = client.submit_records(line, pd.DataFrame(ROWS), job_id="records-1")
    assert again.wait(timeout_s=HANG_S)["id"].tolist() == [row["id"] for row in results]
    assert again.status() == before
    with pytest.raises(JobConflict, match="records-1"):
        client.submit_records(line, ROWS[:-1], job_id="records-1")
