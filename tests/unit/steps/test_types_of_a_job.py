"""The score of a row depends neither on the rows beside it nor on the format of its object."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin

from scoreline.storage.errors import MissingColumns
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import describe_outputs
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.spec import JobSpec
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.planner import draft
from tests.support.corpus import arrow

FEATURES = ("count", "amount", "town", "flag")
SCHEMA = pa.schema(
    {"id": pa.int64(), "count": pa.int64(), "amount": pa.float64(), "town": pa.string(), "flag": pa.bool_()}
)
FORMATS = ("parquet", "arrow", "csv", "jsonl")


class Reader(RegressorMixin, BaseEstimator):
    """A model that predicts the text of each row's features, so that every difference in type shows."""

    def fit(self, x: pd.DataFrame, y: Any = None) -> Reader:
        self.feature_names_in_, self.n_features_in_ = np.array(x.columns, dtype=object), x.shape[1]
        return self

    def predict(self, x: pd.DataFrame) -> Any:
        columns = [x[name].astype(object) for name in x.columns]
        return np.array(["|".join(map(str, row)) for row in zip(*columns, strict=True)], dtype=object)


class OneReader:
    """A source of models that has one `Reader`."""

    def __init__(self) -> None:
        model = Reader().fit(pd.DataFrame({name: [0.0] for name in FEATURES}))
        manifest: Any = SimpleNamespace(
            ref="m@1",
            feature_names=FEATURES,
            n_features=4,
            outputs={"model": describe_outputs(model, None)},
            attachments={},
        )
        self._bundle = Bundle(models={"model": model}, manifest=manifest, manifest_sha256="")

    def manifest(self, pinned: PinnedModel) -> Any:
        return self._bundle.manifest

    def get(self, pinned: PinnedModel) -> Bundle:
        return self._bundle


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    environ = {"ENVIRONMENT": "development", "R2_BUCKET": "data", "STORE_DIR": str(tmp_path)}
    return Engine(buckets=Buckets.from_env(environ), ledger=None, send=None, models=OneReader())  # type: ignore[arg-type]


def encoded(rows: Sequence[Mapping[str, Any]], kind: str, group: int) -> bytes:
    table = pa.Table.from_pylist(list(rows), SCHEMA)
    match kind:
        case "parquet":
            sink = io.BytesIO()
            pq.write_table(table, sink, row_group_size=group, write_statistics=group % 2 == 0)
            return sink.getvalue()
        case "arrow":
            return arrow(pa.Table.from_batches(table.to_batches(max_chunksize=group), SCHEMA))
        case "csv":
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(SCHEMA.names)
            writer.writerows([["" if row[name] is None else row[name] for name in SCHEMA.names] for row in rows])
            return text.getvalue().encode()
        case _:
            return "".join(
                json.dumps({name: value for name, value in row.items() if value is not None}) + "\n" for row in rows
            ).encode()


def scores(engine: Engine, objects: Mapping[str, bytes], part_rows: int, batch_rows: int) -> dict[int, Any]:
    """Score the objects as a job does. Return the prediction for each id; None for a rejected row."""
    for info in list(engine.buckets.main.list("in/")):
        engine.buckets.main.delete(info.key)
    for name, data in objects.items():
        engine.buckets.main.put(f"in/{name}", data)
    spec = JobSpec(
        job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", part_rows=part_rows, keep="id"
    )
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = draft(engine, job)
    found: dict[int, Any] = {}
    for part in made.parts:
        for piece in part.slices:
            for rows in engine.read_slice(piece, made.columns, spec.read, batch_rows):
                assert not rows.malformed
                done = score_batch(
                    engine.models.get(job.model), rows.batch, features=FEATURES, keep=("id",), method=None
                )
                assert not done.rejected
                found |= {row["id"]: row["prediction"] for row in done.table.to_pylist()}
    return found


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "count": st.none() | st.integers(-99, 99),
            "amount": st.none() | st.sampled_from([0.5, -2.25, 1.0, 3e-5]),
            "town": st.none() | st.sampled_from(["Rome", "Oslo", "Bern"]),
            "flag": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=settings().max_examples // 4)
@given(rows=ROWS, dense=st.booleans(), cuts=st.data())
def test_a_row_has_one_score_in_any_order_cut_and_format(
    engine: Engine, rows: list[dict[str, Any]], dense: bool, cuts: st.DataObject
) -> None:
    # Given rows with a value in each column, so that types can be inferred; if `dense`, no integer is missing
    rows = [{"count": 7, "amount": 0.5, "town": "Rome", "flag": True}, *rows]
    if dense:
        rows = [row | {"count": row["count"] or 0, "flag": bool(row["flag"])} for row in rows]
    rows = [{"id": number} | row for number, row in enumerate(rows)]
    whole = scores(engine, {"a.parquet": encoded(rows, "parquet", 1_000)}, 1_000, 1_000)
    # When the rows are shuffled, divided into two objects, into parts and batches, and written in any format
    shuffled = cuts.draw(st.permutations(rows))
    at, kind = cuts.draw(st.integers(0, len(rows) - 1)), cuts.draw(st.sampled_from(FORMATS))
    group, part_rows, batch_rows = (cuts.draw(st.integers(1, 9)) for _ in range(3))
    pieces = {f"a.{kind}": shuffled[:at], f"b.{kind}": shuffled[at:]}
    written = {name: encoded(piece, kind, group) for name, piece in pieces.items() if piece}
    # Then each row has the same score
    assert scores(engine, written, part_rows, batch_rows) == whole
    # And the score is the one that the model gives in a notebook
    if dense:
        assert whole == {
            row["id"]: f"{row['count']}|{np.nan if row['amount'] is None else row['amount']}"
            f"|{np.nan if row['town'] is None else row['town']}|{row['flag']}"
            for row in rows
        }


def test_a_missing_integer_in_one_object_makes_all_of_the_job_floats_as_in_pandas(engine: Engine) -> None:
    rows = [{"id": n, "count": 5, "amount": 1.5, "town": "Rome", "flag": True} for n in range(4)]
    rows[3]["count"] = None
    for kind in FORMATS:
        objects = {f"{n}.{kind}": encoded(rows[2 * n : 2 * n + 2], kind, 2) for n in range(2)}
        found = scores(engine, objects, 1, 1)
        assert found == {0: "5.0|1.5|Rome|True", 1: "5.0|1.5|Rome|True", 2: "5.0|1.5|Rome|True", 3: "nan|1.5|Rome|True"}


def test_the_plan_says_in_which_type_each_feature_is_scored(engine: Engine) -> None:
    rows = [{"id": n, "count": 5, "amount": 1.5, "town": "Rome", "flag": None if n else True} for n in range(4)]
    engine.buckets.main.put("in/a.csv", encoded(rows, "csv", 1))
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/")
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    assert draft(engine, job).columns.types == {
        "count": "int64",
        "amount": "float64",
        "town": "string",
        "flag": "float64 (bool with missing values)",
    }


def test_keys_of_json_lines_may_be_missing_from_a_whole_object(engine: Engine) -> None:
    lines = {
        "a.jsonl": b'{"id": 0, "count": 5, "amount": 1.5}\n',
        "b.jsonl": b'{"id": 1, "town": "Rome", "flag": true}\n',
    }
    assert scores(engine, lines, 9, 9) == {0: "5.0|1.5|nan|nan", 1: "nan|nan|Rome|1.0"}
    with pytest.raises(MissingColumns, match=r"no line of the input has the keys 'town', 'flag'"):
        scores(engine, {"a.jsonl": lines["a.jsonl"]}, 9, 9)


def test_a_warning_names_columns_that_only_later_objects_have(engine: Engine) -> None:
    rows = [{"id": n, "count": 5, "amount": 1.5, "town": "Rome", "flag": True} for n in range(2)]
    engine.buckets.main.put("in/a.csv", encoded(rows, "csv", 1))
    engine.buckets.main.put("in/b.csv", b"id,count,amount,town,flag,more\n1,5,1.5,Rome,True,6\n")
    spec = JobSpec(job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/")
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    assert draft(engine, job).warnings == (
        "s3://data/in/b.csv has 'more', which s3://data/in/a.csv does not have: not copied to the results",
    )


class Nameless(RegressorMixin, BaseEstimator):
    """A model that uses column names without declaring them."""

    def fit(self, x: pd.DataFrame, y: Any = None) -> Nameless:
        return self

    def predict(self, x: pd.DataFrame) -> Any:
        return (x["a"] / x["b"]).to_numpy()


def test_a_model_that_says_nothing_and_fails_on_an_array_gets_frames(engine: Engine) -> None:
    model = Nameless()
    manifest: Any = SimpleNamespace(
        ref="m@1",
        feature_names=None,
        n_features=None,
        outputs={"model": describe_outputs(model, None)},
        attachments={},
    )
    engine.models = SimpleNamespace(
        get=lambda _: Bundle(models={"model": model}, manifest=manifest, manifest_sha256=""),
        manifest=lambda _: manifest,
    )
    engine.buckets.main.put("in/a.csv", b"a,b\n1,2\n3,4\n")
    spec = JobSpec(
        job_id="j", model="m", inputs=("s3://data/in/",), output="s3://data/out/", features=("a", "b"), keep="none"
    )
    job = Job(spec=spec, model=PinnedModel(name="m", version="1", manifest_sha256=""), submitted="2026-11-25")
    made = draft(engine, job)
    assert made.columns.frames
    assert made.scored is not None
    assert made.scored.table["prediction"].to_pylist() == [0.5, 0.75]


def test_an_object_without_rows_changes_no_type(engine: Engine) -> None:
    rows = [{"id": n, "count": 5, "amount": 1.5, "town": "Rome", "flag": True} for n in range(2)]
    objects = {"a.csv": encoded(rows, "csv", 1), "b.csv": b"id,count,amount,town,flag\n"}
    assert scores(engine, objects, 9, 9) == {0: "5|1.5|Rome|True", 1: "5|1.5|Rome|True"}
