"""Stores all objects of a bucket in one file, and writes them back into another bucket.

The file is a tar archive with one member for each object. A member contains the bytes of an object. The extended header
of the member contains the key and the metadata.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

from scoreline.storage.objects.base import ObjectStore

_KEY, _METADATA = "SCORELINE.key", "SCORELINE.metadata"


def save(store: ObjectStore, path: Path) -> int:
    """Write all objects of a store to a file. An existing file is replaced at the end. Return the number of objects."""
    new, count = path.with_suffix(".new"), 0
    with tarfile.open(new, "w", format=tarfile.PAX_FORMAT) as archive:
        for info in store.list(""):
            stored = store.get(info.key)
            member = tarfile.TarInfo(f"{count:08d}")
            member.size = len(stored.data)
            member.pax_headers = {_KEY: info.key, _METADATA: json.dumps(dict(stored.info.metadata))}
            archive.addfile(member, io.BytesIO(stored.data))
            count += 1
    os.replace(new, path)
    return count


def restore(store: ObjectStore, path: Path) -> int:
    """Write all objects that a file contains to a store. Return the number of objects; 0 if there is no such file."""
    if not path.exists():
        return 0
    count = 0
    with tarfile.open(path) as archive:
        for member in archive:
            body = archive.extractfile(member)
            assert body is not None
            metadata = json.loads(member.pax_headers[_METADATA])
            store.put(member.pax_headers[_KEY], body.read(), metadata=metadata)
            count += 1
    return count
