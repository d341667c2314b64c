"""An input object is read in the version that was planned, or not at all."""

from __future__ import annotations

from pathlib import Path

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
