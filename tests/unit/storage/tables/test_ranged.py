"""An input object is read only in the version that was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoreline.storage.errors import InputChanged
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.ranged import RangedFile


@pytest.mark.parametrize("size", [10, RangedFile.WHOLE_BYTES + 10])
@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_an_object_that_was_replaced_or_deleted_is_not_read(tmp_path: Path, size: int, what: str) -> None:
    store = DirectoryStore(tmp_path, "data")
    info = store.put("in/a", b"a" * size)
    assert RangedFile(store, "in/a", info.size, info.etag).read() == b"a" * size
    if what == "deleted":
        store.delete("in/a")
    else:
        store.put("in/a", b"b" * size)
    with pytest.raises(InputChanged, match="was replaced or deleted after the job was planned"):
        RangedFile(store, "in/a", info.size, info.etag).read()


def test_the_end_of_an_object_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path, "data")
    data = bytes(range(256)) * 8_192
    info = store.put("in/a", data)
    asked: list[object] = []
    get = store.get

    def counted(key: str, **options: Any) -> Any:
        asked.append(options["byte_range"])
        return get(key, **options)

    monkeypatch.setattr(store, "get", counted)
    file = RangedFile(store, "in/a", info.size, info.etag)
    for start, size in ((info.size - 65_536, 65_536), (info.size - 9_000, 1_000), (info.size - 8, 100), (0, 4)):
        file.seek(start)
        assert file.read(size) == data[start : start + size]
    assert asked == [(info.size - 65_536, info.size), (0, 4)]
