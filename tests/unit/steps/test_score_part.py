"""Tests that plan and score parts of several objects, or of a few rows of one object."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from lightgbm import LGBMRegressor
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    MissingColumns,
    RejectBudgetExceeded,
    ScoringError,
)
from scoreline.storage.ledger.memory_ledger import MemoryLedger
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import exists
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables import parquet
from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.storage.tables.schemas import to_text
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import Job, Outcome, read_success
from scoreline.tasks.job.part_sizes import SLOW_ROWS_PER_S
from scoreline.tasks.job.plan import BATCH_ROWS, Part, Slice
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.records.staging import write_answer
from scoreline.tasks.scoring.batch_rejects import MAX_MESSAGE
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps import planner, sampling
from scoreline.tasks.steps.arrange import arrange
from scoreline.tasks.steps.commit_part import commit_part
from scoreline.tasks.steps.engine import Engine, pick_rows
from scoreline.tasks.steps.score_rows import PartStopped, score_rows
from tests.support.one_model import LINE, Models
from tests.support.waiting import HANG_S

FAST = planner.Pace(rows_per_s=1e6, processes=1)
"""A known pace. Without it, the size of parts would follow the time of a sample, which varies on a busy machine."""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    buckets = Buckets.from_env(environ)
    return Engine(buckets=buckets, ledger=MemoryLedger(), send=lambda name, **_: None, models=Models())


def put(engine: Engine, key: str, **columns: Any) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    engine.buckets.main.put(key, sink.getvalue())


def job(**options: Any) -> Job:
    spec = JobSpec(**{"job_id": "j", "model": "m", "inputs": ("s3://data/in/",), "output": "s3://data/out/"} | options)
    return Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, None], ["n/a", "none"]),
        ([1.0, None], pd.Categorical(["n/a", "none"])),
        (["1", "n/a"], pa.array(["1", "n/a"]).dictionary_encode()),
        ([None, 1.0], [True, None]),
    ],
)
def test_rejects_of_objects_whose_types_differ_go_into_one_table(engine: Engine, first: Any, second: Any) -> None:
    put(engine, "in/a.parquet", id=[1, 2], x=first)
    put(engine, "in/b.parquet", id=[3, 4], x=second)
    made = planner.draft(engine, job(), FAST)
    (part,) = made.parts
    plan: Any = SimpleNamespace(columns=made.columns)
    scored, rejected = score_rows(engine, Documents(job=job(), plan=plan), part, 100, Timings())
    assert scored.num_rows + rejected.num_rows == 4
    assert sorted([*scored["id"].to_pylist(), *rejected["id"].to_pylist()]) == [1, 2, 3, 4]


LIGHT = LGBMRegressor(n_estimators=2, verbose=-1).fit(
    pd.DataFrame({"store number": [*range(40)], "paid amount": [*range(40, 0, -1)]}, dtype=float), np.arange(40.0)
)


def test_columns_with_blanks_are_those_that_lightgbm_keeps_with_underscores(engine: Engine) -> None:
    names = [str(name) for name in LIGHT.feature_names_in_]
    assert names == ["store_number", "paid_amount"]
    engine.models = Models(LIGHT, names)
    # Given an input whose columns have blanks in their names, and are in a different order than the features
    columns = {"paid amount": [1.0, 30.0], "id": [1, 2], "store number": [39.0, 2.0]}
    put(engine, "in/a.parquet", **columns)
    made = planner.draft(engine, job(), FAST)
    # Then these columns are passed in the model's order, and are not kept in the results
    assert made.columns.features == ("store number", "paid amount")
    assert made.columns.keep == ("id",)
    plan: Any = SimpleNamespace(columns=made.columns)
    scored, _ = score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
    expected = np.asarray(LIGHT.predict(pd.DataFrame(columns)[["store number", "paid amount"]]))
    assert scored["prediction"].to_pylist() == expected.tolist()
    # And an error is raised if two columns match the name of one feature
    put(engine, "in/a.parquet", **columns, store_number=[1.0, 2.0])
    with pytest.raises(MissingColumns, match=r"'store_number', .* input has 'store number' and 'store_number': name"):
        planner.draft(engine, job(), FAST)
    chosen = planner.draft(engine, job(features=("store_number", "paid amount")), FAST)
    assert chosen.columns.features == ("store_number", "paid amount")


def test_columns_with_blanks_are_missing_for_any_other_model(engine: Engine) -> None:
    engine.models = Models(LINE, ["store_number"])
    put(engine, "in/a.parquet", **{"store number": [1.0]})
    with pytest.raises(MissingColumns, match="lacks 'store_number'"):
        planner.draft(engine, job(), FAST)


class Line(LinearRegression):
    """A model that calls a function before each prediction."""

    def __init__(self, before: Callable[[], object]) -> None:
        self.before = before

    def predict(self, x: Any) -> Any:
        self.before()
        return LINE.predict(x)


def test_a_batch_is_scored_while_the_next_one_is_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    put(engine, "in/a.parquet", id=[1], x=[1.0])
    put(engine, "in/b.parquet", id=[2], x=[2.0])
    engine.batch_bytes = 1  # makes each row a batch
    made = planner.draft(engine, job(), FAST)
    (part,) = made.parts
    # Given an estimator that waits until the second batch is requested
    second, read_slice = threading.Event(), engine.read_slice
    in_time: list[bool] = []

    def noted(piece: Slice, *rest: Any) -> Iterator[Rows]:
        if piece.key == "in/b.parquet":
            second.set()
        return read_slice(piece, *rest)

    monkeypatch.setattr(engine, "read_slice", noted)
    engine.models = Models(Line(lambda: in_time.append(second.wait(HANG_S))))
    # Then the second batch is requested in time, and the results are in the order of the input
    plan: Any = SimpleNamespace(columns=made.columns)
    scored, _ = score_rows(engine, Documents(job=job(), plan=plan), part, 100, Timings())
    assert in_time == [True, True]
    assert scored["id"].to_pylist() == [1, 2]


def test_a_part_of_a_stopped_job_ends_before_the_next_batch(engine: Engine) -> None:
    for name in "abc":
        put(engine, f"in/{name}.parquet", x=[1.0])
    engine.batch_bytes = 1  # makes each row a batch
    made = planner.draft(engine, job(), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    engine.ledger.begin("j", "p", 1, budget=0)
    calls: list[str] = []

    def close() -> None:
        calls.append("predict")
        engine.ledger.close("j")

    engine.models = Models(Line(close))
    with pytest.raises(PartStopped):
        score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
    assert calls == ["predict"]


@pytest.mark.parametrize("more", [-1, 1])
def test_a_part_of_more_or_fewer_rows_than_were_planned_is_not_written(engine: Engine, more: int) -> None:
    put(engine, "in/a.parquet", id=[1, 2, 3], x=[1.0, None, 3.0])
    made = planner.draft(engine, job(), FAST)
    ((piece,),) = (part.slices for part in made.parts)
    planned = Part(slices=(replace(piece, rows=3 + more),))
    plan: Any = SimpleNamespace(columns=made.columns, sha256="p", rows=0, parts=1, part=lambda _: planned)
    with pytest.raises(ScoringError, match=f"planned with {3 + more} rows, but 2 were scored and 1 rejected"):
        commit_part(engine, Documents(job=job(), plan=plan), 0, 100)
    assert list(engine.buckets.main.list("out/")) == []


def test_a_plan_for_rejected_rows_finds_them_wherever_they_are(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a part of two batches, and a rejected row in the second batch
    rows = BATCH_ROWS + 10
    put(engine, "in/a.parquet", id=np.arange(rows), x=np.ones(rows))
    (whole,) = planner.draft(engine, job(), FAST).parts
    again = Part(slices=(replace(whole.slices[0], only=(rows - 1,)),))
    monkeypatch.setattr(planner, "parts_to_rescore", lambda *_: (again,))
    # When the job is planned
    made = planner.draft(engine, job(rejected_of="before"), FAST)
    # Then the planner samples that row
    assert (made.tried, made.rejected) == (1, 0)


def test_many_broken_rows_are_picked_in_one_pass() -> None:
    malformed = tuple(MalformedRow(row=row, column=None, message="", raw=None) for row in range(60_000))
    rows = Rows(
        batch=pa.record_batch({"x": pa.array([], pa.int64())}), numbers=np.array([], np.int64), malformed=malformed
    )
    # When half of the malformed rows are picked (with a pass for each row, this would take minutes)
    found = pick_rows(rows, np.arange(0, 60_000, 2))
    assert [item.row for item in found.malformed] == list(range(0, 60_000, 2))


@pytest.mark.parametrize("wanted", [range(12, 17), range(10), range(19, 99), range(13, 14), range(14, 14)])
def test_a_range_of_rows_is_picked_as_its_numbers_are(wanted: range) -> None:
    # Given rows 10 to 19, of which 12 and 15 are malformed
    numbers = np.array([10, 11, 13, 14, 16, 17, 18, 19])
    malformed = tuple(MalformedRow(row=row, column=None, message="", raw=None) for row in (12, 15))
    rows = Rows(batch=pa.record_batch({"x": pa.array(numbers)}), numbers=numbers, malformed=malformed)
    found, expected = (pick_rows(rows, picked) for picked in (wanted, np.array(wanted, np.int64)))
    assert found.batch.equals(expected.batch)
    assert found.numbers.tolist() == expected.numbers.tolist() == found.batch["x"].to_pylist()
    assert found.malformed == expected.malformed


@pytest.mark.parametrize("what", [b"PAR1 and nothing else PAR1", b""])
def test_a_complete_job_of_records_ends_even_if_its_results_cannot_be_read(engine: Engine, what: bytes) -> None:
    # Given a result that was replaced by someone with write access to the bucket
    records = job(inputs=(f"s3://data/{keys.records_table('j', 'f' * 64)}",))
    engine.buckets.main.put(keys.result_part(keys.output_folder("out/", "j"), 0), what)
    plan: Any = SimpleNamespace(parts=1)
    # Then no answer is written, and no error is raised
    write_answer(engine.buckets, Documents(job=records, plan=plan), Outcome(state="succeeded", rows=1, failures={}))
    assert not exists(engine.buckets.main, keys.answer("j"))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_an_arrow_text_that_is_not_utf8_rejects_its_row_only_if_the_column_is_read(
    engine: Engine, kind: pa.DataType, new: Any
) -> None:
    texts = pa.array([b"\xff", b"a"]).view(pa.string())
    if pa.types.is_dictionary(kind):
        texts = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), texts)
    elif kind == pa.large_string():
        texts = pa.array([b"\xff", b"a"], pa.large_binary()).view(kind)
    table = pa.table({"x": [1.0, 2.0], "note": texts})
    sink = io.BytesIO()
    with new(sink, table.schema) as out:
        out.write_table(table)
    engine.buckets.main.put("in/a.arrow", sink.getvalue())
    for keep, expected in (("all", (1, 1)), ("none", (2, 0))):
        made = planner.draft(engine, job(keep=keep), FAST)
        plan: Any = SimpleNamespace(columns=made.columns)
        scored, rejected = score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
        assert (scored.num_rows, rejected.num_rows) == expected


def test_arrow_objects_with_different_categories_share_a_part(engine: Engine) -> None:
    # Given two objects of pandas with different categories and codes of 8 bits
    texts = [[f"{letter}{number}" for number in range(100)] for letter in "ab"]
    for number, names in enumerate(texts):
        sink = io.BytesIO()
        x = [np.nan, *range(99)]
        pd.DataFrame({"x": x, "name": pd.Categorical(names)}).to_feather(sink)
        engine.buckets.main.put(f"in/{number}.feather", sink.getvalue())
    # When both objects are scored in one part
    made = planner.draft(engine, job(), FAST)
    (part,) = made.parts
    plan: Any = SimpleNamespace(columns=made.columns)
    for table, expected in zip(
        score_rows(engine, Documents(job=job(), plan=plan), part, 100, Timings()),
        ([*texts[0][1:], *texts[1][1:]], [texts[0][0], texts[1][0]]),
        strict=True,
    ):
        # Then results and rejected rows have the categories of both objects
        written = pq.read_table(io.BytesIO(parquet.write(table, {})))
        assert written["name"].to_pylist() == expected


@pytest.mark.parametrize("suffix", ["arrow", "arrows"])
def test_text_and_categories_that_polars_wrote_as_views_come_back_as_they_were(engine: Engine, suffix: str) -> None:
    # Given two objects whose kept columns contain Arrow views, and whose second row is rejected
    columns: dict[str, Any] = {
        "text": ["a", "b", None],
        "bytes": [b"a", None, b"c"],
        "category": pl.Series(["u", "v", None], dtype=pl.Categorical),
        "enum": pl.Series(["u", None, "v"], dtype=pl.Enum(["u", "v", "w"])),
        "list": [["a", None], ["b"], None],
        "categories": pl.Series([["u"], None, ["v", "u"]], dtype=pl.List(pl.Categorical)),
        "struct": [{"a": "x"}, {"a": None}, None],
    }
    frame = pl.DataFrame({"x": [1.0, None, 3.0]} | columns)
    for name in "ab":
        sink = io.BytesIO()
        (frame.write_ipc if suffix == "arrow" else frame.write_ipc_stream)(sink)
        engine.buckets.main.put(f"in/{name}.{suffix}", sink.getvalue())
    # When both objects are scored in one part, and the results are written
    made = planner.draft(engine, job(keep=",".join(columns)), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    tables = score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
    scored, rejected = (pq.read_table(io.BytesIO(parquet.write(table, {}))) for table in tables)
    # Then every value is unchanged
    rows = frame.select(columns.keys()).to_dicts()
    assert scored.select(columns.keys()).to_pylist() == [rows[0], rows[2]] * 2
    assert rejected.select(columns.keys()).to_pylist() == [rows[1]] * 2


def test_a_view_that_is_not_utf8_rejects_its_row_only(engine: Engine) -> None:
    # Given an object with a column of Arrow string views, whose second text is not UTF-8
    texts = pa.array([b"good", b"b\xffd", b"a longer text that is not within the view"], pa.binary_view())
    table, sink = pa.table({"x": [1.0, 2.0, 3.0], "s": texts.view(pa.string_view())}), io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    engine.buckets.main.put("in/a.arrow", sink.getvalue())
    made = planner.draft(engine, job(keep="s"), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    scored, rejected = score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
    assert scored["s"].to_pylist() == ["good", "a longer text that is not within the view"]
    assert rejected["column"].to_pylist() == ["s"]


def test_a_value_too_long_for_a_folder_fails_the_job_and_says_where_the_results_are(engine: Engine) -> None:
    table = pa.table({"name": ["a" * 1_100, "b"], "prediction": [1.0, 2.0]})
    parted = job(partition_by="name")
    key = keys.result_part(keys.parts_folder(keys.output_folder("out/", "j")), 0)
    receipt = {"sha256": "", "rows": "2", "rejected": "0"}
    written = engine.buckets.main.put(key, parquet.write(table, {}), metadata=receipt)
    plan: Any = SimpleNamespace(sha256="p", columns=SimpleNamespace(schema=to_text(table.schema)))
    with pytest.raises(ScoringError, match=r"'name' has a value too long .*as s3://data/out/job_id=j/_parts/part-\*"):
        arrange(engine, Documents(job=parted, plan=plan), [written])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow"])
def test_a_job_that_reads_only_partition_columns_scores_every_row(engine: Engine, name: str) -> None:
    table, sink = pa.table({"id": [1, 2, 3]}), io.BytesIO()
    match name.partition(".")[2]:
        case "csv":
            sink.write(b"id\n1\n2\n3\n")
        case "jsonl":
            sink.write(b'{"id":1}\n{"id":2}\n[]\n{"id":3}\n')
        case "parquet":
            pq.write_table(table, sink)
        case _:
            with pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
    engine.buckets.main.put(f"in/x=1/{name}", sink.getvalue())
    made = planner.draft(engine, job(keep="none"), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    scored, rejected = score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
    assert (scored.num_rows, rejected.num_rows) == (3, int(name == "a.jsonl"))


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b"[]", False),
        (b'{"plan":"other"}', False),
        (b'{"plan":"p"}', True),
        (b'{"plan":"p","rows":"1","rejected":0,"parts":1}', True),
    ],
)
def test_a_foreign_success_marker_is_ignored_or_reported_as_corrupt(engine: Engine, body: bytes, refused: bool) -> None:
    engine.buckets.main.put("out/_SUCCESS", body)
    with pytest.raises(DocumentCorrupt) if refused else contextlib.nullcontext():
        assert read_success(engine.buckets.main, "out/", "p") is None


def test_a_reason_does_not_quote_the_whole_of_a_long_text(engine: Engine) -> None:
    put(engine, "in/a.parquet", x=["1", "a" * 1_000_000])
    made = planner.draft(engine, job(), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    _, rejected = score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 100, Timings())
    (message,) = rejected["message"].to_pylist()
    assert 100 < len(message) <= MAX_MESSAGE


def test_a_budget_with_more_digits_than_python_reads_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="--max-rejected"):
        job(max_rejected="9" * 5_000).spec.check()


def test_the_size_of_parts_follows_the_speed_of_the_model(engine: Engine) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": np.arange(9_000), "x": np.ones(9_000)}), sink, row_group_size=500)
    engine.buckets.main.put("in/a.parquet", sink.getvalue())

    def rows(made: sampling.Draft) -> list[int]:
        return [part.rows for part in made.parts]

    slow = planner.Pace(rows_per_s=100.0, processes=1)
    assert rows(planner.draft(engine, job(), FAST)) == [9_000]
    assert rows(planner.draft(engine, job(), slow)) == 18 * [500]
    assert rows(planner.draft(engine, job(part_rows=4_500), slow)) == [4_500, 4_500]


class Plods(LinearRegression):
    """A model that is slow on the rows that the planner samples."""

    def predict(self, x: Any) -> Any:
        time.sleep(len(x) / 640 if len(x) <= sampling.TRIAL_S * 640 else 0)
        return super().predict(x)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow"])
def test_a_part_is_cut_inside_a_row_group_when_the_model_is_slow(engine: Engine, suffix: str) -> None:
    # Given a single row group or block, and a model whose pace is unknown
    engine.models = Models(Plods().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]))
    count, sink = 60_000, io.BytesIO()
    table = pa.table({"id": np.arange(count), "x": np.arange(count, dtype=float)})
    if suffix == "parquet":
        pq.write_table(table, sink)
    elif suffix == "csv":
        pa.csv.write_csv(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
    engine.buckets.main.put(f"in/a.{suffix}", sink.getvalue())
    # When the model is slow on all sampled rows
    made = planner.draft(engine, job())
    # Then the parts are small, and each part has different rows
    assert len(made.parts) > 5
    assert max(part.rows for part in made.parts) < 20 * 640
    assert sum(part.rows for part in made.parts) == count
    plan: Any = SimpleNamespace(columns=made.columns)
    for part in (made.parts[0], made.parts[len(made.parts) // 2], made.parts[-1]):
        (piece,) = part.slices
        scored, rejected = score_rows(engine, Documents(job=job(), plan=plan), part, 100, Timings())
        first, length = piece.scope
        assert (scored["id"].to_pylist(), rejected.num_rows) == (list(range(first, first + length)), 0)
        assert scored["prediction"].to_pylist() == pytest.approx(2 * scored["id"].to_numpy() + 1.0)
    # And parts are larger if the job sets `part_rows`
    sizes = [part.rows for part in planner.draft(engine, job(part_rows=25_000)).parts]
    assert sizes == ([20_000] * 3 if suffix != "csv" else sizes)


class Ticking(LinearRegression):
    """A model that takes a tenth of a second for each call, measured by a simulated clock."""

    seconds = 0.0
    call_s = 0.1

    def predict(self, x: Any) -> Any:
        Ticking.seconds += Ticking.call_s
        return super().predict(x)


def test_a_model_is_not_slow_if_its_calls_take_long_however_few_rows_they_have(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "time", SimpleNamespace(perf_counter=lambda: Ticking.seconds))
    engine.models = Models(Ticking().fit(pd.DataFrame({"x": [0.0, 1.0]}), [1.0, 3.0]))
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": np.arange(60_000), "x": np.arange(60_000.0)}), sink)
    engine.buckets.main.put("in/a.parquet", sink.getvalue())
    # Given a model that looks slow on the sample
    assert sampling.SAMPLE_ROWS / Ticking.call_s < SLOW_ROWS_PER_S
    # Then its pace is measured on more rows
    made = planner.draft(engine, job())
    assert made.rows_per_s is not None
    assert made.rows_per_s > SLOW_ROWS_PER_S
    assert len(made.parts) == 1


def test_reading_a_few_rows_decodes_nothing_after_the_last_of_them(engine: Engine) -> None:
    put(engine, "in/a.parquet", id=np.arange(100), x=np.ones(100))
    made = planner.draft(engine, job(), FAST)
    (piece,) = made.parts[0].slices
    found = [
        rows.numbers.tolist()
        for rows in engine.read_slice(replace(piece, only=range(5, 11)), made.columns, job().spec.read, 10)
    ]
    assert found == [[5, 6, 7, 8, 9], [10]]


def test_a_broken_row_at_the_start_of_a_batch_belongs_to_the_part_with_its_number(engine: Engine) -> None:
    engine.buckets.main.put("in/a.jsonl", b'z"id": 0}\n{"id": 1, "x": 1.0}\n{"id": 2, "x": 2.0}\n')
    made = planner.draft(engine, job(part_rows=1), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    found = [score_rows(engine, Documents(job=job(), plan=plan), part, 100, Timings()) for part in made.parts]
    assert [(scored.num_rows, rejected.num_rows) for scored, rejected in found] == [(0, 1), (1, 0), (1, 0)]


@pytest.mark.parametrize("x", [[None] * 1_500, ["n/a"] * 1_500, [-1.0] * 1_500], ids=["null", "text", "refused"])
def test_a_part_over_the_limit_says_how_many_rows_the_job_still_allowed(engine: Engine, x: list[Any]) -> None:
    put(engine, "in/a.parquet", id=range(2_500), x=[1.0] * 1_000 + x if x[0] != "n/a" else ["1"] * 1_000 + x)
    made = planner.draft(engine, job(), FAST)
    plan: Any = SimpleNamespace(columns=made.columns)
    engine.models = Models(Positive())
    with pytest.raises(RejectBudgetExceeded, match=r"more than 1000 rows .* left room for only 25: correct the input"):
        score_rows(engine, Documents(job=job(), plan=plan), made.parts[0], 25, Timings())


class Positive(LinearRegression):
    """Refuses negative numbers."""

    def predict(self, x: Any) -> Any:
        if (x.to_numpy() < 0).any():
            raise ValueError("negative")
        return LINE.predict(x)


def test_a_footer_names_the_time_of_the_submission_as_such(engine: Engine) -> None:
    put(engine, "in/a.parquet", id=[1], x=[1.0])
    made = planner.draft(engine, job(), FAST)
    plan: Any = SimpleNamespace(columns=made.columns, sha256="p", rows=0, parts=1, part=lambda _: made.parts[0])
    commit_part(engine, Documents(job=job(), plan=plan), 0, 100)
    data = engine.buckets.main.get("out/job_id=j/part-00000.parquet").data
    footer = pq.read_schema(io.BytesIO(data)).metadata
    assert footer[b"scoreline.submitted_at"] == job().submitted.encode()
    assert b"scoreline.scored_at" not in footer
