"""Attachments of model versions on an S3 server, with signatures and with the local cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import ModelCorrupt, ModelUntrusted, StoreUnavailable
from scoreline.storage.models import signatures
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.retention.versions import collect_versions
from scoreline.worker.dev.stack import Stack

LINE = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
ATTACHED = {"checks.toml": b"[[rule]]\n", "baseline.json.gz": b"\x1f\x8b"}


@pytest.mark.usefixtures("fresh_process")
def test_attachments_are_listed_read_verified_and_deleted_with_their_version(
    models: ModelStorageManager, store: ObjectStore
) -> None:
    made = models.publish("attached", LINE, attachments=ATTACHED)
    read = models.registry.show("attached")
    assert {name: models.registry.attachment(read, name) for name in read.attachments} == ATTACHED
    assert models.verify("attached")[0] == made
    folder = keys.version_folder("attached", made.version)
    assert {info.key.removeprefix(folder) for info in store.list(folder)} >= set(ATTACHED)
    models.registry.delete(models.registry.resolve("attached"), lambda _: None)
    assert list(store.list(folder)) == []


def test_a_signature_covers_the_attachments(stack: Stack, store: ObjectStore) -> None:
    signing, verifying = signatures.generate_keys()
    trusting = ModelStorageManager.from_env(
        stack.environ | {"MODEL_SIGNING_KEY": signing, "MODEL_VERIFY_KEYS": verifying}
    )
    made = trusting.publish("signed-attached", LINE, attachments=ATTACHED)
    key = keys.artifact(made.name, made.version, "checks.toml")
    # When an attachment is replaced, and when its digest is replaced as well
    store.put(key, b"[[evil]]\n")
    with pytest.raises(ModelCorrupt, match=r"checks\.toml differs from its manifest"):
        trusting.registry.attachment(trusting.registry.show(made.ref), "checks.toml")
    raw = json.loads(made.to_json())
    raw["metadata"]["_scoreline"]["attachments"]["checks.toml"]["sha256"] = "0" * 64
    store.put(keys.manifest(made.name, made.version), json.dumps(raw).encode())
    with pytest.raises(ModelUntrusted):
        trusting.registry.show(made.ref)


def test_the_local_cache_serves_attachments_that_were_read_before_when_the_store_is_down(
    stack: Stack, models: ModelStorageManager, tmp_path: Path
) -> None:
    made = models.publish("kept-attached", LINE, attachments=ATTACHED)
    environ = stack.environ | {"ML_CLOUD_ONLY": "false", "MODEL_CACHE_DIR": str(tmp_path / "cache")}
    mine = ModelStorageManager.from_env(environ)
    assert mine.registry.show(made.ref) == made
    assert mine.registry.attachment(made, "checks.toml") == ATTACHED["checks.toml"]
    # When the store is down
    cut_off = ModelStorageManager.from_env(environ | {"R2_ENDPOINT_URL": "http://127.0.0.1:9"})
    # Then the copy is read, but it is not what `verify` verifies
    assert cut_off.registry.attachment(cut_off.registry.show(made.ref), "checks.toml") == ATTACHED["checks.toml"]
    with pytest.raises(StoreUnavailable):
        cut_off.registry.attachment(made, "baseline.json.gz")
    with pytest.raises(StoreUnavailable):
        cut_off.verify(made.ref)
    # And an altered copy is refused
    copy = tmp_path / "cache" / "documents" / keys.artifact(made.name, made.version, "checks.toml")
    copy.write_bytes(ATTACHED["checks.toml"][::-1])
    with pytest.raises(ModelCorrupt, match=r"the copy of .*checks\.toml differs from its manifest"):
        cut_off.registry.attachment(made, "checks.toml")


def test_the_removal_of_an_old_version_removes_its_attachments(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, "dev")
    models = ModelStorageManager(store, cloud_only=True, use_r2=False, try_here=True)
    old = models.publish("m", LINE, attachments=ATTACHED)
    models.publish("m", LINE, attachments=ATTACHED)
    report = collect_versions(store, 1)
    assert [item.ref for item in report.removed] == [old.ref]
    left = [info.key.rpartition("/")[2] for info in store.list(keys.version_folder("m", old.version))]
    assert left == ["removed.json"]


def test_a_pins_board_reads_a_version_with_attachments(tmp_path: Path) -> None:
    pins = pytest.importorskip("pins")
    models = ModelStorageManager(DirectoryStore(tmp_path, "dev"), cloud_only=True, use_r2=False, try_here=True)
    one = models.publish("one", LINE, attachments=ATTACHED)
    pair = models.publish("pair", {"a": LINE, "b": LINE}, attachments=ATTACHED)
    board = pins.board_folder(str(tmp_path / "dev" / "models"), allow_pickle_read=True)
    assert board.pin_read("one", version=one.version).coef_ == LINE.coef_
    assert set(board.pin_meta("one", version=one.version).user["_scoreline"]["attachments"]) == set(ATTACHED)
    files = {Path(file).name for file in board.pin_download("pair", version=pair.version)}
    assert files == {"a.joblib", "b.joblib", *ATTACHED}
