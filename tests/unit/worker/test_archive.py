from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.errors import StoreError
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.worker.dev.archive import restore, save


def contents(store: ObjectStore) -> dict[str, tuple[bytes, dict[str, str]]]:
    found = (store.get(info.key) for info in store.list(""))
    return {stored.info.key: (stored.data, dict(stored.info.metadata)) for stored in found}


def test_a_bucket_comes_back_as_it_was(tmp_path: Path) -> None:
    store, other = DirectoryStore(tmp_path, "a"), DirectoryStore(tmp_path, "b")
    store.put("models/m/1/manifest.json", b"{}")
    store.put("out/day=2026%2F11/süß/part-00000.parquet", bytes(range(256)) * 99, metadata={"rows": "7", "sha256": "é"})
    store.put("empty", b"")
    assert save(store, tmp_path / "bucket.tar") == 3
    assert restore(other, tmp_path / "bucket.tar") == 3
    assert contents(other) == contents(store)
    assert len(contents(other)) == 3


def test_without_an_archive_there_are_no_objects(tmp_path: Path) -> None:
    assert restore(DirectoryStore(tmp_path, "a"), tmp_path / "none.tar") == 0


def test_an_archive_is_replaced_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = DirectoryStore(tmp_path, "a"), tmp_path / "bucket.tar"
    store.put("k", b"1")
    save(store, path)
    before = path.read_bytes()
    store.put("l", b"2")

    def fail(*_: object, **__: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(DirectoryStore, "get", fail)
    with pytest.raises(StoreError):
        save(store, path)
    assert path.read_bytes() == before
