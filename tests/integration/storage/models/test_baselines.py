"""Baselines from objects on an S3 server, in versions that are loaded on trial in a fresh process and signed."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import LabelEncoder, StandardScaler

from scoreline import ModelStorageManager
from scoreline.storage.errors import BucketNotAllowed, InputNotFound
from scoreline.storage.models import signatures
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.counting import profile_of
from scoreline.worker.dev.stack import Stack


@pytest.mark.usefixtures("fresh_process")
def test_objects_of_several_formats_are_one_baseline_under_the_signature(
    stack: Stack,
    store: ObjectStore,
    cells: pd.DataFrame,
    trained: tuple[StandardScaler, RandomForestClassifier, LabelEncoder],
) -> None:
    # Given training data in a folder of Parquet and CSV, of which each object has some of the rows
    scaler, forest, encoder = trained
    labels = encoder.inverse_transform(forest.predict(scaler.transform(cells)))
    data = cells.assign(diagnosis=pd.Series(labels, dtype=object).where(cells.index % 10 > 0, None))
    sink = io.BytesIO()
    data[:300].to_parquet(sink, index=False)
    store.put("baseline-train/a.parquet", sink.getvalue())
    store.put("baseline-train/b.csv", data[300:].to_csv(index=False).encode())
    signing, verifying = signatures.generate_keys()
    environ = stack.environ | {"MODEL_SIGNING_KEY": signing, "MODEL_VERIFY_KEYS": verifying}
    models = ModelStorageManager.from_env(environ)
    # When a version is published with them
    made = models.publish(
        "with-baseline", forest, scaler, encoder, baseline=f"s3://{store.bucket}/baseline-train/", target="diagnosis"
    )
    # Then another process reads the profile of all rows, and it is that of the whole table
    other = ModelStorageManager.from_env(environ)
    manifest, signer = other.verify("with-baseline")
    assert signer is not None
    assert manifest == made
    content = other.registry.attachment(manifest, "baseline.json.gz")
    assert content is not None
    found = Baseline.decode(content)
    expected = profile_of(cells)
    for name in map(str, cells):
        assert found.profile.columns[name].mean == expected.columns[name].mean
    assert (found.profile.rows, found.profile.columns["prediction"].values.total) == (569, 569)
    assert manifest.metrics["model"]["null_targets"] == 57
    assert manifest.metrics["model"]["accuracy"] == 1.0
    assert other.load("with-baseline").models["model"].n_estimators == forest.n_estimators


def test_a_baseline_that_is_not_there_or_not_allowed_leaves_nothing_behind(
    stack: Stack, store: ObjectStore, trained: tuple[StandardScaler, RandomForestClassifier, LabelEncoder]
) -> None:
    scaler, forest, encoder = trained
    models = ModelStorageManager.from_env(stack.environ)
    with pytest.raises(InputNotFound, match="no input at s3://"):
        models.publish("none-left", forest, scaler, encoder, baseline=f"s3://{store.bucket}/baseline-nowhere/")
    with pytest.raises(BucketNotAllowed, match="ALLOWED_BUCKETS"):
        models.publish("none-left", forest, scaler, encoder, baseline="s3://elsewhere/train.csv")
    assert list(store.list("models/none-left/")) == []
