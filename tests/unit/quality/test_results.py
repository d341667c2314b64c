"""The rows of an accepted run, read in order of the input and written to files."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoreline.storage.errors import InvalidRequest, ResultsDamaged
from scoreline.storage.hashing import sha256_hex
from scoreline.tasks.quality.gate import pointer, published
from scoreline.tasks.quality.gate.latest import ResultFile
from scoreline.tasks.quality.results import exports
from scoreline.tasks.quality.results.exports import export
from scoreline.tasks.quality.results.reading import Results, open_results
from scoreline.tasks.steps.planner import plan_job
from tests.support.gated import BLOCKS, KEY, OUTPUT, Gated

RISKY = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1")  # noqa: RUF001


def ids(results: Results) -> list[int]:
    return [row for batch in results for row in batch.column("id").to_pylist()]


@pytest.mark.parametrize("gather", [False, True])
def test_rows_come_in_order_of_the_input(jobs: Gated, gather: bool) -> None:
    jobs.run("j", gather=gather)
    for target in (OUTPUT, OUTPUT[:-1], "j", f"{OUTPUT}job_id=j/", f"{OUTPUT}job_id=j"):
        found = open_results(jobs.buckets, target)
        assert ids(found) == list(range(40))
        assert (found.rows, found.job_id, found.uri) == (40, "j", f"{OUTPUT}job_id=j/")
        assert found.schema.names == ["id", "prediction"]
        assert all(batch.schema.equals(found.schema) for batch in found)
    assert ids(found) == ids(found)


def test_partitioned_results_have_the_column_of_their_folders(jobs: Gated) -> None:
    frame = pd.DataFrame({"id": range(40), "x": np.arange(40.0), "day": ["a", "b"] * 20})
    uri = jobs.at.client.put("in/days.parquet", frame)
    jobs.at.client.submit("line", uri, part_rows=10, partition_by="day", job_id="j", output=OUTPUT)
    plan_job(jobs.at.engine, "j")
    jobs.at.score("j", 0, 1, 2, 3)
    jobs.finalize("j")
    found = open_results(jobs.buckets, OUTPUT)
    assert ids(found) == [*range(0, 40, 2), *range(1, 40, 2)]
    days = [day for batch in found for day in batch.column("day").to_pylist()]
    assert days == ["a"] * 20 + ["b"] * 20
    assert found.schema.names == ["id", "prediction", "day"]


def test_the_latest_run_is_read_also_if_its_manifest_alone_lists_the_files(
    jobs: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "MAX_FILES", 3)
    jobs.run("j")
    assert json.loads(jobs.main.get(KEY).data)["files"] is None
    assert ids(open_results(jobs.buckets, OUTPUT)) == list(range(40))
    manifest = "out/job_id=j/_manifest.json"
    jobs.main.put(manifest, jobs.main.get(manifest).data.replace(b'"rows": 10', b'"rows": 11'))
    with pytest.raises(ResultsDamaged, match=r"_manifest\.json is not the manifest of its run"):
        open_results(jobs.buckets, OUTPUT)


def test_results_that_are_not_accepted_are_refused_with_what_to_do(jobs: Gated) -> None:
    with pytest.raises(InvalidRequest, match=r"no run of s3://scoreline/out/ is accepted: .scoreline results"):
        open_results(jobs.buckets, OUTPUT)
    jobs.run("j", BLOCKS)
    with pytest.raises(InvalidRequest, match=r"not accepted: .scoreline status j.*accept j --reason"):
        open_results(jobs.buckets, "j")
    jobs.score("k")
    with pytest.raises(InvalidRequest, match="is under way"):
        open_results(jobs.buckets, "k")
    jobs.client.cancel("k")
    with pytest.raises(InvalidRequest, match="job k cancelled, so its results are not complete"):
        open_results(jobs.buckets, "k")
    with pytest.raises(InvalidRequest, match="job k is no run of s3://scoreline/other/"):
        open_results(jobs.buckets, "s3://scoreline/other/job_id=k/")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".xlsx"])
def test_a_run_without_rows_is_not_taken_for_damaged_results(jobs: Gated, tmp_path: Path, suffix: str) -> None:
    found = made_of(jobs, pa.table({"x": pa.array([], pa.int64())}), parts=0)
    assert [batch.num_rows for batch in found] == []
    assert export(found, tmp_path / "a.jsonl") == 0
    with pytest.raises(InvalidRequest, match="job made has no rows with a result, and so no files"):
        export(found, tmp_path / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.jsonl"]


def damage(jobs: Gated, key: str) -> None:
    jobs.main.put(key, jobs.main.get(key).data[:-1] + b"?")


def cut(jobs: Gated, key: str) -> None:
    jobs.main.put(key, jobs.main.get(key).data[:-1])


def delete(jobs: Gated, key: str) -> None:
    jobs.main.delete(key)


@pytest.mark.parametrize(
    ("harm", "message"), [(damage, "its digest differs"), (cut, "its digest differs"), (delete, "was removed")]
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".xlsx"])
def test_a_damaged_file_is_an_error_and_leaves_the_target_as_it_was(
    jobs: Gated, tmp_path: Path, harm: Callable[[Gated, str], None], message: str, suffix: str
) -> None:
    jobs.run("j")
    target = tmp_path / "here" / f"scores{suffix}"
    target.parent.mkdir()
    target.write_text("before")
    harm(jobs, "out/job_id=j/part-00002.parquet")
    with pytest.raises(ResultsDamaged, match=rf"part-00002\.parquet.*{message}"):
        export(open_results(jobs.buckets, OUTPUT), target)
    assert target.read_text() == "before"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_pointer_to_files_elsewhere_is_refused(jobs: Gated) -> None:
    jobs.run("j")
    text = jobs.main.get(KEY).data
    jobs.main.put(KEY, text.replace(b'"uri": "s3://scoreline/out/job_id=j/', b'"uri": "s3://scoreline/models/'))
    with pytest.raises(ResultsDamaged, match="is not in the folder of its run"):
        list(open_results(jobs.buckets, OUTPUT))
    jobs.main.put(KEY, text.replace(b'"results": "s3://scoreline/out/', b'"results": "s3://scoreline/models/'))
    with pytest.raises(ResultsDamaged, match="which is not the folder of its run"):
        open_results(jobs.buckets, OUTPUT)


def made_of(jobs: Gated, table: pa.Table, parts: int = 1) -> Results:
    """Return results that consist of a table."""
    files = []
    for number in range(parts):
        rows = table.num_rows // parts
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(number * rows, rows), sink)
        data = sink.getvalue().to_pybytes()
        key = f"made/part-{number:05d}.parquet"
        jobs.main.put(key, data)
        files.append(ResultFile(uri=jobs.main.uri(key), rows=rows, bytes=len(data), sha256=sha256_hex(data)))
    return Results(
        job_id="made", uri="s3://scoreline/made/", rows=table.num_rows, _store=jobs.main, _files=lambda: iter(files)
    )


KINDS = pa.table(
    {
        "id": pa.array([1, 2**60, None], pa.int64()),
        "score": pa.array([0.5, float("nan"), float("inf")]),
        "-share": pa.array([-1.5, None, 2.0]),
        "text": pa.array(["=1+1", 'a,"b"\nc', ""]),
        "category": pa.array(["-x", "y", None]).dictionary_encode(),
        "flag": pa.array([True, None, False]),
        "day": pa.array([dt.date(2026, 11, 25), None, None]),
        "at": pa.array([dt.datetime(2026, 11, 25, 2, tzinfo=dt.UTC), None, None], pa.timestamp("us", "UTC")),
        "price": pa.array([decimal.Decimal("1.10"), None, None], pa.decimal128(5, 2)),
        "list": pa.array([[1, 2], None, []], pa.list_(pa.int64())),
        "nested": pa.array([{"a": "=2"}, None, None], pa.struct([("a", pa.string())])),
    }
)


def test_csv_has_every_kind_of_value(jobs: Gated, tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    assert export(made_of(jobs, KINDS), target) == 3
    frame = pd.read_csv(target, dtype=str, keep_default_na=False)
    assert list(frame.columns)[:4] == ["id", "score", "'-share", "text"]
    assert list(frame["id"]) == ["1", str(2**60), ""]
    assert list(frame["'-share"]) == ["-1.5", "", "2"]
    assert list(frame["text"]) == ["'=1+1", 'a,"b"\nc', ""]
    assert list(frame["category"]) == ["'-x", "y", ""]
    assert frame.iloc[0].tolist()[5:] == [
        "true",
        "2026-11-25",
        "2026-11-25 02:00:00.000000Z",
        "1.10",
        "[1, 2]",
        '{"a": "=2"}',
    ]


def test_csv_does_not_change_numbers_of_any_type(jobs: Gated, tmp_path: Path) -> None:
    table = pa.table(
        {
            "price": pa.array([decimal.Decimal("-12345678901234567890.10"), None], pa.decimal128(30, 2)),
            "coded": pa.array([-1, None]).dictionary_encode(),
        }
    )
    assert export(made_of(jobs, table), tmp_path / "a.csv") == 2
    assert (tmp_path / "a.csv").read_text() == '"price","coded"\n-12345678901234567890.10,-1\n,\n'


@pytest.mark.parametrize("text", RISKY)
def test_a_text_that_begins_like_a_formula_is_harmless_in_csv(jobs: Gated, tmp_path: Path, text: str) -> None:
    table = pa.table({text: pa.array([text, "x" + text, None]), "n": [-1, 2, 3]})
    export(made_of(jobs, table), tmp_path / "a.csv")
    found = pl.read_csv(tmp_path / "a.csv", infer_schema_length=0)
    assert found.columns == [f"'{text}", "n"]
    assert found[f"'{text}"].to_list() == [f"'{text}", f"x{text}", None]
    assert found["n"].to_list() == ["-1", "2", "3"]


def test_jsonl_and_parquet_keep_texts_as_they_are(jobs: Gated, tmp_path: Path) -> None:
    export(made_of(jobs, KINDS), tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[0]["text"] == "=1+1"
    assert rows[1]["score"] == "nan"
    assert rows[0]["nested"] == {"a": "=2"}
    assert rows[1]["id"] == 2**60
    export(made_of(jobs, KINDS), tmp_path / "a.parquet")
    alike = KINDS.drop_columns(["score"])  # NaN does not equal itself
    assert pq.read_table(tmp_path / "a.parquet").drop_columns(["score"]).equals(alike)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".xlsx"])
def test_times_that_python_does_not_have_are_exported(jobs: Gated, tmp_path: Path, suffix: str) -> None:
    seconds = pa.array([253_402_300_800, None, 0, -99_999_999_999])
    kinds = {"at": pa.timestamp("s"), "there": pa.timestamp("us", "UTC"), "on": pa.date32()}
    table = pa.table({name: seconds.cast(pa.timestamp("s")).cast(kind) for name, kind in kinds.items()})
    export(made_of(jobs, table), tmp_path / f"a{suffix}")
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        assert pq.read_table(path).cast(table.schema).equals(table)
        return
    cells = sheet_of(path) if suffix == ".xlsx" else []
    text = " ".join(cell for row in cells for _, cell, _ in row) or path.read_text()
    assert "10000-01-01 00:00:00" in text
    assert "-1199-" in text
    assert "1970-01-01" in text


def sheet_of(path: Path) -> Iterator[list[tuple[str, str, str]]]:
    """Yield the cells of each row of a workbook: type, text and style."""
    with zipfile.ZipFile(path) as file:
        assert not [name for name in file.namelist() if "vba" in name.lower()]
        root = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    assert root.find(f".//{space}f") is None, "a cell has a formula"
    for row in root.iter(f"{space}row"):
        yield [(cell.get("t", "n"), "".join(cell.itertext()), cell.get("s", "0")) for cell in row.iter(f"{space}c")]


def test_a_workbook_has_every_kind_of_value_and_no_formula(jobs: Gated, tmp_path: Path) -> None:
    export(made_of(jobs, KINDS), tmp_path / "a.xlsx")
    head, first, second, _ = list(sheet_of(tmp_path / "a.xlsx"))
    assert [text for _, text, _ in head] == KINDS.column_names
    assert first[0] == ("n", "1", "0")
    assert first[2] == ("n", "-1.5", "0")
    assert first[3] == ("inlineStr", "=1+1", "1")  # marked as a text, as an apostrophe in Excel does
    assert first[5] == ("b", "1", "0")
    assert first[9][1] == "[1, 2]"
    assert second[0] == ("inlineStr", str(2**60), "0")  # Excel would round the number
    assert ("inlineStr", "nan", "0") in second
    with zipfile.ZipFile(tmp_path / "a.xlsx") as file:
        assert b'quotePrefix="1"' in file.read("xl/styles.xml")


def test_a_workbook_that_cannot_hold_the_rows_is_refused_before_it_is_written(
    jobs: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_MAX_SHEET_ROWS", 3)
    with pytest.raises(
        InvalidRequest, match=r"has 3 rows, and a worksheet holds 2 below the names.*\.csv or \.parquet"
    ):
        export(made_of(jobs, KINDS), tmp_path / "a.xlsx")
    monkeypatch.undo()
    monkeypatch.setattr(exports, "_MAX_SHEET_COLUMNS", 2)
    with pytest.raises(InvalidRequest, match="has 11 columns, and a worksheet holds 2"):
        export(made_of(jobs, KINDS), tmp_path / "a.xlsx")
    monkeypatch.undo()
    long = pa.table({"text": ["a", "b" * 32_768]})
    with pytest.raises(InvalidRequest, match="row 2 of column 'text' has a text of 32,768 characters"):
        export(made_of(jobs, long), tmp_path / "a.xlsx")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", r"none of the suffixes \.csv, \.jsonl, \.parquet, \.xlsx"),
        ("none/a.csv", "is no folder: create it first"),
        ("folder.csv", "is a folder: name a file"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(jobs: Gated, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidRequest, match=message):
        export(made_of(jobs, KINDS), tmp_path / name)


def test_several_files_are_one_export(jobs: Gated, tmp_path: Path) -> None:
    table = pa.table({"id": np.arange(400_000), "score": np.linspace(0, 1, 400_000)})
    found = made_of(jobs, table, parts=4)
    for suffix in (".csv", ".parquet"):
        assert export(found, tmp_path / f"a{suffix}") == 400_000
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups <= 4
    assert pq.read_table(tmp_path / "a.parquet").equals(table)
    frame = pd.read_csv(tmp_path / "a.csv")
    assert frame["id"].equals(table["id"].to_pandas())


def local(jobs: Gated, uri: str) -> str:
    return str(jobs.at.client.folder / uri.removeprefix("s3://"))


def test_pandas_polars_and_duckdb_read_what_latest_names(jobs: Gated) -> None:
    """The three recipes of docs/how-to/results.md, with files in place of s3://."""
    jobs.run("a")
    jobs.run("b", BLOCKS)
    latest: dict[str, Any] = json.loads(jobs.main.get(KEY).data)
    files = [local(jobs, file["uri"]) for file in latest["files"]]
    by_pandas = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    by_polars = pl.read_parquet(files)
    by_duckdb = duckdb.read_parquet(files).df()
    assert list(by_pandas["id"]) == list(by_polars["id"]) == list(by_duckdb["id"]) == list(range(40))


def test_no_glob_of_results_matches_rejected_rows(jobs: Gated) -> None:
    jobs.run("j", broken=(3,), max_rejected="100%")
    folder = jobs.at.client.folder / "scoreline" / "out"
    rejected = [path.name for path in folder.glob("**/_rejected/*")]
    assert len(rejected) == 1
    assert rejected[0].startswith("rejected-00000")
    found = [path.parent.name for path in folder.glob("**/part-*.parquet")]
    assert found == ["job_id=j"] * 4
    assert pointer.Pointer.of(jobs.buckets, OUTPUT).load("j").files is not None
