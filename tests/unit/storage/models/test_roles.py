from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, LabelEncoder, StandardScaler

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models import roles
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.worker.cli.main import cli

X = np.arange(12.0).reshape(6, 2)
LABELS = np.array(["no", "yes"] * 3)
FOREST = RandomForestClassifier(n_estimators=2, random_state=0).fit(X, [0, 1] * 3)
SCALER = StandardScaler().fit(X)
ENCODER = LabelEncoder().fit(LABELS)


@pytest.fixture
def models(tmp_path: Path) -> ModelStorageManager:
    return ModelStorageManager(DirectoryStore(tmp_path, "dev"), cloud_only=False, use_r2=False)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        *(
            (text, "preprocessor")
            for text in ("preprocesor", "Pre-Processor", "preproccessor", "preprocessing", "preproc")
        ),
        *((text, "label_encoder") for text in ("label-encoder", "labelencoder", "lable_encoder", "LabelEncoder2")),
        *((text, None) for text in ("model", "rf", "scaler", "encoder", "autoencoder", "transformer", "labels", "2")),
    ],
)
def test_a_misspelt_role_is_recognized(text: str, role: str | None) -> None:
    assert roles.similar_role(text) == role


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        ({"model": {"rf": FOREST, "scaler": SCALER}}, "'scaler' is a StandardScaler, .* the role preprocessor "),
        ({"model": {"rf": FOREST, "steps": make_pipeline(SCALER, PCA().fit(X))}}, "'steps' is a .*role preprocessor "),
        ({"model": {"rf": FOREST, "labels": ENCODER}}, "'labels' is a LabelEncoder, .* the role label_encoder "),
        ({"model": {"rf": FOREST, "preprocesor": SCALER}}, "'preprocesor', which reads as the role 'preprocessor'"),
        ({"model": FOREST, "preprocessor": ENCODER}, "'preprocessor' is a LabelEncoder, .* the role label_encoder "),
        ({"model": SCALER, "preprocessor": FOREST}, r"has no transform\(\): give it the role model "),
        ({"model": FOREST, "label_encoder": SCALER}, "is a StandardScaler, .* the role preprocessor "),
        ({"model": FOREST, "label_encoder": FOREST}, r"has no inverse_transform\(\): give it the role model "),
    ],
)
def test_an_object_of_another_role_is_refused_with_that_role(
    models: ModelStorageManager, bundle: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        models.publish("m", **bundle)
    assert models.list() == {}


@pytest.mark.parametrize(
    "bundle",
    [
        {"model": SCALER},
        {"model": {"scaler": SCALER, "pca": PCA().fit(X)}},
        {"model": {"rf": FOREST, "lda": LinearDiscriminantAnalysis().fit(X, LABELS)}},
        {"model": FOREST, "preprocessor": SCALER, "label_encoder": ENCODER},
        {"model": FOREST, "label_encoder": LabelBinarizer().fit(LABELS)},
    ],
)
def test_objects_that_fit_their_roles_are_accepted(bundle: dict[str, Any]) -> None:
    preprocessor, encoder = bundle.get("preprocessor"), bundle.get("label_encoder")
    model = bundle["model"] if isinstance(bundle["model"], dict) else {"model": bundle["model"]}
    roles.check_objects(
        {
            "model": model,
            "preprocessor": {} if preprocessor is None else {"preprocessor": preprocessor},
            "label_encoder": {} if encoder is None else {"label_encoder": encoder},
        }
    )


def test_a_role_that_does_not_exist_is_refused_by_name(models: ModelStorageManager) -> None:
    files = [NewArtifact(role=role, name=role, data=dump(FOREST)) for role in ("model", "preprocesor")]  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"'preprocesor' is no role: use .* \(did you mean 'preprocessor'\?\)"):
        models.publish_files("m", files)


@pytest.fixture
def publish(tmp_path: Path, models: ModelStorageManager, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs ``scoreline models publish`` on a directory store that holds two files."""
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("STORE_DIR", str(tmp_path / "store"))
    store = ModelStorageManager.from_env()
    store.save("old/rf.joblib", FOREST)
    store.save("old/scaler.joblib", SCALER)
    return lambda *options: CliRunner().invoke(cli, ["models", "publish", "m", *options])


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("scaler", "'scaler' is a StandardScaler, .* the role preprocessor "),
        ("model:scaler", "'scaler' is a StandardScaler, .* the role preprocessor "),
        ("preprocesor", "'preprocesor', which reads as the role 'preprocessor': give it the role preprocessor "),
        ("preprocesor:scaler", r"'preprocesor' is no role: use model, preprocessor or label_encoder \(did you mean "),
        ("scaler:scaler", r"'scaler' is no role: .* \(did you mean 'preprocessor'\?\)$"),
        ("colour:scaler", "'colour' is no role: use model, preprocessor or label_encoder$"),
    ],
)
def test_a_misspelt_role_of_an_object_in_the_bucket_is_refused(publish: Any, role: str, message: str) -> None:
    done = publish("--from-bucket", "model=old/rf.joblib", "--from-bucket", f"{role}=old/scaler.joblib")
    assert re.search(message, str(done.exception))


def test_publishing_prints_each_file_with_the_role_that_it_has(publish: Any) -> None:
    done = publish("--from-bucket", "model:rf=old/rf.joblib", "--from-bucket", "preprocessor=old/scaler.joblib")
    *shown, digest = done.stderr.splitlines()
    assert shown == [
        "preprocessor 'preprocessor': StandardScaler in s3://scoreline/old/scaler.joblib",
        "model 'rf': RandomForestClassifier in s3://scoreline/old/rf.joblib",
        "features: 2, without names",
        "outputs: prediction, proba_0, proba_1",
        "baseline: none (--baseline FILE|URI makes one from the training data)",
        "checks: none (the default checks apply)",
    ]
    assert done.stdout.startswith("m@")
    pinned = ModelStorageManager.from_env().registry.resolve(done.stdout.strip())
    assert digest == f"SHA-256 of the manifest: {pinned.manifest_sha256}"
