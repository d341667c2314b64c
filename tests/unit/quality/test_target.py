"""The metrics on a target are those of scikit-learn, whatever the types of the target and however rows are batched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, mean_absolute_error, r2_score, roc_auc_score

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import Outputs
from scoreline.tasks.quality.outcomes import target
from scoreline.tasks.quality.outcomes.target import TargetMetrics

RNG = np.random.default_rng(0)
YES = RNG.uniform(size=400)
TRUE = RNG.uniform(size=400) < YES


def outputs(classes: tuple[Any, ...] | None = ("no", "yes"), kind: str = "classifier") -> dict[str, Outputs]:
    methods = ("predict", "predict_proba") if classes else ("predict",)
    return {"m": Outputs(kind=kind, methods=methods, classes=classes)}


def scores(classes: tuple[Any, ...] = ("no", "yes")) -> pa.Table:
    predicted = [classes[int(p >= 0.5)] for p in YES]
    return pa.table({"prediction": predicted, f"proba_{classes[0]}": 1 - YES, f"proba_{classes[1]}": YES})


def metrics(values: Any, classes: tuple[Any, ...] = ("no", "yes"), batch: int = 400) -> dict[str, Any]:
    made = TargetMetrics("y", outputs(classes), 400)
    column, table = pa.chunked_array([values]), scores(classes)
    for start in range(0, 400, batch):
        made.add(column.slice(start, batch), table.slice(start, batch))
    found: dict[str, Any] = made.result()["m"]
    return found


LABELS = np.where(TRUE, "yes", "no")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pa.array(LABELS), ("no", "yes")),
        (pa.array(LABELS).dictionary_encode(), ("no", "yes")),
        (pa.array(TRUE), (False, True)),
        (pa.array(TRUE), ("False", "True")),
        (pa.array(TRUE.astype(int)), (0, 1)),
        (pa.array(TRUE.astype(int)), (False, True)),
        (pa.array(TRUE.astype(float)), (0, 1)),
        (pa.array(TRUE.astype(int).astype(str)), (0, 1)),
        (pa.array(TRUE.astype(int)), ("0", "1")),
        (pa.array(np.where(TRUE, "2026-01-01", "2025-01-01").astype("datetime64[D]")), ("2025-01-01", "2026-01-01")),
    ],
)
@pytest.mark.parametrize("batch", [400, 7])
def test_the_metrics_of_a_binary_classifier_are_those_of_scikit_learn(
    values: pa.Array, classes: tuple[Any, ...], batch: int
) -> None:
    found = metrics(values, classes, batch)
    assert found["rows"] == 400
    assert found["null_targets"] == 0
    assert found["accuracy"] == accuracy_score(TRUE, YES >= 0.5)
    assert found["auc"] == roc_auc_score(TRUE, YES)
    assert found["log_loss"] == pytest.approx(log_loss(TRUE, YES), rel=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(TRUE, YES), rel=1e-12)


def test_the_calibration_table_counts_every_row_once() -> None:
    table = metrics(pa.array(LABELS))["calibration"]
    assert sum(row["rows"] for row in table) == 400
    for row in table:
        inside = (row["from"] < YES) & (row["to"] >= YES)
        assert row["rows"] == inside.sum()
        assert row["predicted"] == pytest.approx(YES[inside].mean())
        assert row["observed"] == pytest.approx(TRUE[inside].mean())


def test_more_than_two_classes_are_compared_one_with_the_rest() -> None:
    proba = RNG.dirichlet([1, 1, 1], 300)
    true = np.array([RNG.choice(3, p=row) for row in proba])
    names = np.array(["a", "b", "c"])
    made = TargetMetrics("y", outputs(("a", "b", "c")), 300)
    table = {f"proba_{name}": proba[:, n] for n, name in enumerate(names)}
    made.add(pa.chunked_array([names[true]]), pa.table({"prediction": names[proba.argmax(axis=1)], **table}))
    found = made.result()["m"]
    assert found["auc"] == roc_auc_score(true, proba, multi_class="ovr")
    assert found["accuracy"] == accuracy_score(true, proba.argmax(axis=1))
    assert found["brier"] == pytest.approx(((proba - np.eye(3)[true]) ** 2).sum(axis=1).mean())
    assert sum(row["rows"] for row in found["calibration"]) == 300


def test_rows_whose_target_is_null_are_left_out_and_counted() -> None:
    values = pd.Series(LABELS, dtype=object)
    values[:100] = None
    found = metrics(pa.array(values))
    assert (found["rows"], found["null_targets"]) == (300, 100)
    assert found["auc"] == roc_auc_score(TRUE[100:], YES[100:])
    numbers = TRUE.astype(float)
    numbers[:50] = np.nan
    assert metrics(pa.array(numbers), (0, 1))["null_targets"] == 50


def test_with_one_class_in_the_target_there_is_no_auc() -> None:
    found = metrics(pa.array(["yes"] * 400))
    assert "auc" not in found
    assert found["accuracy"] == (YES >= 0.5).mean()


@pytest.mark.parametrize("kind", ["int64", "float64", "string"])
def test_the_metrics_of_a_regressor_are_those_of_scikit_learn(kind: str) -> None:
    true, predicted = RNG.integers(0, 9, 50), RNG.uniform(0, 9, 50)
    made = TargetMetrics("y", outputs(None, "regressor"), 50)
    made.add(pa.chunked_array([true]).cast(kind), pa.table({"prediction": predicted}))
    found = made.result()["m"]
    assert (found["r2"], found["mae"]) == (r2_score(true, predicted), mean_absolute_error(true, predicted))


def test_many_rows_are_sampled_by_their_number_so_that_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MAX_CELLS", 400)
    whole, halves = metrics(pa.array(LABELS)), metrics(pa.array(LABELS), batch=200)
    assert whole == halves
    assert whole["one_in"] == 4
    assert 50 < whole["rows"] < 150


@pytest.mark.parametrize(
    ("values", "offered", "message"),
    [
        (["maybe"] * 9 + ["no"], outputs(), "target 'y' has 'maybe', but model 'm' predicts 'no', 'yes': name the"),
        ([str(n) for n in range(10)], outputs(), "has '0', '1', '2', '3', '4' and 5 more, but"),
        (["x"] * 10, outputs(None, "regressor"), "target 'y' has 'x', but model 'm' predicts numbers"),
        ([None] * 10, outputs(), "target 'y' is null in every row"),
        (["no"] * 10, outputs(None, "clusterer"), "need a classifier or a regressor .* 'm' is a clusterer"),
        (["no"] * 10, outputs(((0, 1), (0, 1))), "need a classifier or a regressor with one target"),
    ],
)
def test_a_target_that_does_not_fit_the_model_is_refused(values: Any, offered: Any, message: str) -> None:
    def compare() -> None:
        made = TargetMetrics("y", offered, 10)
        of = offered["m"].classes
        table = scores().slice(0, 10) if of else pa.table({"prediction": [1.0] * 10})
        made.add(pa.chunked_array([pa.array(values, pa.string())]), table)
        made.result()

    with pytest.raises(InvalidRequest, match=message):
        compare()
