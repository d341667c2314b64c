"""Objects with text for tests that read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.objects.directory import DirectoryStore
from scoreline.storage.tables.base import Pinned
from tests.support.text_tables import Put


@pytest.fixture
def put(tmp_path: Path) -> Put:
    store = DirectoryStore(tmp_path, "bucket")

    def write(data: bytes | str, key: str = "in.csv") -> Pinned:
        info = store.put(key, data.encode() if isinstance(data, str) else data)
        return Pinned(store=store, key=info.key, size=info.size, etag=info.etag)

    return write
