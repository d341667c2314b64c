"""A directory store lists all objects below a prefix, or says which folder it could not list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import StoreUnavailable
from scoreline.storage.objects.directory import DirectoryStore


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    found = DirectoryStore(tmp_path, "data")
    for key in ("in/a", "in/sub/b", "in/z"):
        found.put(key, b"1")
    return found


def test_a_folder_that_cannot_be_listed_is_an_outage(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreUnavailable, match=r"cannot list s3://data/in/sub/: Permission denied"):
        list(store.list("in/"))


def test_an_entry_that_cannot_be_looked_at_is_an_outage(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "data" / "in" / "loop").symlink_to("loop")
    with pytest.raises(StoreUnavailable, match=r"cannot list s3://data/in/: Too many levels"):
        list(store.list("in/"))


def test_what_is_not_there_has_no_objects(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "data" / "in" / "dangling").symlink_to("nowhere")
    assert list(store.list("none/")) == []
    assert list(store.list("in/a/")) == []
    assert list(DirectoryStore(tmp_path, "other").list("")) == []
    assert [info.key for info in store.list("in/")] == ["in/a", "in/sub/b", "in/z"]
