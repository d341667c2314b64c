"""Workers score inputs of every format and origin, and report each row that cannot be scored."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from scoreline.storage import keys
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.parquet import read_table
from scoreline.tasks.client import Client
from scoreline.tasks.job.documents import Status, read_outcome
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.dev.stack import Stack
from tests.support.estimators import Paced
from tests.support.rejects import rejected_key
from tests.support.waiting import HANG_S

Cli = Callable[..., subprocess.CompletedProcess[str]]
ROWS = 1_000


@pytest.fixture(scope="module")
def line(worker: Stack) -> str:
    """Publish a model that predicts 2 x + 1 and refuses missing values."""
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    ModelStorageManager.from_env(worker.environ).publish("line-in", LinearRegression().fit(frame, [1.0, 3.0]))
    return "line-in"


def ended(client: Client, job: Status) -> Status:
    return list(client.watch(job.job_id, timeout_s=HANG_S))[-1]


def results_of(client: Client, job: Status, *, rejected: bool = False) -> pd.DataFrame:
    """Read all parts of a job in order."""
    store, folder = client.buckets.main, parse_uri(job.output)[1]
    prefix = keys.rejected_folder(folder) if rejected else folder
    found = [info for info in store.list(prefix) if info.key.removeprefix(prefix).startswith(("part-", "rejected-"))]
    tables = [read_table(Pinned(store=store, key=i.key, size=i.size, etag=i.etag)) for i in found]
    return pa.concat_tables(tables).to_pandas()


def frame(first: int = 0, rows: int = ROWS) -> pd.DataFrame:
    ids = np.arange(first, first + rows)
    return pd.DataFrame({"id": ids, "x": ids / 8, "name": [f"n{number}" for number in ids]})


def as_csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def as_jsonl(table: pd.DataFrame) -> bytes:
    return table.to_json(orient="records", lines=True).encode()


def as_arrow(table: pd.DataFrame, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    made = pa.Table.from_pandas(table, preserve_index=False)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=300)
    return sink.getvalue()


FORMATS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "a.parquet": lambda table: table.to_parquet(index=False),
    "a.csv": as_csv,
    "a.tsv": lambda table: table.to_csv(index=False, sep="\t").encode(),
    "a.csv.gz": lambda table: gzip.compress(as_csv(table)),
    "a.jsonl": as_jsonl,
    "a.ndjson.zst": lambda table: pa.compress(as_jsonl(table), codec="zstd", asbytes=True),
    "a.arrow": as_arrow,
    "a.arrows": lambda table: as_arrow(table, stream=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_results(
    worker: Stack, client: Client, store: ObjectStore, line: str, name: str
) -> None:
    store.put(f"in/formats/{name}", FORMATS[name](frame()))
    job = ended(client, client.submit(line, store.uri(f"in/formats/{name}"), part_rows=100))
    assert (job.state, job.rows, job.error) == ("succeeded", ROWS, "")
    found = results_of(client, job)
    assert found["id"].dtype == np.int64
    assert found["id"].tolist() == list(range(ROWS))
    assert found["name"].tolist() == frame()["name"].tolist()
    assert np.allclose(found["prediction"], 2 * frame()["x"] + 1, rtol=0, atol=1e-9)


def test_one_job_takes_inputs_of_several_formats_and_reads_each_object_once(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    store.put("in/several/a.csv", as_csv(frame(0, 10)))
    store.put("in/several/b.parquet", frame(10, 10).to_parquet(index=False))
    store.put("in/several/c.jsonl", as_jsonl(frame(20, 10)))
    store.put("in/several/empty.csv", b"")
    asked = ["in/several/c.jsonl", "in/several/", "in/several/*.csv"]
    job = ended(client, client.submit(line, [store.uri(key) for key in asked]))
    assert (job.state, job.rows, job.error) == ("succeeded", 30, "")
    assert results_of(client, job)["id"].tolist() == [*range(20, 30), *range(20)]
    manifest = json.loads(store.get(keys.results_manifest(parse_uri(job.output)[1])).data)
    assert manifest["warnings"] == ["1 of 4 objects have no bytes: s3://scoreline/in/several/empty.csv"]


def test_hive_partitions_are_columns_to_keep_or_to_score(
    worker: Stack, client: Client, store: ObjectStore, models: ModelStorageManager
) -> None:
    train = pd.DataFrame({"x": [0.0, 1.0, 2.0], "year": [2024, 2025, 2027]})
    model = LinearRegression().fit(train, [1.0, 2.0, 4.0])
    models.publish("yearly", model)
    for year, region in ((2025, "eu"), (2026, "a%2Fb"), (2026, "__HIVE_DEFAULT_PARTITION__")):
        key = f"in/hive/year={year}/region={region}/part.parquet"
        store.put(key, frame(0, 4)[["id", "x"]].to_parquet(index=False))
    job = ended(client, client.submit("yearly", store.uri("in/hive/")))
    assert (job.state, job.rows, job.error) == ("succeeded", 12, "")
    found = results_of(client, job)
    assert found["region"].fillna("none").tolist() == ["eu"] * 4 + ["none"] * 4 + ["a/b"] * 4
    years = found["region"].map({"eu": 2025}).fillna(2026)
    expected = model.predict(pd.DataFrame({"x": found["id"] / 8, "year": years}))
    assert np.allclose(found["prediction"], expected)


DIRTY = b"""id,x,name
1,0.5,plain
2,n/a?,"two
lines"
3,,missing
4,1.5,extra,field
5,2.5,caf\xe9
six,3.5,not a number
7,inf,endless
8,4.5,last
"""


def test_each_row_of_a_dirty_csv_is_scored_or_rejected_with_a_reason(
    worker: Stack, client: Client, store: ObjectStore, line: str, cli: Cli, tmp_path: Any
) -> None:
    store.put("in/dirty.csv", DIRTY)
    uri = store.uri("in/dirty.csv")
    options = ["--max-rejected", "90%", "--types", "id=int64"]
    done = cli("submit", line, uri, "--job-id", "dirty", *options, "--watch")
    assert done.returncode == 3, done.stderr
    job = client.status("dirty")
    assert results_of(client, job)["id"].tolist() == [1, 8]
    # And the rejected rows are in a Parquet file that other tools can read
    folder = parse_uri(job.output)[1]
    (tmp_path / "rejected.parquet").write_bytes(store.get(rejected_key(store, folder)).data)
    relation = duckdb.sql(
        f"SELECT source, row, stage, \"column\", message, record, id FROM '{tmp_path}/rejected.parquet' ORDER BY row"
    )
    assert relation is not None
    found = relation.fetchall()
    assert {row[0] for row in found} == {uri}
    assert [row[1:4] for row in found] == [
        (1, "decode", "x"),
        (2, "schema", "x"),
        (3, "decode", None),
        (4, "decode", "name"),
        (5, "decode", "id"),
        (6, "schema", "x"),
    ]
    assert found[0][4] == "'x' is 'n/a?', which is not a number"
    assert found[0][5] == '2,n/a?,"two\nlines"'
    assert [row[6] for row in found] == [2, 3, None, 5, None, 7]
    assert found[2][4] == "4 fields, but the header has 3"
    # And `scoreline rejected` shows each reason, and the text that could not be decoded
    said = cli("rejected", "dirty")
    assert "1 row  decode  'x'" in said.stdout
    assert "4,1.5,extra,field" in said.stdout


def test_rejected_rows_alone_are_scored_again_once_the_model_takes_them(
    worker: Stack, client: Client, store: ObjectStore, models: ModelStorageManager, cli: Cli
) -> None:
    train = pd.DataFrame({"x": [0.0, 1.0]})
    models.publish("mend", LinearRegression().fit(train, [1.0, 3.0]))
    for number in range(3):
        part = frame(number * 100, 100)
        part.loc[[3, 99], "x"] = None
        store.put(f"in/mend/{number}.csv", as_csv(part))
    first = ended(client, client.submit("mend", store.uri("in/mend/"), job_id="mend", part_rows=60, max_rejected="5%"))
    assert (first.state, first.rejected) == ("partial", 6)
    # When a version that fills missing values is published
    models.publish("mend", make_pipeline(SimpleImputer(), LinearRegression()).fit(train, [1.0, 3.0]))
    done = cli("resume", "mend", "--rejected", "--watch")
    # Then a new job scores only the rejected rows
    assert done.returncode == 0, done.stderr
    again = client.status("mend-rejected-1")
    assert (again.state, again.rows, again.total_rows) == ("succeeded", 6, 6)
    assert results_of(client, again)["id"].tolist() == [3, 99, 103, 199, 203, 299]
    assert again.model != first.model
    # And a further request is refused, because no rejected row is left
    nothing = cli("resume", "mend-rejected-1", "--rejected")
    assert (nothing.returncode, nothing.stderr) == (2, "error: job mend-rejected-1 rejected no row\n")
    assert cli("resume", "mend", "--model", "mend").returncode == 2


def test_rejected_rows_of_a_replaced_object_are_not_scored_again(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    part = frame(0, 10)
    part.loc[3, "x"] = None
    store.put("in/replaced.csv", as_csv(part))
    job = ended(client, client.submit(line, store.uri("in/replaced.csv"), job_id="replaced", max_rejected="50%"))
    assert job.rejected == 1
    store.put("in/replaced.csv", as_csv(frame(100, 10)))
    again = ended(client, client.resume_rejected("replaced"))
    assert again.state == "failed"
    assert "was replaced or deleted after the job was planned" in again.error


def test_a_mixed_column_is_text_if_the_model_takes_texts_and_numbers_otherwise(
    worker: Stack, client: Client, store: ObjectStore, models: ModelStorageManager, line: str
) -> None:
    train = pd.DataFrame({"x": ["1", "2", "A"]})
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["x"]))
    model = make_pipeline(encode, LinearRegression()).fit(train, [1.0, 2.0, 10.0])
    models.publish("codes", model)
    store.put("in/mixed.csv", b"id,x\n" + b"".join(b"%d,%s\n" % (n, (b"1", b"2", b"A")[n % 3]) for n in range(30)))
    uri = store.uri("in/mixed.csv")
    codes = ended(client, client.submit("codes", uri))
    assert (codes.state, codes.rows, codes.error) == ("succeeded", 30, "")
    assert np.allclose(results_of(client, codes)["prediction"], [1.0, 2.0, 10.0] * 10)
    numbers = ended(client, client.submit(line, uri, max_rejected="50%"))
    assert (numbers.state, numbers.rows, numbers.rejected) == ("partial", 20, 10)
    assert set(results_of(client, numbers, rejected=True)["stage"]) == {"decode"}


def test_a_model_without_names_takes_the_numeric_columns_in_their_order_with_a_warning(
    worker: Stack, client: Client, store: ObjectStore, models: ModelStorageManager
) -> None:
    models.publish("bare", LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]))
    store.put("in/bare.csv", as_csv(frame(0, 10)[["x", "name"]]))
    job = ended(client, client.submit("bare", store.uri("in/bare.csv")))
    assert (job.state, job.rows, job.error) == ("succeeded", 10, "")
    manifest = json.loads(store.get(keys.results_manifest(parse_uri(job.output)[1])).data)
    assert manifest["warnings"] == [f"{job.model} was fitted without column names, and takes 'x', in this order"]
    store.put("in/bare2.csv", as_csv(frame(0, 10)))
    failed = ended(client, client.submit("bare", store.uri("in/bare2.csv")))
    assert failed.error.endswith(
        "takes 1 feature; the input has 2 numeric columns ('id', 'x'): name the features with --features a,b,c"
    )


def test_large_row_groups_are_several_parts_if_a_job_asks_for_that(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    source_key = "in/large-group.parquet"
    store.put(source_key, frame(0, 5_000).to_parquet(index=False))
    found = client.preflight(line, store.uri(source_key), part_rows=1_000)
    assert (found.parts, found.rows, found.largest_part_rows) == (5, 5_000, 1_000)


def test_a_dry_run_shows_what_a_job_would_do_and_leaves_nothing_behind(
    worker: Stack, client: Client, store: ObjectStore, line: str, cli: Cli
) -> None:
    store.put("in/dry/a.csv", as_csv(frame()))
    before = {info.key for info in store.list("")}
    done = cli("submit", line, store.uri("in/dry/"), "--keep", "id", "--part-rows", "100", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith(": 1,000 rows; nothing was written or sent")
    assert "  why      --part-rows asks for about 100 rows in a part" in lines
    assert "  reads    0.0 MiB 10.00 times, with about 10 requests" in lines
    assert any(item.startswith("  work     about ") for item in lines)
    assert "  features 1: x float64" in lines
    assert "  kept     1: id" in lines
    assert "  unused   1: name" in lines
    assert "  columns  2: id int64, prediction double" in lines
    assert any(item.startswith("  memory   about ") for item in lines)
    assert len(lines) - lines.index("first 5 rows, scored:") == 7
    # Jobs of earlier tests may still lose their markers and get their reports
    new = {info.key for info in store.list("")} - before
    assert not [key for key in new if not key.endswith("/_report.html")]
    shown = json.loads(cli("submit", line, store.uri("in/dry/"), "--dry-run", "--json").stdout)
    assert shown["sample"][2] == {"id": 2, "name": "n2", "prediction": 1.5}


def test_a_dry_run_fails_with_the_message_of_the_job(
    worker: Stack, client: Client, store: ObjectStore, line: str, cli: Cli
) -> None:
    store.put("in/lacking.csv", b"id,y\n1,2\n")
    dry = cli("submit", line, store.uri("in/lacking.csv"), "--dry-run")
    assert dry.returncode == 1
    job = ended(client, client.submit(line, store.uri("in/lacking.csv")))
    assert dry.stderr == f"error: {job.error}\n"
    assert "s3://scoreline/in/lacking.csv lacks 'x'; it has 'id', 'y'" in dry.stderr


def test_numbers_and_lists_are_accepted_in_place_of_texts(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    store.put("in/forms.csv", as_csv(frame(0, 4)))
    job = ended(client, client.submit(line, store.uri("in/forms.csv"), max_rejected=5, keep=["name", "id"]))
    assert job.state == "succeeded"
    assert list(results_of(client, job).columns) == ["name", "id", "prediction"]


def test_an_object_of_broken_rows_only_does_not_fill_memory(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    store.put("in/broken.csv", b"id,x\n1,0.5\n" + b"2,oops\n" * 5_000)
    job = ended(client, client.submit(line, store.uri("in/broken.csv"), part_rows=10_000))
    assert job.state == "failed"
    assert "more than 1000 rows were rejected in one part, but the limit of the job left room for only" in job.error
    assert "s3://scoreline/in/broken.csv, row 1: 'x' is 'oops', which is not a number" in job.error


def test_a_type_for_an_unknown_column_is_named(worker: Stack, client: Client, store: ObjectStore, line: str) -> None:
    store.put("in/typed.csv", as_csv(frame(0, 4)))
    job = ended(client, client.submit(line, store.uri("in/typed.csv"), types={"idd": "string"}))
    assert job.error == (
        "--types names 'idd', which no CSV or JSON Lines object has: correct the name, or leave it out"
    )


def test_nested_columns_are_kept_only_if_they_are_named(
    worker: Stack, client: Client, store: ObjectStore, line: str
) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [1], "x": [0.5], "tags": [["a", "b"]]}), sink)
    store.put("in/nested.parquet", sink.getvalue())
    found = client.preflight(line, store.uri("in/nested.parquet"))
    assert (found.kept, found.unused) == (("id",), ("tags",))
    job = ended(client, client.submit(line, store.uri("in/nested.parquet"), keep="tags"))
    assert [list(tags) for tags in results_of(client, job)["tags"]] == [["a", "b"]]


def test_a_csv_is_scored_as_pandas_reads_it(
    worker: Stack, client: Client, store: ObjectStore, models: ModelStorageManager
) -> None:
    # Given a model fitted on a CSV that pandas read, with booleans, codes with leading zeros, and texts such as "NA"
    table = pd.DataFrame(
        {
            "id": range(60),
            "active": [n % 2 == 0 for n in range(60)],
            "store": [f"{n % 3 + 7:03}" for n in range(60)],
            "region": [["eu", "NA", "us", "n/a", ""][n % 5] for n in range(60)],
            "age": [n / 4 for n in range(60)],
        }
    )
    data = table.to_csv(index=False).encode()
    read = pd.read_csv(io.BytesIO(data))
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["active", "store", "region"]), remainder="passthrough"
    )
    target = read["active"] * 10 + read["store"] + read["region"].isna() * 100
    features = ["active", "store", "region", "age"]
    model = make_pipeline(encode, LinearRegression()).fit(read[features], target)
    models.publish("as-pandas", model)
    # When a job scores the same CSV file
    store.put("in/as-pandas.csv", data)
    job = ended(client, client.submit("as-pandas", store.uri("in/as-pandas.csv")))
    # Then each row has the score that the model gives on pandas' DataFrame, and the preflight warns of leading zeros
    assert (job.state, job.error) == ("succeeded", "")
    assert np.array_equal(results_of(client, job)["prediction"], model.predict(read[features]))
    found = client.preflight("as-pandas", store.uri("in/as-pandas.csv"))
    assert found.warnings == (
        "'store' has leading zeros and is read as numbers, as pandas does: --types store=string keeps the zeros",
    )


def test_a_dry_run_opens_every_object(worker: Stack, client: Client, store: ObjectStore, line: str) -> None:
    store.put("in/look/a.csv", as_csv(frame(0, 10)))
    store.put("in/look/b.csv", b"id,x,name\n1,low,a\n2,low,b\n")
    found = client.preflight(line, store.uri("in/look/"))
    assert found.warnings == (
        f"{store.uri('in/look/b.csv')}: 2 of 2 rows tried cannot be scored: row 0: 'x' is 'low', which is not a number",
    )


def test_a_worker_fetches_each_small_object_once(
    worker: Stack, client: Client, models: ModelStorageManager, put_table: Callable[..., str]
) -> None:
    # Given a model that takes so long that all processes score some of the parts
    objects, of_part = 300, 15
    frame = pd.DataFrame({"x": np.arange(10.0)})
    models.publish("paced-in", Paced(seconds=0.1).fit(frame))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: put_table(f"in/fetched/{number:03}.parquet", frame), range(objects)))
    # When they score many small objects
    uri = client.buckets.main.uri("in/fetched/")
    done = ended(client, client.submit("paced-in", uri, part_rows=of_part * len(frame)))
    assert (done.state, done.rows) == ("succeeded", objects * len(frame))
    # Then each object takes one request, planning included, and all else takes about four for each part
    outcome = read_outcome(client.buckets.main, done.job_id)
    assert outcome is not None
    assert objects <= outcome.class_b <= 1.3 * objects, (outcome.class_b, outcome.parts)
