"""If reading the first rows would take long, a job is planned with rows that are made up, to the same results."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.steps import made_up, planner
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.preflight import preflight
from scoreline.tasks.steps.sampling import Draft, try_rows
from scoreline.testing import EagerClient, eager
from tests.support.estimators import Paced

ROWS = 300
RANDOM = np.random.default_rng(1)
FRAME = pd.DataFrame({"a": RANDOM.normal(size=ROWS), "b": RANDOM.integers(0, 9, ROWS), "id": np.arange(ROWS)})
FITTED = FRAME[["a", "b"]]
LINE = LinearRegression().fit(FITTED, FITTED.a + FITTED.b)
CLASSES = make_pipeline(StandardScaler(), LogisticRegression()).fit(FITTED, np.where(FITTED.a > 0, "high", "low"))


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EagerClient]:
    monkeypatch.setattr(made_up, "LEAST_BYTES", 1)
    with eager(tmp_path) as found:
        yield found


def put(client: EagerClient, frame: Any, name: str = "a", **options: Any) -> str:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, **options)
    client.buckets.main.put(f"in/{name}.parquet", sink.getvalue())
    return f"s3://{client.buckets.main.bucket}/in/"


def results(client: EagerClient, job_id: str) -> pa.Table:
    folder = parse_uri(client.status(job_id).output)[1]
    store = client.buckets.main
    found = [info.key for info in store.list(f"{folder}part-")]
    return pa.concat_tables(pq.read_table(io.BytesIO(store.get(key).data)) for key in found)


def are_rows_tried(client: EagerClient, job_id: str) -> bool:
    return PlanFile(client.buckets.main, job_id).columns.are_rows_tried


@pytest.mark.parametrize(("model", "method"), [(LINE, None), (CLASSES, "predict"), (CLASSES, "predict_proba")])
@pytest.mark.parametrize("keep", ["id", "all", "none"])
def test_the_results_are_those_of_a_job_that_was_planned_with_rows_of_the_input(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, model: Any, method: str | None, keep: str
) -> None:
    client.models.publish("m", model)
    path = put(client, FRAME)
    job = client.submit("m", path, method=method, keep=keep).job_id
    monkeypatch.setattr(made_up, "LEAST_BYTES", 1 << 30)
    other = client.submit("m", path, method=method, keep=keep).job_id
    assert (are_rows_tried(client, job), are_rows_tried(client, other)) == (False, True)
    assert results(client, job).equals(results(client, other))
    assert results(client, job).schema.equals(results(client, other).schema)


def test_planning_reads_only_the_columns_that_are_copied(client: EagerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.models.publish("m", LINE)
    path = put(client, FRAME)
    read: list[list[str]] = []
    begin = Engine.read_slice

    def note(engine: Any, piece: Any, columns: Any, *rest: Any) -> Any:
        read.append(list(columns.names))
        return begin(engine, piece, columns, *rest)

    monkeypatch.setattr(Engine, "read_slice", note)
    client.submit("m", path, keep="id")
    assert read == [["id"], ["a", "b", "id"]]  # planning, and then the part


@pytest.mark.parametrize("good", [0, 1])
def test_the_job_ends_as_if_rows_had_been_tried_if_the_first_ones_cannot_be_scored(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    # Given two parts, the first of which has a missing value in every row, although both columns have a range
    row = np.arange(ROWS)
    broken = FRAME.assign(a=np.where(row % 2, FRAME.a, np.nan), b=np.where(row % 2, np.nan, FRAME.b))
    client.models.publish("m", LINE)
    put(client, broken)
    path = put(client, FRAME.assign(b=FRAME.b.astype(float)) if good else broken, "b")
    options: dict[str, Any] = {"max_rejected": "100%", "part_rows": ROWS}
    found = client.status(client.submit("m", path, **options).job_id)
    monkeypatch.setattr(made_up, "LEAST_BYTES", 1 << 30)
    other = client.status(client.submit("m", path, **options).job_id)
    assert not are_rows_tried(client, found.job_id)
    assert (found.state, found.error, found.reason) == (other.state, other.error, other.reason)
    assert (found.rows, found.rejected) == (other.rows, other.rejected) == ((ROWS, ROWS) if good else (0, 0))
    assert good or "none of 472 rows tried, from all parts of the input, can be scored" in found.error


def test_rows_over_the_limit_fail_the_job_as_if_rows_had_been_tried(client: EagerClient) -> None:
    client.models.publish("m", LINE)
    frame = pd.concat([FRAME] * 20)
    row = np.arange(len(frame))
    path = put(client, frame.assign(a=np.where(row % 2, frame.a, np.nan), b=np.where(row % 2, np.nan, frame.b)))
    found = client.status(client.submit("m", path).job_id)
    assert found.state == "failed"
    assert "rows tried, from all parts of the input, can be scored" in found.error


class Own(LinearRegression):
    """A model whose code is unknown."""


@pytest.mark.parametrize(
    ("model", "frame", "options"),
    [
        (Own().fit(FITTED, FITTED.a), FRAME, {}),
        (Paced(seconds=0).fit(FITTED), FRAME, {}),
        (LINE, FRAME, {"write_statistics": False}),
        (LINE, FRAME.assign(a=np.nan, b=1.0), {}),
        (LINE, FRAME.assign(a=np.where(FRAME.a > 0, np.inf, FRAME.a)), {}),
        (LINE, FRAME.assign(a=FRAME.a > 0), {}),
        (LINE, FRAME, {"rows": 0}),
    ],
    ids=["own class", "own base", "no statistics", "only nulls", "infinite", "booleans", "no rows"],
)
def test_rows_of_the_input_are_tried_if_others_may_not_be_like_them(
    client: EagerClient, monkeypatch: pytest.MonkeyPatch, model: Any, frame: Any, options: dict[str, Any]
) -> None:
    client.models.publish("m", model)
    rows = options.pop("rows", ROWS)
    path = put(client, frame[:rows], **options)
    tried: list[Draft] = []

    def note(engine: Any, job: Any, bundle: Any, made: Draft, resolved: Any) -> Draft:
        tried.append(made)
        return try_rows(engine, job, bundle, made, resolved)

    monkeypatch.setattr(planner, "try_rows", note)
    client.submit("m", path, max_rejected="100%")
    assert len(tried) == (rows > 0)


def test_a_result_whose_type_may_depend_on_the_values_is_learnt_from_rows_of_the_input() -> None:
    numbers, times = pa.array([1.0]), pa.array([1], pa.timestamp("s"))
    assert made_up._has_fixed_types(pa.table({"prediction": numbers, "label": ["a"], "at": times}), ["at"])
    assert not made_up._has_fixed_types(pa.table({"prediction": numbers, "label": times}), [])


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int8(), pa.uint64()])
def test_values_that_are_made_up_are_within_the_range_of_the_column(kind: Any) -> None:
    low, high = (0, 2**64 - 1) if kind == pa.uint64() else (-128, 127) if kind == pa.int8() else (-3e38, 3e38)
    values = made_up._values(np.random.default_rng(0), low, high, kind, 100)
    assert values.type == kind
    assert values.to_numpy()[:2] == pytest.approx([low, high])
    assert low <= values.to_numpy().min() <= values.to_numpy().max() <= high * (1 + 1e-7)


def test_a_dry_run_shows_rows_of_the_input(client: EagerClient) -> None:
    client.models.publish("m", LINE)
    done = client.submit("m", put(client, FRAME), keep="id").job_id
    shown = preflight(client.buckets, client.ledger, client.models, read_job(client.buckets.main, done)).sample
    expected = LINE.predict(FITTED.head(len(shown)))
    assert [row["prediction"] for row in shown] == pytest.approx(expected)
