"""Workers score with estimators of every library exactly as the process that published them does."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.client import Client
from scoreline.tasks.job.uris import parse_uri
from scoreline.worker.dev.stack import Stack


@pytest.fixture
def scored(
    worker: Stack, client: Client, models: ModelStorageManager, store: ObjectStore, put_table: Callable[..., str]
) -> Callable[..., pd.DataFrame]:
    """Publish a model, score with it in workers, and read the results."""

    def run(name: str, model: Any, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
        models.publish(name, model)
        job = client.submit(name, put_table(f"in/{name}.parquet", frame), **options)
        done = list(client.watch(job.job_id))[-1]
        assert done.state == "succeeded", done.error
        parts = store.list(f"{parse_uri(done.output)[1]}part-")  # the number of parts depends on how fast the model is
        return pd.concat([pq.read_table(io.BytesIO(store.get(info.key).data)).to_pandas() for info in parts])

    return run


@pytest.fixture
def labels(cells: pd.DataFrame) -> Any:
    return (cells["mean radius"] > 14).to_numpy().astype(int)


def test_workers_score_xgboost_as_its_publisher_does(
    scored: Callable[..., pd.DataFrame], cells: pd.DataFrame, labels: Any
) -> None:
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(cells, labels)
    results = scored("xgb", model, cells)
    assert np.array_equal(results["prediction"], model.predict(cells))
    assert np.array_equal(results["proba_1"], model.predict_proba(cells)[:, 1])


def test_workers_score_lightgbm_as_its_publisher_does(
    scored: Callable[..., pd.DataFrame], cells: pd.DataFrame, labels: Any
) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1).fit(cells, labels)
    # LightGBM renames the feature "mean radius" to "mean_radius"
    results = scored("lgbm", model, cells[reversed(cells.columns)])
    assert np.array_equal(results["prediction"], model.predict(cells))
    assert np.array_equal(results["proba_1"], model.predict_proba(cells)[:, 1])


def test_workers_score_a_text_pipeline_as_its_publisher_does(scored: Callable[..., pd.DataFrame]) -> None:
    texts = [f"{word} number {number}" for number in range(50) for word in ("good", "bad", "plain")]
    kinds = ["good", "bad", "plain"] * 50
    text = FunctionTransformer(np.ravel, feature_names_out=None)
    model = make_pipeline(text, TfidfVectorizer(), SGDClassifier(loss="log_loss", random_state=0)).fit(texts, kinds)
    results = scored("text", model, pd.DataFrame({"text": texts}), features=["text"])
    assert list(results["prediction"]) == list(model.predict(texts))
    assert np.array_equal(results["proba_good"], model.predict_proba(texts)[:, list(model.classes_).index("good")])


def test_workers_score_a_pipeline_with_an_imported_function(
    scored: Callable[..., pd.DataFrame], cells: pd.DataFrame, labels: Any
) -> None:
    model = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression()).fit(cells, labels)
    results = scored("function", model, cells)
    assert np.array_equal(results["prediction"], model.predict(cells))


def test_several_models_score_the_same_rows(
    scored: Callable[..., pd.DataFrame], cells: pd.DataFrame, labels: Any
) -> None:
    made = {
        # this solver converges quickly even without a scaler
        "up": LogisticRegression(solver="liblinear").fit(cells, labels),
        "down": LogisticRegression(solver="liblinear").fit(cells, 1 - labels),
    }
    results = scored("several-e2e", made, cells)
    assert {"up_prediction", "up_proba_0", "up_proba_1", "down_prediction", "down_proba_0"} <= set(results.columns)
    # the memory layout of the columns affects how sums are rounded
    read = pd.read_parquet(io.BytesIO(cells.to_parquet()))
    for name, model in made.items():
        assert np.array_equal(results[f"{name}_prediction"], model.predict(read))
        assert np.array_equal(results[f"{name}_proba_1"], model.predict_proba(read)[:, 1])


def test_a_classifier_of_several_labels_gets_columns_for_each_label(
    scored: Callable[..., pd.DataFrame], cells: pd.DataFrame, labels: Any
) -> None:
    several = np.column_stack([labels, cells["mean texture"] > 20])
    model = RandomForestClassifier(5, random_state=0, n_jobs=1).fit(cells, several)
    results = scored("several-labels", model, cells)
    assert np.array_equal(results[["prediction_0", "prediction_1"]], model.predict(cells))
    for label, expected in enumerate(model.predict_proba(cells)):
        assert np.array_equal(results[[f"proba_{label}_0", f"proba_{label}_1"]], expected)


def test_workers_score_a_pipeline_over_texts_categories_and_missing_values(scored: Callable[..., pd.DataFrame]) -> None:
    # Given a pipeline whose steps choose their columns by name
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "plan": pd.Categorical.from_codes(random.integers(-1, 3, 400), pd.Index(["basic", "gold", "team"])),
            "city": random.choice(np.array(["Bonn", "Köln", None], dtype=object), 400),
            "age": np.where(random.uniform(size=400) < 0.2, np.nan, random.integers(18, 90, 400)),
            "active": random.integers(0, 2, 400).astype(bool),
        }
    )
    steps = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["plan", "city"]),
        (make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
        remainder="passthrough",
    )
    churned = np.where(frame["age"].fillna(0) + 30 * frame["active"] > 60, "leaves", "stays")
    model = make_pipeline(steps, LogisticRegression()).fit(frame, churned)
    # When workers score with the pipeline, on Parquet with nulls, a dictionary column and a different column order
    results = scored("churn-e2e", model, frame[["city", "active", "plan", "age"]])
    # Then every row has the score that the pipeline gives in this process
    read = pd.read_parquet(io.BytesIO(frame.to_parquet()))
    assert list(results["prediction"]) == list(model.predict(read))
    assert np.array_equal(results[["proba_leaves", "proba_stays"]], model.predict_proba(read))
