"""Attachments are small files of a version, which its manifest lists under its digest."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ModelCorrupt
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.attachments import ENTRY, MAX_ATTACHMENT_BYTES
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.publisher import Publisher
from scoreline.storage.objects.directory import DirectoryStore
from tests.unit.storage.models.test_publisher import FILES, Noting

LINE = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
CHECKS = b"[[rule]]\n"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path, "data")


@pytest.fixture
def models(store: DirectoryStore) -> ModelStorageManager:
    return ModelStorageManager(store, cloud_only=True, use_r2=False, try_here=True)


def test_an_attachment_is_read_as_it_was_published(models: ModelStorageManager) -> None:
    made = models.publish("m", LINE, metadata={"auc": 0.9}, attachments={"checks.toml": CHECKS})
    read = models.registry.show("m")
    assert read == made
    assert {name: (item.size, item.sha256) for name, item in read.attachments.items()} == {
        "checks.toml": (len(CHECKS), sha256_hex(CHECKS))
    }
    assert read.metadata["auc"] == 0.9
    assert models.registry.attachment(read, "checks.toml") == CHECKS
    assert models.registry.attachment(read, "baseline.json.gz") is None


def test_attachments_are_written_before_the_manifest(tmp_path: Path) -> None:
    store = Noting(tmp_path)
    Publisher(store, try_here=True).publish("m", FILES, {}, attachments={"checks.toml": CHECKS, "b.json.gz": b"0"})
    assert store.written[-1] == "manifest.json"
    assert {"checks.toml", "b.json.gz"} < set(store.written)


def test_a_version_whose_attachment_was_damaged_while_it_was_stored_does_not_exist(tmp_path: Path) -> None:
    store = Noting(tmp_path, damage="checks.toml")
    with pytest.raises(ModelCorrupt, match=r"checks\.toml is not stored as it was sent"):
        Publisher(store, try_here=True).publish("m", FILES, {}, attachments={"checks.toml": CHECKS})
    assert list(store.list(keys.MODELS)) == []


def test_a_manifest_without_attachments_has_no_entry_for_them(models: ModelStorageManager) -> None:
    made = models.publish("m", LINE, metadata={"auc": 0.9})
    assert made.metadata == {"auc": 0.9}
    assert set(json.loads(made.to_json())) == {
        "artifacts", "created", "feature_names", "format", "libraries", "memory_bytes", "metadata", "n_features",
        "name", "outputs", "version",
    }  # fmt: skip


def test_an_earlier_release_reads_a_manifest_with_attachments(models: ModelStorageManager) -> None:
    # 0.1.0 passes every field of the document to its class, whose fields are those of the format
    raw = json.loads(models.publish("m", LINE, attachments={"checks.toml": CHECKS}).to_json())
    assert Manifest(**raw).metadata == raw["metadata"]
    assert set(raw) == set(asdict(Manifest(**raw)))


@pytest.mark.parametrize(
    ("attachments", "message"),
    [
        ({"checks.toml": b"x" * (MAX_ATTACHMENT_BYTES + 1)}, r"checks\.toml has 100,001 bytes; .* at most 100,000"),
        ({"checks.toml": b""}, r"checks\.toml is empty"),
        ({"manifest.json": CHECKS}, "'manifest.json'"),
        ({"data.txt": CHECKS}, "'data.txt'"),
        ({"model.joblib": CHECKS}, "'model.joblib'"),
        ({"../checks.toml": CHECKS}, "'../checks.toml'"),
    ],
)
def test_an_attachment_that_is_too_large_or_has_a_reserved_name_is_refused(
    models: ModelStorageManager, attachments: dict[str, bytes], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        models.publish("m", LINE, attachments=attachments)
    assert models.list() == {}


def test_an_attachment_may_have_100_000_bytes(models: ModelStorageManager) -> None:
    made = models.publish("m", LINE, attachments={"checks.toml": b"x" * MAX_ATTACHMENT_BYTES})
    assert models.registry.attachment(made, "checks.toml") == b"x" * MAX_ATTACHMENT_BYTES


def test_the_metadata_of_a_user_cannot_pass_as_attachments(models: ModelStorageManager) -> None:
    with pytest.raises(InvalidRequest, match="'_scoreline', which Scoreline itself writes"):
        models.publish("m", LINE, metadata={ENTRY: {"attachments": {}}})


def test_a_text_of_this_name_that_an_earlier_release_accepted_stays_a_text(models: ModelStorageManager) -> None:
    made = models.publish("m", LINE, metadata={"auc": 0.9})
    raw = json.loads(made.to_json()) | {"metadata": {ENTRY: "mine"}}
    read = Manifest.from_json(json.dumps(raw).encode(), made.ref)
    assert (dict(read.attachments), read.metadata) == ({}, {ENTRY: "mine"})


@pytest.mark.parametrize("damage", ["other", "short", "longer", "none", "empty"])
def test_an_attachment_that_was_altered_or_is_missing_is_not_read(
    models: ModelStorageManager, store: DirectoryStore, damage: str
) -> None:
    made = models.publish("m", LINE, attachments={"checks.toml": CHECKS})
    key = keys.artifact("m", made.version, "checks.toml")
    altered = {"other": CHECKS[::-1], "short": CHECKS[:-1], "longer": CHECKS + b"\n", "empty": b""}
    if damage == "none":
        store.delete(key)
    else:
        store.put(key, altered[damage])
    with pytest.raises(ModelCorrupt, match=r"checks\.toml"):
        models.registry.attachment(made, "checks.toml")
    with pytest.raises(ModelCorrupt, match=r"checks\.toml"):
        models.verify("m")


@pytest.mark.parametrize(
    "changed",
    [
        {"attachments": {"../x": {"size": 1, "sha256": "0" * 64}}},
        {"attachments": {"model.joblib": {"size": 1, "sha256": "0" * 64}}},
        {"attachments": {"x": {"size": -1, "sha256": "0" * 64}}},
        {"attachments": {"x": {"size": 1 << 40, "sha256": "0" * 64}}},
        {"attachments": {"x": {"size": 1, "sha256": "../.."}}},
        {"attachments": {"x": {"size": "1", "sha256": "0" * 64}}},
        {"attachments": ["x"]},
        {"metrics": [1]},
    ],
)
def test_a_malformed_list_of_attachments_makes_a_manifest_unreadable(
    models: ModelStorageManager, changed: dict[str, Any]
) -> None:
    made = models.publish("m", LINE)
    raw = json.loads(made.to_json()) | {"metadata": {ENTRY: changed}}
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        Manifest.from_json(json.dumps(raw).encode(), made.ref)


def test_a_version_with_other_attachments_has_other_content(models: ModelStorageManager) -> None:
    first = models.publish("m", LINE, attachments={"checks.toml": CHECKS})
    second = models.publish("m", LINE, attachments={"checks.toml": CHECKS + CHECKS})
    assert first.content_sha256 != second.content_sha256
