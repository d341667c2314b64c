"""Whole jobs run through real workers, a real broker and a real S3 server."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import BucketNotAllowed, InvalidRequest, JobConflict, JobNotFound
from scoreline.storage.models.compiled.extension import is_available
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.scoring.timings import TIMINGS
from scoreline.worker.dev.stack import Stack
from tests.support.estimators import Paced
from tests.support.inspecting import ask
from tests.support.rejects import rejected_key
from tests.support.waiting import HANG_S, wait_until

Put = Callable[..., str]
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def many(cells: pd.DataFrame) -> pd.DataFrame:
    picks = np.random.default_rng(3).integers(0, len(cells), 60_000)
    return (
        cells.iloc[picks]
        .reset_index(drop=True)
        .assign(id=np.arange(60_000), note=lambda f: "row " + f["id"].astype(str))
    )


def ended(client: Client, job: Status) -> Status:
    return list(client.watch(job.job_id, timeout_s=HANG_S))[-1]


def result_files(store: ObjectStore, job: Status, folder: Path) -> list[Path]:
    files = []
    for info in store.list(parse_uri(job.output)[1] + "part-"):
        files.append(folder / info.key.rpartition("/")[2])
        files[-1].write_bytes(store.get(info.key).data)
    return files


def test_a_job_scores_every_row_once_in_order_bit_for_bit(
    worker: Stack,
    client: Client,
    models: ModelStorageManager,
    store: ObjectStore,
    put_table: Put,
    many: pd.DataFrame,
    trained: Any,
    cells: pd.DataFrame,
    tmp_path: Path,
) -> None:
    # Given two files with ids, and a published bundle
    scaler, forest, encoder = trained
    manifest = models.publish("main-job", forest, scaler, encoder, alias="champion")
    put_table("in/main/a.parquet", many[:40_000], row_group_size=7_000)
    put_table("in/main/b.parquet", many[40_000:], row_group_size=7_000)
    # When the files are scored
    done = ended(client, client.submit("main-job@champion", store.uri("in/main/")))
    # Then DuckDB and pandas find each row once, in order, with the scores of the estimators themselves
    assert (done.state, done.rows, done.error) == ("succeeded", 60_000, "")
    files = result_files(store, done, tmp_path)
    relation = duckdb.sql(f"select * from read_parquet('{tmp_path}/part-*.parquet', file_row_number=false)")
    assert relation is not None
    by_duckdb = relation.df()
    by_pandas = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    expected = forest.predict_proba(scaler.transform(many[cells.columns]))
    for frame in (by_duckdb, by_pandas):
        assert frame["id"].tolist() == many["id"].tolist()
        assert frame["note"].tolist() == many["note"].tolist()
        assert np.array_equal(frame[["proba_benign", "proba_malignant"]].to_numpy(), expected)
        assert frame["prediction"].tolist() == list(encoder.inverse_transform(expected.argmax(axis=1)))
    # And every file says which model scored it
    for file in files:
        footer = pq.read_schema(file).metadata
        assert footer[b"scoreline.model_version"] == manifest.version.encode()
        scored_by = json.loads(footer[b"scoreline.libraries"])
        assert (scored_by["scikit-learn"], scored_by["pyarrow"]) == (sklearn.__version__, pa.__version__)
        assert footer[b"scoreline.job_id"] == done.job_id.encode()
    # And the numbers of rows in the manifest include each row, and the manifest lists only files that exist
    folder = parse_uri(done.output)[1]
    listed = json.loads(store.get(keys.results_manifest(folder)).data)
    assert set(listed["seconds"]) == {*TIMINGS, *(["compiled"] if is_available() else [])}
    assert listed["seconds"]["predict"] > 0
    assert sum(entry["rows"] for entry in listed["parts"]) == listed["rows"] == 60_000
    assert [store.head(entry["key"]).size for entry in listed["parts"]] == [e["bytes"] for e in listed["parts"]]
    assert json.loads(store.get(keys.success(folder)).data)["rows"] == 60_000
    wait_until(lambda: not list(store.list(keys.active(done.job_id))), "the marker's end")


def test_the_manifest_records_where_the_time_went(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Put
) -> None:
    # Given two processes, a job of more than two parts, and an estimator that takes most of the time
    seconds, parts = 0.3, 6
    models.publish("unhurried", Paced(seconds=seconds).fit(pd.DataFrame({"x": [0.0]})))
    rows = pd.DataFrame({"id": np.arange(100 * parts), "x": np.arange(100.0 * parts)})
    uri = put_table("in/unhurried.parquet", rows, row_group_size=100)
    # When the job is scored
    done = ended(client, client.submit("unhurried", uri, part_rows=100))
    assert (done.state, done.parts) == ("succeeded", parts)
    # Then each timing is above zero, and only `predict` contains the time of the estimator. Another stage may take as
    # long on a busy machine, but not in each part
    listed = json.loads(store.get(keys.results_manifest(parse_uri(done.output)[1])).data)
    timings = [json.loads(store.head(entry["key"]).metadata["seconds"]) for entry in listed["parts"]]
    spent = {stage: sum(one[stage] for one in timings) for stage in TIMINGS}
    assert min(spent.values()) > 0, spent
    assert min(one["predict"] for one in timings) >= seconds
    for stage in ("decode", "align", "encode", "upload"):
        assert min(one[stage] for one in timings) < seconds, timings
    # And the manifest contains the sums of the timings of all parts
    assert listed["seconds"] == pytest.approx(spent, abs=1e-3)


def test_a_model_is_loaded_once_per_process_not_once_per_part(own: Stack, trained: Any, cells: pd.DataFrame) -> None:
    # Given a worker for this test alone, because other tests fill the memory and the cache of the shared worker
    own.start_worker(2)
    client = Client.from_env(own.environ)
    store = client.buckets.main
    manifest = ModelStorageManager.from_env(own.environ).publish("once", trained[1], trained[0], trained[2])
    rows = pd.concat([cells] * 8, ignore_index=True)
    for number in range(4):
        store.put(f"in/once/{number}.parquet", rows[number::4].to_parquet(index=False))
    jobs = [client.submit("once", store.uri("in/once/"), part_rows=1_000) for _ in range(4)]
    assert {ended(client, job).state for job in jobs} == {"succeeded"}
    parts = sum(client.status(job.job_id).parts for job in jobs)
    log = (own.folder / "s3.log").read_text()
    path = re.escape(f"/models/once/{manifest.version}/")
    for file in ("model", "preprocessor", "label_encoder"):
        # do not count the read by which publishing verifies the file
        gets = len(re.findall(rf'GET [^"]*{path}{file}\.joblib', log)) - 1
        assert 1 <= gets <= 2 < parts


def test_inspect_shows_the_models_of_each_process(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Put
) -> None:
    models.publish("seen", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    ended(client, client.submit("seen", put_table("in/seen.parquet", pd.DataFrame({"x": [1.0]}))))

    # poll, because a process reports its models to its parent shortly after its part ends
    def shown() -> list[dict[str, Any]]:
        held = [model for of_process in ask(worker, "inspect", "models").values() for model in of_process]
        return [model for model in held if model["model"] == "seen"]

    assert {"model", "version", "bytes", "hits", "load_seconds", "trees"} <= wait_until(shown, "the model")[0].keys()


def test_a_regressor_gives_one_prediction_column_and_keep_chooses_the_others(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Put
) -> None:
    frame = pd.DataFrame({"b": [1, 2, 3], "x": [0.5, 1.5, 2.5], "a": ["p", "q", "r"]})
    models.publish("line", LinearRegression().fit(frame[["x"]], [1.0, 3.0, 5.0]))
    uri = put_table("in/line.parquet", frame)
    for keep, columns in (("all", ["b", "a", "prediction"]), ("none", ["prediction"]), ("a", ["a", "prediction"])):
        done = ended(client, client.submit("line", uri, keep=keep))
        data = store.get(parse_uri(done.output)[1] + "part-00000.parquet").data
        assert pq.read_table(io.BytesIO(data)).column_names == columns


def test_rows_that_cannot_be_scored_are_rejected_with_their_reason(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Put
) -> None:
    models.publish("strict", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    frame = pd.DataFrame({"id": range(300), "x": [float(n) for n in range(300)]})
    frame.loc[[7, 250], "x"] = [np.nan, np.inf]
    uri = put_table("in/strict.parquet", frame, row_group_size=100)
    done = ended(client, client.submit("strict", uri))
    assert (done.state, done.rows, done.rejected) == ("partial", 298, 2)
    folder = parse_uri(done.output)[1]
    rejected = pq.read_table(io.BytesIO(store.get(rejected_key(store, folder)).data)).to_pandas()
    assert rejected[["id", "row", "source", "stage", "column"]].to_numpy().tolist() == [
        [7, 7, uri, "schema", "x"],
        [250, 250, uri, "schema", "x"],
    ]
    # And a job over its budget fails, and keeps everything except _SUCCESS
    over = ended(client, client.submit("strict", uri, max_rejected="1"))
    assert over.state == "failed"
    assert "2 of 300 rows were rejected" in over.error
    assert [info.key for info in store.list(parse_uri(over.output)[1] + "_SUCCESS")] == []


def test_the_same_id_is_the_same_job_and_another_spec_is_refused(
    worker: Stack, client: Client, models: ModelStorageManager, put_table: Put
) -> None:
    models.publish("twice", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    uri = put_table("in/twice.parquet", pd.DataFrame({"x": [1.0]}))
    first = ended(client, client.submit("twice", uri, job_id="twice-1"))
    again = ended(client, client.submit("twice", uri, job_id="twice-1"))
    assert (again.state, again.rows) == (first.state, 1)
    with pytest.raises(JobConflict, match="twice-1"):
        client.submit("twice", uri, job_id="twice-1", keep="none")


@pytest.mark.parametrize(
    ("key", "frame", "expected"),
    [
        ("in/none/", None, "the prefix is empty"),
        ("in/none.parquet", None, "no such object"),
        ("in/none-*.parquet", None, "nothing matches"),
        ("in/lacks.parquet", pd.DataFrame({"id": [1]}), r"lacks 'x'"),
    ],
)
def test_input_that_cannot_be_scored_fails_the_job_before_scoring_begins(
    worker: Stack,
    client: Client,
    models: ModelStorageManager,
    store: ObjectStore,
    put_table: Put,
    key: str,
    frame: pd.DataFrame | None,
    expected: str,
) -> None:
    models.publish("needs-x", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    if frame is not None:
        put_table(key, frame)
    done = ended(client, client.submit("needs-x", store.uri(key)))
    assert done.state == "failed"
    assert re.search(expected, done.error)
    assert key in done.error
    assert list(store.list(parse_uri(done.output)[1])) == []


def test_an_object_that_is_not_parquet_is_named(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore
) -> None:
    models.publish("needs-x", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    store.put("in/broken.parquet", b"PAR1 not really")
    done = ended(client, client.submit("needs-x", store.uri("in/broken.parquet")))
    assert done.state == "failed"
    assert "broken.parquet is not a Parquet file" in done.error


def test_a_corrupt_model_fails_the_job_and_is_named(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Put
) -> None:
    manifest = models.publish("corrupt", LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]))
    key = keys.artifact("corrupt", manifest.version, "model.joblib")
    data = bytearray(store.get(key).data)
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))
    done = ended(client, client.submit("corrupt", put_table("in/corrupt.parquet", pd.DataFrame({"x": [1.0]}))))
    assert done.state == "failed"
    assert "differs from its manifest" in done.error


def test_a_bucket_that_is_not_allowed_is_refused(client: Client, models: ModelStorageManager, trained: Any) -> None:
    models.publish("boxed", trained[1])
    with pytest.raises(BucketNotAllowed, match="elsewhere"):
        client.submit("boxed", "s3://elsewhere/in/")


def test_an_output_inside_the_input_is_refused_before_anything_is_written(client: Client, store: ObjectStore) -> None:
    before = {info.key for info in store.list("jobs/")}
    for submit in (client.submit, client.preflight):
        with pytest.raises(
            InvalidRequest, match="output 's3://scoreline/in/out/' lies within input 's3://scoreline/in/'"
        ):
            submit("m", ["s3://scoreline/other.parquet", "s3://scoreline/in/"], output="s3://scoreline/in/out/")
    assert {info.key for info in store.list("jobs/")} <= before  # jobs of earlier tests may still lose their markers


def test_an_unknown_job_id_is_named(client: Client) -> None:
    with pytest.raises(JobNotFound, match="nobody"):
        client.status("nobody")


def test_a_user_can_publish_submit_and_inspect(worker: Stack, cli: Cli, put_table: Put, tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0]), path)
    published = cli("models", "publish", "typed", "--model", str(path), "--alias", "champion", "--metadata", "by=me")
    assert published.returncode == 0, published.stderr
    uri = put_table("in/typed.parquet", pd.DataFrame({"x": [1.0, 2.0]}))
    submitted = cli("submit", "typed@champion", uri, "--watch", "--job-id", "typed-1")
    assert submitted.returncode == 0, submitted.stderr
    assert "2 scored, 0 rejected, of 2" in submitted.stdout
    assert json.loads(cli("status", "typed-1", "--json").stdout)["state"] == "succeeded"
    assert "typed-1" in cli("jobs", COLUMNS="200").stdout
    assert "typed" in cli("models", "list").stdout
    assert json.loads(cli("models", "show", "typed", "--json").stdout)["metadata"] == {"by": "me"}
    version = published.stdout.strip().partition("@")[2]
    assert "challenger" in cli("models", "alias", "typed", "challenger", version).stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "expected"),
    [
        (("submit", "nobody", "s3://scoreline/in/"), {}, 2, "no model 'nobody'"),
        (("submit", "a@b@c", "s3://scoreline/in/"), {}, 2, "name@alias"),
        (("submit", "m", "in/"), {}, 2, "s3://bucket/key"),
        (("submit", "m", "s3://scoreline/in/"), {"REDIS_URL": "redis://:hush@127.0.0.1:9/0"}, 1, "127.0.0.1:9"),
        (("models", "list"), {"R2_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "127.0.0.1:9"),
        (("models", "list"), {"R2_BUCKET": ""}, 2, "R2_BUCKET is not set"),
        (("status", "nobody"), {}, 2, "no job 'nobody'"),
        (("watch", "nobody"), {}, 2, "no job 'nobody'"),
    ],
)
def test_bad_input_is_reported_in_one_line_within_ten_seconds(
    cli: Cli, arguments: tuple[str, ...], environ: dict[str, str], code: int, expected: str
) -> None:
    # Given the start time of the command line on this machine
    began = time.monotonic()
    assert cli("--version").returncode == 0
    start_s = time.monotonic() - began
    # When a command cannot be carried out
    began = time.monotonic()
    done = cli(*arguments, **environ)
    # Then the command reports the reason quickly, because it hardly retries a missing service
    assert time.monotonic() - began < 10 + 5 * start_s
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "hush" not in done.stderr
