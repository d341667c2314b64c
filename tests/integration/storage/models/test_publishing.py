from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from scoreline.storage import keys
from scoreline.storage.errors import (
    InvalidRequest,
    ModelCorrupt,
    ModelInUse,
    ModelNotFound,
    ModelUnloadable,
    ModelUntrusted,
    PreconditionFailed,
)
from scoreline.storage.models import aliases, signatures
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.storage.models.trial_process import load_files
from scoreline.storage.objects.base import ObjectStore, exists
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.client import Client
from scoreline.worker.dev.stack import Stack
from tests.support.waiting import wait_until

LINE = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])


def no_one(_: Any) -> None:
    """Raise no error, which means that no job uses the version."""


@pytest.mark.usefixtures("fresh_process")
def test_several_models_and_preprocessors_are_loaded_in_order(models: ModelStorageManager) -> None:
    x = np.array([[1.0], [2.0], [4.0]])
    first, second = StandardScaler().fit(x), MinMaxScaler().fit(StandardScaler().fit_transform(x))
    made = {"b": LogisticRegression().fit(x, [0, 1, 1]), "a": LINE}
    manifest = models.publish("several", made, preprocessor=[first, second])
    bundle = models.load("several")
    assert list(bundle.models) == ["b", "a"]
    assert np.array_equal(bundle.prepare(x), second.transform(first.transform(x)))
    assert [artifact.file for artifact in manifest.artifacts] == [
        "b.joblib",
        "a.joblib",
        "preprocessor.joblib",
        "preprocessor_2.joblib",
    ]


@pytest.mark.usefixtures("fresh_process")
def test_a_bundle_that_a_fresh_process_cannot_load_is_not_stored(
    models: ModelStorageManager, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("only_at_the_publisher")
    exec("def double(x):\n    return 2 * x\ndouble.__module__ = 'only_at_the_publisher'", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ModelUnloadable, match="needs the module 'only_at_the_publisher': install it where workers run"):
        models.publish("homeless", LINE, preprocessor=FunctionTransformer(module.double))
    assert list(store.list(keys.model_folder("homeless"))) == []


@pytest.mark.usefixtures("fresh_process")
def test_a_pickle_that_ends_its_process_is_not_stored(models: ModelStorageManager, store: ObjectStore) -> None:
    class Fatal:
        def __reduce__(self) -> tuple[Any, ...]:
            return os._exit, (3,)

    with pytest.raises(ModelUnloadable, match=r"exit code 3"):
        models.publish("fatal", Fatal())
    assert list(store.list(keys.model_folder("fatal"))) == []


def test_a_file_that_is_not_a_pickle_is_reported_in_one_line(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b"id,x\n1,2\n")  # an unpickler reads these bytes as the name of a class
    done = cli("models", "publish", "table", "--model", str(path))
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {path} is not a joblib or pickle file: \w+: .*\n", done.stderr)


@pytest.mark.parametrize(
    "data",
    [b"customer\nid\n7\n", b"<html>\n", b"PAR1" + bytes(99), gzip.compress(b"hello\nworld", mtime=0), b"\x1f\x8b\nx"],
)
def test_other_bytes_are_reported_as_not_a_pickle(data: bytes) -> None:
    file = io.BufferedReader(io.BytesIO(data))
    with pytest.raises(ModelUnloadable, match=r"^scores\.csv is not a joblib or pickle file: ") as refused:
        load_files([("model", "model", file)], "table", allow_version_skew=False, sources={"model": "scores.csv"})
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("fresh_process")
def test_a_truncated_pickle_is_not_reported_as_another_format(models: ModelStorageManager) -> None:
    file = NewArtifact(role="model", name="model", data=dump(LINE)[:-20], source="m.joblib")
    with pytest.raises(ModelUnloadable, match="model 'model' of cut cannot be loaded: "):
        models.publish_files("cut", [file])


@pytest.mark.usefixtures("fresh_process")
def test_models_that_were_fitted_on_different_columns_are_not_published_together(models: ModelStorageManager) -> None:
    with pytest.raises(InvalidRequest, match="'a' and 'b' were fitted on different columns"):
        models.publish(
            "mixed",
            {
                "a": LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0, 1]),
                "b": LinearRegression().fit(pd.DataFrame({"y": [0.0, 1.0]}), [0, 1]),
            },
        )


@pytest.mark.usefixtures("fresh_process")
def test_publishing_measures_the_memory_of_a_bundle(models: ModelStorageManager) -> None:
    payload = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    payload.words = {f"word number {number}": number for number in range(200_000)}
    manifest = models.publish("wordy", payload)
    held = sum(sys.getsizeof(word) + 28 for word in payload.words) + sys.getsizeof(payload.words)
    assert manifest.size < 0.3 * held  # the model takes more memory than its file
    assert 0.8 * held < manifest.memory_bytes < 1.4 * held


def test_two_publishers_at_the_same_time_lose_nothing(models: ModelStorageManager, stack: Stack) -> None:
    def publish(number: int) -> str:
        mine = ModelStorageManager.from_env(stack.environ)
        return mine.publish("race", LINE, alias="champion", metadata={"publisher": number % 3}).version

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(publish, range(4)))
    assert sorted(set(made)) == models.registry.versions("race")
    assert {models.show(f"race@{version}").metadata["publisher"] for version in made} == {0, 1, 2}
    history = models.registry.find_alias("race", "champion")
    assert history is not None
    assert sorted(change.version for change in history.history) == sorted(made)
    assert [change.seq for change in history.history] == [1, 2, 3, 4]


def test_concurrent_changes_of_an_alias_are_all_kept(models: ModelStorageManager) -> None:
    version = models.publish("crowd", LINE).version
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: models.alias("crowd", "champion", version), range(6)))
    alias = models.registry.find_alias("crowd", "champion")
    assert alias is not None
    assert [change.seq for change in alias.history] == list(range(1, 7))


def test_each_rollback_goes_one_version_further_back(models: ModelStorageManager) -> None:
    versions = [models.publish("back", LINE, alias="champion", metadata={"n": n}).version for n in range(3)]
    registry = models.registry
    assert registry.rollback("back", "champion").version == versions[1]
    assert registry.rollback("back", "champion").version == versions[0]
    with pytest.raises(InvalidRequest, match="named no version before"):
        registry.rollback("back", "champion")
    assert registry.alias("back", "champion", versions[2]).seq == 6
    assert registry.rollback("back", "champion").version == versions[0]
    with pytest.raises(ModelNotFound, match="no alias"):
        registry.rollback("back", "challenger")


def test_an_alias_change_that_succeeded_but_was_reported_as_a_conflict_is_made_once(
    models: ModelStorageManager, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [models.publish("answer", LINE, alias="champion", metadata={"n": n}).version for n in range(3)]
    put = type(store).put
    refused: list[str] = []

    def put_and_refuse(self: Any, key: str, data: bytes, **options: Any) -> Any:
        info = put(self, key, data, **options)
        if not refused:
            refused.append(key)
            raise PreconditionFailed("the store had carried out the first of two tries")
        return info

    monkeypatch.setattr(type(store), "put", put_and_refuse)
    assert models.registry.rollback("answer", "champion").version == versions[1]
    found = models.registry.find_alias("answer", "champion")
    assert found is not None
    assert (found.seq, found.version) == (4, versions[1])


def test_a_truncated_history_can_still_be_rolled_back() -> None:
    history: tuple[aliases.Change, ...] = ()
    for seq in range(1, 500):
        back = seq % 5 == 0
        before = aliases.Alias(name="a", history=history).previous if back else None
        target = before.version if before else f"v{seq}"
        change = aliases.Change(seq=seq, version=target, manifest_sha256="", at="", rollback=back)
        history = aliases.with_change(history, change)
        assert len(history) <= 200
    alias = aliases.Alias(name="a", history=history)
    assert (alias.version, alias.previous and alias.previous.version) == ("v499", "v498")


def test_a_version_in_use_is_not_deleted(
    models: ModelStorageManager, client: Client, store: ObjectStore, worker: Stack, put_table: Any
) -> None:
    first = models.publish("used", LINE, alias="champion")
    second = models.publish("used", LINE, metadata={"n": 2})
    with pytest.raises(ModelInUse, match="champion"):
        client.delete_model(models.registry.resolve(first.ref))
    job = client.submit(second.ref, put_table("in/used.parquet", pd.DataFrame({"x": [1.0]})), features=["x"])
    list(client.watch(job.job_id))
    wait_until(lambda: not exists(store, keys.active(job.job_id)), "the marker is removed")
    store.put(keys.active(job.job_id), b"")  # simulate a running job by its marker
    with pytest.raises(ModelInUse, match=job.job_id):
        client.delete_model(models.registry.resolve(second.ref))
    store.delete(keys.active(job.job_id))
    client.delete_model(models.registry.resolve(second.ref))
    assert models.registry.versions("used") == [first.version]
    assert list(store.list(keys.version_folder("used", second.version))) == []


def test_an_alias_that_is_set_during_a_deletion_keeps_the_version(models: ModelStorageManager) -> None:
    first = models.publish("meanwhile", LINE)
    pinned = models.registry.resolve(first.ref)
    asked = []

    def set_after_the_first_look(_: Any) -> None:
        asked.append(1)
        if len(asked) == 1:
            models.alias("meanwhile", "champion", first.version)

    with pytest.raises(ModelInUse, match="champion"):
        models.registry.delete(pinned, set_after_the_first_look)
    assert models.load("meanwhile@champion").manifest == first


def test_a_version_can_be_read_as_an_entry_of_a_pins_board(tmp_path: Path) -> None:
    pins = pytest.importorskip("pins")
    models = ModelStorageManager(DirectoryStore(tmp_path, "dev"), cloud_only=False, use_r2=False)
    manifest = models.publish("pinned", LINE, alias="champion", metadata={"auc": 0.9})
    several = models.publish("pair", {"a": LINE, "b": LINE}, preprocessor=StandardScaler().fit([[0.0], [1.0]]))
    board = pins.board_folder(str(tmp_path / "dev" / "models"), allow_pickle_read=True)
    assert set(board.pin_list()) == {"pinned", "pair"}
    found = board.pin_meta("pinned", version=manifest.version)
    assert (found.user["auc"], found.type) == (0.9, "joblib")
    read = board.pin_read("pinned", version=manifest.version)
    assert np.array_equal(read.predict([[3.0]]), LINE.predict([[3.0]]))
    files = board.pin_download("pair", version=several.version)
    assert {Path(file).name for file in files} == {"a.joblib", "b.joblib", "preprocessor.joblib"}


@pytest.fixture
def trusting(stack: Stack) -> dict[str, str]:
    signing, verifying = signatures.generate_keys()
    return stack.environ | {"MODEL_SIGNING_KEY": signing, "MODEL_VERIFY_KEYS": verifying}


def test_with_verify_keys_only_signed_versions_are_loaded(
    models: ModelStorageManager, trusting: dict[str, str]
) -> None:
    unsigned = models.publish("unsigned", LINE)
    mine = ModelStorageManager.from_env(trusting)
    assert mine.load(mine.publish("signed", LINE).ref).models
    with pytest.raises(ModelUntrusted, match="is not signed, but MODEL_VERIFY_KEYS is set: if you trust it, sign it"):
        mine.load(unsigned.ref)
    assert models.load("signed").models  # without verify keys, signatures are not checked


def test_a_signature_by_another_key_and_an_altered_manifest_are_refused(
    stack: Stack, trusting: dict[str, str], store: ObjectStore
) -> None:
    mine = ModelStorageManager.from_env(trusting)
    other, _ = signatures.generate_keys()
    theirs = ModelStorageManager.from_env(stack.environ | {"MODEL_SIGNING_KEY": other})
    with pytest.raises(ModelUntrusted, match="but not by any key in MODEL_VERIFY_KEYS"):
        mine.load(theirs.publish("theirs", LINE).ref)
    manifest = mine.publish("altered-by-hand", LINE)
    key = keys.manifest(manifest.name, manifest.version)
    raw = json.loads(store.get(key).data)
    raw["metadata"] = {"auc": 1.0}
    store.put(key, json.dumps(raw).encode())
    with pytest.raises(ModelUntrusted, match="does not match its manifest"):
        mine.load(manifest.ref)


def test_a_signed_version_that_was_copied_to_another_name_is_refused(
    trusting: dict[str, str], store: ObjectStore
) -> None:
    mine = ModelStorageManager.from_env(trusting)
    old, new = mine.publish("moved", LINE), mine.publish("moved", LINE, alias="champion", metadata={"n": 2})
    for info in list(store.list(keys.version_folder("moved", old.version))):
        data = store.get(info.key).data
        store.put(info.key.replace("models/moved/", "models/renamed/"), data)
        store.put(info.key.replace(old.version, new.version), data)
    with pytest.raises(ModelCorrupt, match="was it copied"):
        mine.load(f"renamed@{old.version}")
    with pytest.raises(ModelCorrupt, match="was it copied"):
        mine.load(new.ref)
    with pytest.raises(ModelCorrupt, match="was altered after it was pinned"):
        mine.load("moved@champion")


def test_keys_can_be_rotated_without_interruption(stack: Stack, trusting: dict[str, str]) -> None:
    mine = ModelStorageManager.from_env(trusting)
    manifest = mine.publish("rotated", LINE)
    signing, verifying = signatures.generate_keys()
    both = f"{trusting['MODEL_VERIFY_KEYS']}, {verifying}"
    assert ModelStorageManager.from_env(stack.environ | {"MODEL_VERIFY_KEYS": both}).load(manifest.ref)
    alone = ModelStorageManager.from_env(stack.environ | {"MODEL_VERIFY_KEYS": verifying})
    with pytest.raises(ModelUntrusted):
        alone.load(manifest.ref)
    mine.registry.sign(manifest.ref, signing)
    assert alone.load(manifest.ref)
    assert mine.load(manifest.ref)


def test_version_skew_is_an_error_or_a_warning(
    stack: Stack, models: ModelStorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = models.publish("skewed", LINE)
    monkeypatch.setattr("sklearn.__version__", "9.9")
    with pytest.raises(ModelUnloadable, match=r"ML_ALLOW_VERSION_SKEW=true"):
        models.load(manifest.ref)
    lenient = ModelStorageManager.from_env(stack.environ | {"ML_ALLOW_VERSION_SKEW": "true"})
    (said,) = lenient.load(manifest.ref).warnings
    assert re.fullmatch(rf"{manifest.ref} was saved by scikit-learn [\d.]+, but 9\.9 is installed", said)


@pytest.mark.usefixtures("fresh_process")
def test_a_model_saved_by_another_scikit_learn_is_published_with_that_version(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sklearn.base.__version__", "1.0.2")  # estimators write this version into their pickle
    files = [NewArtifact(role="model", name="model", data=dump(LINE))]
    with pytest.raises(ModelUnloadable, match=r"saved by scikit-learn 1\.0\.2.*ML_ALLOW_VERSION_SKEW"):
        ModelStorageManager.from_env(stack.environ).publish_files("antique", files)
    lenient = ModelStorageManager.from_env(stack.environ | {"ML_ALLOW_VERSION_SKEW": "true"})
    assert lenient.publish_files("antique", files).libraries["scikit-learn"] == "1.0.2"


def test_the_command_line_publishes_from_files_and_from_a_bucket(
    cli: Any, stack: Stack, store: ObjectStore, tmp_path: Path, models: ModelStorageManager
) -> None:
    for name, obj in {"m": LINE, "other": LogisticRegression().fit([[0.0], [1.0]], [0, 1])}.items():
        joblib.dump(obj, tmp_path / f"{name}.joblib", compress=3)
    done = cli(
        "models",
        "publish",
        "files",
        "--model",
        str(tmp_path / "m.joblib"),
        "--model",
        f"second={tmp_path / 'other.joblib'}",
        "--metadata",
        "auc=0.9",
        "--alias",
        "champion",
    )
    assert done.returncode == 0, done.stderr
    assert set(models.load("files@champion").models) == {"model", "second"}
    store.put("legacy/rf.joblib", (tmp_path / "m.joblib").read_bytes())
    store.put("legacy/scaler.joblib", dump(StandardScaler().fit([[0.0], [1.0]])))
    done = cli(
        "models",
        "publish",
        "adopted",
        "--from-bucket",
        "model=legacy/rf.joblib",
        "--from-bucket",
        f"preprocessor={store.uri('legacy/scaler.joblib')}",
    )
    assert done.returncode == 0, done.stderr
    bundle = models.load("adopted")
    assert len(bundle.preprocessors) == 1
    assert bundle.manifest.metadata["adopted_from"]["model"] == store.uri("legacy/rf.joblib")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("publish", "x", "--model", "nowhere.joblib"), 2, "nowhere.joblib: No such file"),
        (("publish", "x"), 2, "a bundle needs at least one model"),
        (("publish", "x", "--from-bucket", "model=no/such.joblib"), 1, "no object s3://scoreline/no/such.joblib"),
        (("publish", "x", "--from-bucket", "model=s3://elsewhere/a"), 2, "not in ALLOWED_BUCKETS"),
        (("publish", "x", "--model", __file__, "--sha256", "model="), 2, "with 64 hexadecimal digits"),
        (("publish", "x", "--from-bucket", "model"), 2, "'model' is not of the form NAME=VALUE"),
        (("alias", "no-model", "champion", "--rollback"), 2, "no model 'no-model'"),
        (("verify",), 2, "name the versions to verify"),
        (("sign", "x"), 2, "MODEL_SIGNING_KEY is not set"),
        (("delete", "x", "--yes"), 2, "no model 'x'"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_reported_in_one_line(
    cli: Any, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = cli("models", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_a_key_of_the_wrong_kind_is_reported_without_showing_it() -> None:
    signing, _ = signatures.generate_keys()
    with pytest.raises(
        Exception, match="MODEL_VERIFY_KEYS: this is a signing key, but a verify key is needed"
    ) as caught:
        ModelSettings.from_env({"MODEL_VERIFY_KEYS": signing})
    assert signing[20:] not in str(caught.value)


def test_verify_names_the_corrupt_artifact(cli: Any, models: ModelStorageManager, store: ObjectStore) -> None:
    good, bad = models.publish("checked", LINE), models.publish("checked", LINE, metadata={"n": 2})
    key = keys.artifact("checked", bad.version, "model.joblib")
    store.put(key, store.get(key).data[:-1] + b"\0")
    done = cli("models", "verify", good.ref, bad.ref)
    assert done.returncode == 1
    assert f"ok     {good.ref}" in done.stdout
    assert f"WRONG  {bad.ref}" in done.stdout
    store.delete(keys.manifest("checked", bad.version))


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (pd.DataFrame({"x": [1.0]}), "DataFrame is not an estimator: it has neither fit() nor predict()"),
        (LinearRegression(), "this LinearRegression is not fitted: call fit() before you save it"),
        (make_pipeline(StandardScaler(), LinearRegression()), "this Pipeline is not fitted"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_an_object_that_cannot_score_is_never_published(models: ModelStorageManager, thing: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        models.publish("no-model", thing)
    with pytest.raises(ModelNotFound):
        models.registry.resolve("no-model")


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize(
    "data",
    [b"\x80\x02c__main__\nMyModel\n.", b"\x80\x04\x8c\x08__main__\x8c\x07MyModel\x93."],
    ids=["protocol 2", "protocol 4"],
)
def test_a_class_that_was_defined_in_a_notebook_is_named_with_the_remedy(
    models: ModelStorageManager, data: bytes
) -> None:
    file = NewArtifact(role="model", name="model", data=data, source="m.joblib")
    with pytest.raises(ModelUnloadable, match="uses 'MyModel', which was defined in a notebook or a script"):
        models.publish_files("notebook", [file])
