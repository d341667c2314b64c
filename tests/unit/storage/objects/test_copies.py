"""Copies of a directory store, with which tests begin, have the objects of the store."""

from __future__ import annotations

from pathlib import Path

from scoreline.storage.objects.directory import DirectoryStore
from tests.support.copies import copy_objects


def test_a_copy_has_the_etags_and_metadata_of_the_store_and_its_changes_stay_in_it(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", "data")
    put = store.put("in/a", b"1", metadata={"rows": "1"})
    copy_objects(tmp_path / "store", tmp_path / "copy")
    copied = DirectoryStore(tmp_path / "copy", "data")
    assert copied.head("in/a") == store.head("in/a") == put
    copied.put("in/a", b"2", metadata={"rows": "2"})
    copied.put("in/b", b"3")
    assert (store.head("in/a"), store.get("in/a").data) == (put, b"1")
    assert [info.key for info in store.list("")] == ["in/a"]
