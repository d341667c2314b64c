"""A copy on disk appears completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.local_cache import LocalCache
from scoreline.storage.models.manifest import Artifact

DATA = b"ten bytes!"
ARTIFACT = Artifact(
    role="model",
    name="model",
    file="model.joblib",
    size=len(DATA),
    sha256=sha256_hex(DATA),
    chunk_bytes=len(DATA),
    chunks=(sha256_hex(DATA),),
)


@pytest.mark.parametrize("written", [DATA, DATA[:4], b""])
def test_a_copy_that_lacks_bytes_is_never_there(tmp_path: Path, written: bytes) -> None:
    cache = LocalCache(tmp_path, 1000)
    with cache.writer(ARTIFACT) as write:
        assert write is not None
        write(written)
        assert cache.open(ARTIFACT) is None
    assert cache.path(ARTIFACT).exists() == (written == DATA)
    assert [path.name for path in tmp_path.rglob(".*")] == []
