from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt, ModelNotFound, ModelUnloadable
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.worker.dev.stack import Stack
from tests.support.fakes import CuttingProxy


class LeavesATrace:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (self._path, 0o777, True)

    def predict(self, x: Any) -> Any:
        return x


def test_a_loaded_bundle_equals_the_published_one(
    models: ModelStorageManager, trained: Any, cells: pd.DataFrame
) -> None:
    scaler, forest, encoder = trained
    manifest = models.publish("whole", forest, scaler, encoder, alias="champion", metadata={"auc": 0.99})
    bundle = models.load("whole@champion")
    assert bundle.manifest == manifest
    assert np.array_equal(
        bundle.models["model"].predict_proba(bundle.prepare(cells)),
        forest.predict_proba(scaler.transform(cells)),
    )
    assert list(bundle.label_encoder.classes_) == ["benign", "malignant"]
    assert manifest.outputs["model"].classes == ("benign", "malignant")
    assert manifest.feature_names == tuple(cells.columns)


@pytest.mark.parametrize("position", [0, 5_000_000, -1])
def test_an_altered_byte_is_refused_before_any_code_runs(
    models: ModelStorageManager, store: ObjectStore, tmp_path: Path, position: int
) -> None:
    trap = tmp_path / "trace"
    holder = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    holder.payload = [np.zeros(1_500_000), LeavesATrace(trap)]  # several chunks
    manifest = models.publish("trapped", holder)
    trap.rmdir()  # publishing has loaded the model, and so created the directory
    key = keys.artifact("trapped", manifest.version, "model.joblib")
    data = bytearray(store.get(key).data)
    if position == 0:  # replace the beginning by a pickle that runs code
        from scoreline.storage.models.bundle import dump

        forged = dump(LeavesATrace(trap))
        data[: len(forged)] = forged
    else:
        data[position] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(ModelCorrupt, match="differs from its manifest"):
        models.load(manifest.ref)
    assert not trap.exists()
    store.delete(keys.manifest("trapped", manifest.version))


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda _: b""])
def test_missing_and_trailing_bytes_are_refused(
    models: ModelStorageManager, store: ObjectStore, change: Any, trained: Any
) -> None:
    manifest = models.publish("cut", trained[1], metadata={"n": 1})
    key = keys.artifact("cut", manifest.version, "model.joblib")
    original = store.get(key).data
    store.put(key, change(original))
    with pytest.raises(ModelCorrupt):
        models.load(manifest.ref)
    store.put(key, original)


def test_a_bundle_with_a_missing_artifact_is_not_loaded(
    models: ModelStorageManager, store: ObjectStore, trained: Any
) -> None:
    manifest = models.publish("half", trained[1], trained[0])
    store.delete(keys.artifact("half", manifest.version, "preprocessor.joblib"))
    with pytest.raises(ModelCorrupt, match=r"preprocessor\.joblib is missing"):
        models.load("half")


def test_a_manifest_copied_to_another_name_is_refused(
    models: ModelStorageManager, store: ObjectStore, trained: Any
) -> None:
    manifest = models.publish("origin", trained[1])
    data = store.get(keys.manifest("origin", manifest.version)).data
    store.put(keys.manifest("copy", manifest.version), data)
    with pytest.raises(ModelCorrupt, match="was it copied"):
        models.load("copy")
    store.delete(keys.manifest("copy", manifest.version))


def test_an_altered_manifest_is_not_loaded_through_its_alias(
    models: ModelStorageManager, store: ObjectStore, trained: Any
) -> None:
    manifest = models.publish("altered", trained[1], alias="champion")
    key = keys.manifest("altered", manifest.version)
    store.put(key, store.get(key).data + b" ")
    with pytest.raises(ModelCorrupt, match="altered"):
        models.load("altered@champion")


def test_an_error_for_an_unknown_name_lists_the_known_ones(models: ModelStorageManager, trained: Any) -> None:
    manifest = models.publish("known", trained[1], alias="champion")
    with pytest.raises(ModelNotFound, match="known"):
        models.load("unknown")
    with pytest.raises(ModelNotFound, match="aliases: champion"):
        models.load("known@challenger")
    with pytest.raises(ModelNotFound, match=manifest.version):
        models.load("known@20200101T000000Z-00000")


def test_setting_an_alias_again_increments_its_sequence_number(models: ModelStorageManager, trained: Any) -> None:
    first = models.publish("moving", trained[1], alias="champion")
    second = models.publish("moving", LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    assert models.load("moving@champion").manifest.version == first.version
    assert models.alias("moving", "champion", second.version).seq == 2
    assert models.show("moving@champion").version == second.version


def test_another_version_of_scikit_learn_is_reported_before_unpickling(
    models: ModelStorageManager, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = models.publish("old", trained[1])
    monkeypatch.setattr("sklearn.__version__", "0.1")
    with pytest.raises(
        ModelUnloadable, match=r"saved by scikit-learn .*, but 0\.1 is installed: .*ML_ALLOW_VERSION_SKEW"
    ):
        models.load(manifest.ref)


def test_an_object_without_a_scoring_method_is_not_published(models: ModelStorageManager) -> None:
    with pytest.raises(InvalidRequest, match="is not an estimator"):
        models.publish("nothing", object())


def test_single_objects_are_verified_too(models: ModelStorageManager, store: ObjectStore, tmp_path: Path) -> None:
    trap = tmp_path / "trace"
    models.save("loose/a.joblib", {"a": 1})
    assert models.load_object("loose/a.joblib") == {"a": 1}
    store.put("loose/b.joblib", b"anything")
    with pytest.raises(ModelCorrupt, match="no recorded digest"):
        models.load_object("loose/b.joblib")
    from scoreline.storage.models.bundle import dump

    store.put("loose/c.joblib", dump(LeavesATrace(trap)), metadata={"sha256": "0" * 64})
    with pytest.raises(ModelCorrupt, match="differs"):
        models.load_object("loose/c.joblib")
    assert not trap.exists()


def test_a_directory_store_can_hold_models(tmp_path: Path, trained: Any) -> None:
    models = ModelStorageManager(DirectoryStore(tmp_path, "dev"), cloud_only=False, use_r2=False)
    models.publish("local", trained[1], alias="champion")
    assert models.list() == {"local": [models.load("local@champion").manifest.version]}


def test_a_load_resumes_where_the_connection_was_cut(models: ModelStorageManager, stack: Stack) -> None:
    holder = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    holder.payload = np.random.default_rng(0).normal(size=3_000_000)  # six chunks
    manifest = models.publish("interrupted", holder)
    with CuttingProxy(int(stack.environ["R2_ENDPOINT_URL"].rpartition(":")[2]), after=1_500_000, times=5) as proxy:
        through = ModelStorageManager.from_env(stack.environ | {"R2_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"})
        loaded = through.load(manifest.ref).models["model"]
        assert proxy.left <= 0
    assert np.array_equal(loaded.payload, holder.payload)
    log = (stack.folder / "s3.log").read_text()
    assert log.count(f"/interrupted/{manifest.version}/model.joblib HTTP") > len(manifest.artifacts[0].chunks)
