"""A version exists as soon as its manifest exists, and the manifest is written after all files have been verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LinearRegression

from scoreline.storage.errors import ModelCorrupt
from scoreline.storage.models import signatures
from scoreline.storage.models.bundle import dump
from scoreline.storage.models.publisher import Publisher
from scoreline.storage.models.trial_load import NewArtifact
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.objects.directory import DirectoryStore

FILES = [NewArtifact(role="model", name="model", data=dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])))]


class Noting(DirectoryStore):
    """A store that records the names of written objects, and damages objects whose name ends in `damage`."""

    def __init__(self, root: Path, damage: str = " ") -> None:
        super().__init__(root, "data")
        self.written: list[str] = []
        self._damage = damage

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        self.written.append(key.rpartition("/")[2])
        return super().put(key, data[::-1] if key.endswith(self._damage) else data, **options)


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    store = Noting(tmp_path)
    signing_key, _ = signatures.generate_keys()
    Publisher(store, signing_key=signing_key, try_here=True).publish("m", FILES, {})
    assert store.written[-1] == "manifest.json"
    assert "~model.publish~m@" in store.written[-2]  # the audit says so before the version exists
    assert sorted(store.written[:-2]) == ["data.txt", "manifest.sig", "model.joblib"]


def test_a_version_whose_upload_was_damaged_does_not_exist(tmp_path: Path) -> None:
    store = Noting(tmp_path, damage=".joblib")
    with pytest.raises(ModelCorrupt):
        Publisher(store, try_here=True).publish("m", FILES, {})
    assert "manifest.json" not in store.written
