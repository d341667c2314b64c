"""Finds the object with the rejected rows of a part; the name of the object contains a digest."""

from __future__ import annotations

from scoreline.storage import keys
from scoreline.storage.objects.base import ObjectStore


def rejected_key(store: ObjectStore, folder: str, part: int = 0) -> str:
    """Return the key of the only object with rejected rows of a part, in a folder with results."""
    (key,) = (info.key for info in store.list(keys.rejected_folder(folder)) if keys.part_number(info.key) == part)
    return key
