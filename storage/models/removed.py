"""The tombstone of a removed model version: ``removed.json`` in the folder of the version.

The tombstone is written first and the manifest is deleted next, so that a version is either complete or does not exist.
The files are deleted last. If the removal is interrupted, the tombstone shows that the files without a manifest are not
those of a version that is being published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import MALFORMED, build, decode_object


@dataclass(frozen=True, kw_only=True)
class RemovedVersion:
    """What is left of a removed model version."""

    model: str
    """The ``name@version``."""
    why: str
    at: str
    """Time of the decision to remove the version, in UTC and ISO 8601."""
    manifest_sha256: str
    size: int = 0
    """Number of bytes of the files."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Size of each file in bytes."""
    manifest: str = ""
    """The manifest, so that an interrupted removal can be withdrawn."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()


def read_removed(store: ObjectStore, name: str, version: str) -> RemovedVersion | None:
    """Return the tombstone of a model version; None if it has none that can be read."""
    try:
        return build(RemovedVersion, decode_object(store.get(keys.removed_version(name, version)).data))
    except (ObjectNotFound, *MALFORMED):
        return None
