"""A directory store that counts the bytes of requested ranges."""

from __future__ import annotations

from typing import Any

from scoreline.storage.objects.base import StoredObject
from scoreline.storage.objects.directory import DirectoryStore


class CountingStore(DirectoryStore):
    """Counts the bytes of the ranges that are requested."""

    asked = 0

    def get(self, key: str, *, byte_range: tuple[int, int] | None = None, **options: Any) -> StoredObject:
        if byte_range is not None:
            self.asked += byte_range[1] - byte_range[0]
        return super().get(key, byte_range=byte_range, **options)
