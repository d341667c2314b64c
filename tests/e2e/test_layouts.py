"""Common Parquet readers read every layout of results: one file per part, folders by a column, and gathered."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.dev.stack import Stack
from tests.support.estimators import Paced
from tests.support.rejects import rejected_key
from tests.support.waiting import HANG_S

Cli = Callable[..., subprocess.CompletedProcess[str]]

REGIONS = ["north", "a/b c", "50%=half", "zürich", "", None]
ROWS = 3_000
COLUMNS = ["id", "at", "note", "region", "prediction"]


def rows(count: int = ROWS) -> pa.Table:
    """Return an input with columns of several types; the rows are not sorted by region."""
    ids = np.arange(count, dtype=np.int64) + (1 << 60)
    return pa.table(
        {
            "id": ids,
            "at": pa.array(np.arange(count) * 86_400_000_001, pa.timestamp("us")),
            "note": pa.array([None if row % 7 == 0 else f"row {row}, ünïcode" for row in range(count)]),
            "region": pa.array([REGIONS[row * 7 % 13 % len(REGIONS)] for row in range(count)]),
            "x": np.random.default_rng(0).normal(size=count),
        }
    )


@pytest.fixture(scope="module")
def uri(worker: Stack) -> str:
    """Publish the model, write an input of ten parts, and return its URI."""
    store = Client.from_env(worker.environ).buckets.main
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
    model = LinearRegression().fit(frame, [1.0, 4.5, 7.25])
    ModelStorageManager.from_env(worker.environ).publish("layouts", model)
    sink = io.BytesIO()
    pq.write_table(rows(), sink, row_group_size=ROWS // 10)
    store.put("in/layouts.parquet", sink.getvalue())
    return store.uri("in/layouts.parquet")


@pytest.fixture(scope="module")
def expected() -> pa.Table:
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
    model = LinearRegression().fit(frame, [1.0, 4.5, 7.25])
    table = rows()
    scored = model.predict(pd.DataFrame({"x": table.column("x").to_numpy()}))
    return table.append_column("prediction", pa.array(scored)).select(COLUMNS)


def ended(client: Client, job: Status) -> Status:
    return list(client.watch(job.job_id, timeout_s=HANG_S))[-1]


def fetch(store: ObjectStore, job: Status, folder: Path) -> Path:
    """Copy the whole output of a job, as ``aws s3 sync`` does."""
    where = parse_uri(job.output)[1]
    for info in store.list(where):
        path = folder / info.key.removeprefix(where)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(info.key).data)
    return folder


@pytest.fixture(scope="module")
def layouts(worker: Stack, uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    client = Client.from_env(worker.environ)
    options: dict[str, dict[str, Any]] = {
        "parts": {},
        "folders": {"partition_by": "region"},
        "gathered": {"gather": True},
    }
    jobs = {name: client.submit("layouts", uri, part_rows=ROWS // 10, **more) for name, more in options.items()}
    found = {}
    for name, job in jobs.items():
        done = ended(client, job)
        assert (done.state, done.rows, done.parts, done.error) == ("succeeded", ROWS, 10, "")
        found[name] = fetch(client.buckets.main, done, tmp_path_factory.mktemp(name))
    return found


def by_pyarrow(folder: Path, files: str) -> pa.Table:
    return ds.dataset(folder, format="parquet", partitioning="hive").to_table()


def by_pandas(folder: Path, files: str) -> pa.Table:
    # with its default types, pandas cannot read partition folders if one of these folders stands for null
    return pa.Table.from_pandas(pd.read_parquet(folder, dtype_backend="pyarrow"), preserve_index=False)


def by_polars(folder: Path, files: str) -> pa.Table:
    return pl.scan_parquet(f"{folder}/{files}", hive_partitioning=True).collect().to_arrow()


def by_duckdb(folder: Path, files: str) -> pa.Table:
    found = duckdb.sql(f"select * from read_parquet('{folder}/{files}', hive_partitioning=true)")
    assert found is not None
    return found.to_arrow_table()


def by_spark(folder: Path, files: str) -> pa.Table:
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    sql = pytest.importorskip("pyspark.sql")
    spark = (
        sql.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    try:
        return spark.read.parquet(str(folder)).toArrow()
    finally:
        spark.stop()


@pytest.mark.parametrize("read", [by_pyarrow, by_pandas, by_polars, by_duckdb, by_spark])
def test_every_parquet_reader_finds_every_row_bit_for_bit(
    layouts: dict[str, Path], expected: pa.Table, read: Callable[[Path, str], pa.Table]
) -> None:
    nothing = pa.compute.equal(expected.column("region"), "")
    shown = expected.set_column(3, "region", pa.compute.if_else(nothing, None, expected.column("region")))
    for name, folder in layouts.items():
        table = read(folder, "region=*/part-*.parquet" if name == "folders" else "part-*.parquet")
        exact = ["id", "at", "prediction"]
        assert [table.schema.field(column).type for column in exact] == [expected.schema.field(c).type for c in exact]
        table = table.select(COLUMNS).cast(expected.schema)  # readers use different Arrow types for text
        wanted = shown if name == "folders" else expected  # an empty text becomes null in the name of a folder
        assert table.sort_by("id").equals(wanted), name


def test_arranged_files_are_named_in_the_manifest_and_the_parts_are_deleted(
    layouts: dict[str, Path], worker: Stack
) -> None:
    for name, folder in layouts.items():
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"_report.html"}
        manifest = json.loads((folder / "_manifest.json").read_text())
        assert [entry["rows"] for entry in manifest["parts"]] == [300] * 10
        if name == "parts":
            named = {Path(entry["key"]).name for entry in manifest["parts"]}
            assert found == named | {"_manifest.json", "_profile.json", "_SUCCESS"}
            continue
        root = manifest["files"][0]["key"].partition("job_id=")[2].partition("/")[0]
        named = {file["key"].partition(f"{root}/")[2] for file in manifest["files"]}
        assert found == named | {"_manifest.json", "_profile.json", "_SUCCESS"}
        for file in manifest["files"]:
            data = (folder / file["key"].partition(f"{root}/")[2]).read_bytes()
            assert len(data) == file["bytes"]
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
            metadata = pq.read_metadata(io.BytesIO(data))
            assert metadata.num_rows == file["rows"]
            assert metadata.metadata[b"scoreline.job_id"].decode() == manifest["job_id"]
            assert json.loads(metadata.metadata[b"scoreline.libraries"])["pyarrow"] == pa.__version__
            assert b"scoreline.submitted_at" in metadata.metadata
        assert sum(file["rows"] for file in manifest["files"]) == ROWS
    assert [file.name for file in layouts["gathered"].glob("part-*")] == ["part-00000.parquet"]
    assert {file.name for file in layouts["folders"].iterdir() if file.is_dir()} == {
        "region=north",
        "region=a%2Fb c",
        "region=50%25%3Dhalf",
        "region=zürich",
        f"region={keys.NO_VALUE}",
    }


def test_gathered_results_are_in_the_order_of_the_input(layouts: dict[str, Path], expected: pa.Table) -> None:
    assert pq.read_table(layouts["gathered"] / "part-00000.parquet").column("id").equals(expected.column("id"))
    for path in layouts["folders"].rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        assert "region" not in table.column_names
        ids = table.column("id").to_pylist()
        assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition_by": "reg"}, "'reg', which is not among the kept columns ('id', 'at', 'note', 'region')"),
        ({"partition_by": "x"}, "'x', which is not among the kept columns"),
        ({"partition_by": "region", "keep": "none"}, "which is not among the kept columns (none)"),
        ({"partition_by": "x", "keep": "id,x"}, "'x', which is double: choose a column of texts, integers"),
    ],
)
def test_a_column_unfit_for_folders_fails_the_job_while_it_is_planned(
    client: Client, uri: str, options: dict[str, str], message: str
) -> None:
    done = ended(client, client.submit("layouts", uri, **options))  # type: ignore[arg-type]
    assert done.state == "failed"
    assert message in done.error


def test_a_folder_column_that_readers_ignore_is_refused_at_once(client: Client, uri: str) -> None:
    with pytest.raises(InvalidRequest, match="readers skip folders"):
        client.submit("layouts", uri, partition_by="_region")


def test_too_many_folders_fail_the_job_and_keep_its_parts(client: Client, store: ObjectStore, uri: str) -> None:
    done = ended(client, client.submit("layouts", uri, partition_by="id", keep="id,note"))
    assert done.state == "failed"
    assert "'id' has more than 1,000 values" in done.error
    assert f"can be read as {done.output}_parts/part-*.parquet" in done.error
    folder = parse_uri(done.output)[1]
    assert [info.key.removeprefix(folder) for info in store.list(folder)] == ["_parts/part-00000.parquet"]


def test_rejected_rows_can_be_read_after_the_parts_of_an_arranged_job_are_deleted(
    client: Client, store: ObjectStore, models: ModelStorageManager, cli: Cli
) -> None:
    models.publish("picky", Paced(refuses_from=95.0).fit(pd.DataFrame({"x": [0.0]})))
    sink = io.BytesIO()
    ids = np.arange(100)
    pq.write_table(pa.table({"id": ids, "x": ids.astype(float), "month": ids % 3}), sink)
    store.put("in/picky.parquet", sink.getvalue())
    uri = store.uri("in/picky.parquet")
    submitted = cli("submit", "picky", uri, "--partition-by", "month", "--max-rejected", "5", "--watch")
    assert submitted.returncode == 3, submitted.stderr
    job = submitted.stdout.split()[0]
    assert client.rejected(job).rows == 5
    folder = parse_uri(client.status(job).output)[1]
    left = store.get(rejected_key(store, folder)).data
    store.put(keys.rejected_part(folder, 0, "a" * 64), left)  # simulates a file that a dead attempt has left
    assert client.rejected(job).rows == 5
    assert {Path(info.key).parent.name for info in store.list(f"{folder}month")} == {"month=0", "month=1", "month=2"}
