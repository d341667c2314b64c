from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from storage.errors import InputError, ScoringError
from storage.models.bundle import Bundle
from storage.models.describe import describe_outputs
from tasks.score import score_batch, to_features


def bundle(model: Any, named: bool = False) -> Bundle:
    manifest = SimpleNamespace(
        feature_names=("x",) if named else None, outputs={"model": describe_outputs(model, None)}
    )
    return Bundle(models={"model": model}, manifest=manifest, manifest_sha256="")  # type: ignore[arg-type]


LINE = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values) for name, values in columns.items()})


def test_rows_that_fail_are_found_and_the_others_keep_their_order() -> None:
    values = [float(n) for n in range(100)]
    values[3], values[70] = float("nan"), float("inf")
    done = score_batch(bundle(LINE), batch(x=values, id=list(range(100))), features=["x"], keep=["id"], method=None)
    assert sorted(done.rejected) == [3, 70]
    assert "NaN" in done.rejected[3]
    assert done.table["id"].to_pylist() == [n for n in range(100) if n not in (3, 70)]
    assert done.table["prediction"].to_pylist() == [
        LINE.predict([[float(n)]])[0] for n in range(100) if n not in (3, 70)
    ]


def test_the_search_for_rows_that_fail_ends_where_more_failed_than_may() -> None:
    nothing = batch(x=[float("nan")] * 3000)
    with pytest.raises(
        ScoringError, match=r"than the 100 .* row 0 of a batch of 3000: ValueError: Input X contains NaN\.$"
    ):
        score_batch(bundle(LINE), nothing, features=["x"], keep=[], method=None, max_rejected=100)
    done = score_batch(bundle(LINE), nothing, features=["x"], keep=[], method=None)
    assert (done.table.num_rows, len(done.rejected)) == (0, 3000)


def test_an_empty_batch_gives_no_rows() -> None:
    empty = pa.record_batch({"x": pa.array([], pa.float64())})
    assert score_batch(bundle(LINE), empty, features=["x"], keep=[], method=None).table.num_rows == 0


def test_a_kept_column_named_as_an_output_is_refused() -> None:
    with pytest.raises(InputError, match="'prediction'"):
        score_batch(bundle(LINE), batch(x=[1.0], prediction=[1]), features=["x"], keep=["prediction"], method=None)


def test_a_method_that_the_model_lacks_is_named() -> None:
    with pytest.raises(ScoringError, match="predict_proba"):
        score_batch(bundle(LINE), batch(x=[1.0]), features=["x"], keep=[], method="predict_proba")


def test_columns_come_in_the_order_of_the_model() -> None:
    x = to_features(batch(b=[1, 2], a=[0.5, 0.25]), ["a", "b"], named=False)
    assert np.array_equal(x, [[0.5, 1.0], [0.25, 2.0]])


def test_float32_stays_float32() -> None:
    x = to_features(pa.record_batch({"a": pa.array([1.5], pa.float32())}), ["a"], named=False)
    assert x.dtype == np.float32
