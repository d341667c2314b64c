"""Bundles whose steps do not belong together are refused, because their scores would all be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, LabelEncoder, MinMaxScaler, PolynomialFeatures, StandardScaler

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.trial_process import describe_bundle
from scoreline.storage.objects.directory import DirectoryStore

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.array([0, 1, 2] * 4)
SCALER = StandardScaler().fit(X)
FOREST = RandomForestClassifier(n_estimators=2, random_state=0).fit(X, Y)
LINE = LinearRegression().fit(X, Y)
ENCODER = LabelEncoder().fit(["no", "maybe", "yes"])


@pytest.fixture
def models(tmp_path: Path) -> ModelStorageManager:
    return ModelStorageManager(DirectoryStore(tmp_path, "dev"), cloud_only=False, use_r2=False, try_here=True)


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        # Not fitted, or no estimator
        ({"model": FOREST, "preprocessor": StandardScaler()}, "'preprocessor' is a StandardScaler that is not fitted"),
        ({"model": FOREST, "label_encoder": LabelEncoder()}, "'label_encoder' is a LabelEncoder that is not fitted"),
        ({"model": RandomForestClassifier()}, "this RandomForestClassifier is not fitted"),
        ({"model": RandomForestClassifier}, "'model' is the class RandomForestClassifier: save a fitted object"),
        ({"model": [FOREST, SCALER]}, "'model' is a list of RandomForestClassifier, StandardScaler: save each object"),
        ({"model": {"m": {"clf": FOREST, "scaler": SCALER}}}, "'m' is a dict of 'clf', 'scaler': save each object"),
        ({"model": None}, "NoneType is not an estimator"),
        # Given twice
        ({"model": FOREST, "preprocessor": [SCALER, StandardScaler().fit(X)]}, "are the same StandardScaler.*give it"),
        (
            {"model": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), "preprocessor": SCALER},
            "model 'model' already contains preprocessor 'preprocessor', a StandardScaler",
        ),
        # Another number of columns
        (
            {"model": FOREST, "preprocessor": StandardScaler().fit(X[:, :2])},
            "preprocessor 'preprocessor' returns 2 columns, but model 'model' was fitted on 3",
        ),
        (
            {"model": FOREST, "preprocessor": PolynomialFeatures().fit(X)},
            "preprocessor 'preprocessor' returns 10 columns, but model 'model' was fitted on 3",
        ),
        (
            {"model": FOREST, "preprocessor": [PCA(2).fit(X), SCALER]},
            "'preprocessor' returns 2 columns, but preprocessor 'preprocessor_2' was fitted on 3",
        ),
        # A label encoder that does not fit
        (
            {"model": RandomForestClassifier(2).fit(X, ["no", "maybe", "yes"] * 4), "label_encoder": ENCODER},
            "classes of this RandomForestClassifier, 'maybe', 'no', 'yes': the model predicts the labels themselves",
        ),
        (
            {"model": FOREST, "label_encoder": LabelEncoder().fit(["no", "yes"])},
            "0, 1, 2, because it encodes 'no', 'yes' as numbers from 0: give the encoder",
        ),
        ({"model": RandomForestClassifier(2).fit(X, Y * 2.0), "label_encoder": ENCODER}, r"0\.0, 2\.0, 4\.0, because"),
        ({"model": LINE, "label_encoder": ENCODER}, "no model is one .'model' is a LinearRegression.: publish without"),
        ({"model": ENCODER}, "model 'model' is a LabelEncoder, which encodes labels .* the role label_encoder"),
    ],
)
def test_a_bundle_whose_steps_do_not_belong_together_is_refused(
    models: ModelStorageManager, bundle: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        models.publish("m", **bundle)
    assert models.list() == {}


@pytest.mark.parametrize(
    "bundle",
    [
        {"model": FOREST, "preprocessor": [MinMaxScaler().fit(X), SCALER]},
        {"model": FOREST, "preprocessor": [SCALER, StandardScaler().fit(SCALER.transform(X))]},
        {"model": FOREST, "preprocessor": [FunctionTransformer(), FunctionTransformer(np.abs)]},
        {"model": FOREST, "label_encoder": ENCODER},
        {"model": LogisticRegression().fit(PCA(2).fit_transform(X), Y), "preprocessor": PCA(2).fit(X)},
        {"model": make_pipeline(StandardScaler(), FOREST).fit(X, Y)},
        {"model": LogisticRegression().fit(np.eye(3), [0, 1, 0]), "preprocessor": TfidfVectorizer().fit(["aa bb cc"])},
        {
            "model": LINE,
            "preprocessor": ColumnTransformer([("s", StandardScaler(), [0])], remainder="passthrough").fit(X),
        },
    ],
)
def test_a_bundle_whose_steps_fit_is_published(models: ModelStorageManager, bundle: dict[str, Any]) -> None:
    assert models.publish("m", **bundle).outputs


def test_a_label_encoder_with_more_labels_than_the_model_has_is_noted() -> None:
    two = LogisticRegression().fit(X, Y == 1)
    two.classes_ = np.array([0, 1])
    report = describe_bundle({"model": {"m": two}, "preprocessor": {}, "label_encoder": {"e": ENCODER}}, None)
    assert report["notes"] == ["model 'm' never predicts 'yes', which the label encoder knows"]
    assert report["estimators"] == {"m": "LogisticRegression", "e": "LabelEncoder"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("scaler", r"publish\(\) takes no scaler=: did you mean preprocessor=\?"),
        ("preprocesor", "takes no preprocesor=: did you mean preprocessor="),
        ("preprocessors", "did you mean preprocessor="),
        ("encoder", "takes no encoder=: did you mean label_encoder="),
        ("labelencoder", "did you mean label_encoder="),
        ("classifier", "did you mean model="),
        ("alais", "did you mean alias="),
        ("colour", "takes no colour=: it takes name, model, preprocessor, label_encoder,"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_one_that_was_meant(
    models: ModelStorageManager, argument: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        models.publish("m", FOREST, **{argument: SCALER})
    assert models.list() == {}
