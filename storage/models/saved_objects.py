"""Single Python objects in the store, which belong to no version of a model."""

from __future__ import annotations

from typing import Any

from scoreline.storage.models import signatures
from scoreline.storage.models.contents import Content, InMemory, Pickled
from scoreline.storage.models.digests import ChunkDigests
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.writer import ObjectWriter


def save(store: ObjectStore, key: str, obj: Any, signing_key: str = "") -> str:
    """Store an object with joblib and return the SHA-256 of its bytes (see `ModelStorageManager.save`).

    The digest is stored with the first byte, so the object is encoded twice: first to hash it, and then to upload it.
    Its bytes are never in memory as a whole. If an object encodes to other bytes the second time, it is encoded a third
    time, into memory.
    """
    content: Content = Pickled(obj)
    sha256 = _sha256(content)
    for _ in range(2):
        with ObjectWriter(store, key, metadata=_metadata(key, sha256, signing_key)) as writer:
            with ChunkDigests(lambda number, digest, chunk: writer.write(chunk)) as digests:
                content.copy_to(digests.write)
                found = digests.artifact("model", "object").sha256
            if found == sha256:
                writer.complete()
                break
        pieces: list[bytes] = []
        content.copy_to(pieces.append)
        content = InMemory(b"".join(pieces))
        sha256 = _sha256(content)
    return sha256


def _sha256(content: Content) -> str:
    with ChunkDigests() as digests:
        content.copy_to(digests.write)
        return digests.artifact("model", "object").sha256


def _metadata(key: str, sha256: str, signing_key: str) -> dict[str, str]:
    metadata = {"sha256": sha256}
    if signing_key:
        statement = signatures.object_statement(key, sha256)
        metadata["signature"] = signatures.sign(statement, signing_key).strip()
    return metadata
