"""The baseline of a version is the profile of its training data, read and scored as a job would."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder

from scoreline import ModelStorageManager
from scoreline.storage.errors import ScorelineError
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.options import ReadOptions, read_options
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.counting import profile_of

RNG = np.random.default_rng(0)
ROWS = pd.DataFrame({"plan": RNG.choice(["basic", "pro", "team"], 300), "age": RNG.integers(18, 90, 300)})
CHURNED = np.where(RNG.uniform(size=300) < ROWS["age"] / 100, "yes", "no")
DATA = ROWS.assign(churned=CHURNED)
ENCODER = LabelEncoder().fit(CHURNED)
MODEL = make_pipeline(
    make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough"), LogisticRegression(max_iter=500)
).fit(ROWS, ENCODER.transform(CHURNED))
NUMBERS = LinearRegression().fit(ROWS[["age"]].to_numpy(), ROWS["age"] * 2.0)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", "dev")


@pytest.fixture
def models(store: DirectoryStore) -> ModelStorageManager:
    return ModelStorageManager(store, cloud_only=False, use_r2=False, try_here=True)


def read(models: ModelStorageManager, manifest: Manifest) -> Baseline:
    data = models.registry.attachment(manifest, "baseline.json.gz")
    assert data is not None
    return Baseline.decode(data)


def test_the_baseline_has_the_profile_of_the_features_and_of_the_scores_of_a_job(models: ModelStorageManager) -> None:
    made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=DATA, target="churned")
    found = read(models, made)
    labels, proba = ENCODER.inverse_transform(MODEL.predict(ROWS)), MODEL.predict_proba(ROWS)
    scores = {"prediction": labels, "proba_no": proba[:, 0], "proba_yes": proba[:, 1]}
    expected = profile_of(ROWS, pa.table(scores))
    assert found.profile.columns == expected.columns
    assert (found.profile.rows, found.rejected) == (300, 0)
    metrics = made.metrics["model"]
    assert (metrics["target"], metrics["rows"]) == ("churned", 300)
    assert metrics["accuracy"] == (labels == CHURNED).mean()
    assert models.registry.show("m") == made


def _parquet(frame: pd.DataFrame) -> bytes:
    data: bytes = frame.to_parquet(index=False)
    return data


def _arrow(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(pa.Table.from_pandas(frame, preserve_index=False), sink)
    return sink.getvalue()


FORMATS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "train.parquet": _parquet,
    "train.csv": lambda frame: frame.to_csv(index=False).encode(),
    "train.csv.gz": lambda frame: __import__("gzip").compress(frame.to_csv(index=False).encode()),
    "train.jsonl": lambda frame: frame.to_json(orient="records", lines=True).encode(),
    "train.arrow": _arrow,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_local_file_and_an_object_of_every_format_give_the_same_baseline(
    models: ModelStorageManager, store: DirectoryStore, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS[name](DATA))
    store.put(f"train/{name}", path.read_bytes())
    expected = models.publish("m", MODEL, label_encoder=ENCODER, baseline=DATA, target="churned")
    for source in (path, str(path), f"s3://dev/train/{name}", "s3://dev/train/"):
        made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=source, target="churned")
        assert read(models, made) == read(models, expected)
        assert made.metrics == expected.metrics


def test_a_file_is_read_with_the_options_of_a_job(models: ModelStorageManager, tmp_path: Path) -> None:
    data = DATA.assign(age=DATA["age"] + 0.5, weight=1)
    data.loc[3, "age"] = np.nan
    german = data.to_csv(index=False, sep=";", decimal=",", na_rep="?", header=False)
    (tmp_path / "train.txt").write_text(german, encoding="latin-1")
    read_as = read_options(
        {
            "format": "csv",
            "delimiter": ";",
            "decimal": ",",
            "null_values": ["?"],
            "columns": [*data.columns],
            "encoding": "latin-1",
            "types": {"weight": "string"},
        }
    )
    expected = models.publish("m", MODEL, label_encoder=ENCODER, baseline=data, target="churned")
    source = tmp_path / "train.txt"
    made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=source, target="churned", read=read_as)
    found, wanted = read(models, made).profile.columns, read(models, expected).profile.columns
    assert (found["age"].histogram, found["age"].nulls) == (wanted["age"].histogram, 1)
    assert found["plan"].values == wanted["plan"].values
    assert made.metrics == expected.metrics


def test_the_batches_in_which_rows_are_read_do_not_matter(
    models: ModelStorageManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    many = pd.concat([DATA] * 20)
    many.to_parquet(tmp_path / "train.parquet", index=False, row_group_size=701)
    expected = models.publish("m", MODEL, label_encoder=ENCODER, baseline=tmp_path / "train.parquet", target="churned")
    monkeypatch.setattr("scoreline.tasks.steps.engine.BATCH_ROWS", 97)
    made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=tmp_path / "train.parquet", target="churned")
    first, second = read(models, made).profile, read(models, expected).profile
    assert first.columns["age"] == second.columns["age"]
    assert first.columns["plan"] == second.columns["plan"]
    assert first.columns["prediction"] == second.columns["prediction"]


def test_rows_that_cannot_be_scored_are_counted(models: ModelStorageManager) -> None:
    odd = pd.concat([DATA, pd.DataFrame({"plan": ["none", None], "age": [20, 30], "churned": ["no", "yes"]})])
    made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=odd, target="churned")
    found = read(models, made)
    assert (found.profile.rows, found.rejected, found.profile.columns["prediction"].rows) == (302, 2, 300)
    assert found.profile.columns["plan"].nulls == 1
    assert made.metrics["model"]["rows"] == 300


def test_several_models_have_metrics_of_their_own(models: ModelStorageManager) -> None:
    rows = ROWS[["age"]]
    both = {"log": LogisticRegression().fit(rows, CHURNED), "hist": HistGradientBoostingClassifier().fit(rows, CHURNED)}
    made = models.publish("m", both, baseline=DATA, target="churned")
    assert {name: round(metrics["accuracy"], 9) for name, metrics in made.metrics.items()} == {
        name: round((model.predict(rows) == CHURNED).mean(), 9) for name, model in both.items()
    }


def test_a_model_without_names_is_given_the_features_and_the_target_alone(models: ModelStorageManager) -> None:
    data = pd.DataFrame({"age": ROWS["age"], "twice": ROWS["age"] * 2.0})
    made = models.publish("m", NUMBERS, baseline=data, target="twice")
    assert made.metrics["model"]["r2"] == pytest.approx(1.0)


def test_hidden_values_and_no_target_leave_their_parts_out(models: ModelStorageManager) -> None:
    made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=DATA, hide_values=["plan"])
    found = read(models, made)
    assert (dict(made.metrics), found.hidden) == ({}, ("plan",))
    assert dict(found.profile.columns["plan"].values.counts) == {}
    assert found.profile.columns["age"].values.total == 0
    assert found.profile.columns["age"].histogram.counts


NULLS = pd.DataFrame({"plan": [None] * 9, "age": [np.nan] * 9})


@pytest.mark.parametrize(
    ("baseline", "options", "message"),
    [
        (ROWS[["age"]], {}, r"the DataFrame lacks 'plan'; it has 'age': give the features and the target alone"),
        (ROWS[:1], {}, "the baseline has 1 row: it needs at least 2"),
        (ROWS[:0], {}, "the baseline has no rows"),
        (NULLS, {}, "baseline.* none of 9 rows tried"),
        (DATA.assign(age="old"), {}, "baseline: none of .* could not convert string to float: 'old'|'old'"),
        (DATA.assign(plan=3), {}, "baseline: none of"),
        (ROWS, {"target": "churned"}, "the baseline has no column 'churned', which is to be the target"),
        (DATA.assign(churned="odd"), {"target": "churned"}, "'churned' has 'odd', but model 'model' predicts 'no', 'y"),
        (DATA.assign(churned=None), {"target": "churned"}, "'churned' is null in every row"),
        (DATA, {"target": "age"}, "the target 'age' is a feature of the model"),
        (DATA, {"hide_values": ["churned"]}, "values of 'churned' cannot be left out, because it is no feature"),
        (5, {}, "a baseline is a path, a URI or a DataFrame, not a int"),
        ("nowhere.csv", {}, r"the baseline nowhere\.csv does not exist"),
        ("s3://dev/nowhere.csv", {}, "baseline: no input at s3://dev/nowhere.csv"),
        ("s3://other/train.csv", {}, "bucket 'other' is not the bucket of the models"),
        (None, {"target": "churned"}, "target needs a baseline: give the training data"),
        (None, {"hide_values": ["plan"]}, "hide_values needs a baseline"),
        (None, {"read": ReadOptions(decimal=",")}, "read needs a baseline"),
        (DATA, {"read": ReadOptions(decimal=",")}, "reading options have no effect on a DataFrame"),
        ("train.csv", {"read": ReadOptions(delimiter=";;")}, "delimiter ';;' is not a single ASCII character"),
    ],
)
def test_a_baseline_that_does_not_fit_the_model_is_refused(
    models: ModelStorageManager, baseline: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScorelineError, match=message):
        models.publish("m", MODEL, label_encoder=ENCODER, baseline=baseline, **options)
    assert models.list() == {}  # and no file is left
    assert list(models.registry._store.list("models/")) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", "", "the baseline has no rows"),
        ("header.csv", "plan,age\n", "the baseline has no rows"),
        ("empty.parquet", "", "the baseline has no rows|not a Parquet file"),
        ("broken.parquet", "PAR1 and more", r"{folder}/broken\.parquet is not a Parquet file"),
        ("other.csv", "x;y\n1;2\n", r"{folder}/other\.csv lacks 'plan', 'age'"),
        ("train.xlsx", "PK", r"{folder}/train\.xlsx has none of the suffixes"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_by_its_path(
    models: ModelStorageManager, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ScorelineError, match=message.format(folder=tmp_path)):
        models.publish("m", MODEL, label_encoder=ENCODER, baseline=tmp_path / name)
    assert models.list() == {}


def test_every_feature_with_only_nulls_is_refused_even_if_the_model_accepts_nulls(models: ModelStorageManager) -> None:
    model = HistGradientBoostingClassifier().fit(ROWS[["age"]], CHURNED)
    with pytest.raises(ScorelineError, match="every feature of the baseline has only nulls"):
        models.publish("m", model, baseline=pd.DataFrame({"age": [np.nan] * 9}))


def test_an_estimator_that_fails_is_an_error_of_scoring(models: ModelStorageManager) -> None:
    model = LogisticRegression().fit(ROWS[["age"]], CHURNED)
    model.coef_ = model.coef_[:, :0]  # damaged after fitting
    with pytest.raises(ScorelineError, match="baseline"):
        models.publish("m", model, baseline=DATA)
    assert models.list() == {}


def test_the_attachments_of_the_caller_are_kept(models: ModelStorageManager) -> None:
    checks = {"checks.toml": b"[rows]\nmin = 1\n"}
    made = models.publish("m", MODEL, label_encoder=ENCODER, baseline=DATA, attachments=checks)
    assert set(made.attachments) == {"baseline.json.gz", "checks.toml"}
    assert json.loads(made.to_json())["metadata"]["_scoreline"].keys() == {"attachments"}
