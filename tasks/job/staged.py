"""The document that lists the rows of a job that a worker has read from a database: ``staged.json``.

The document is written once, after all files. Files that it does not list belong to an attempt that has not ended, and
are never read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from scoreline.storage import keys
from scoreline.storage.errors import ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import build, decode_object
from scoreline.tasks.job.documents import decoding


@dataclass(frozen=True, kw_only=True)
class StagedFile:
    """A file with rows."""

    key: str
    size: int
    etag: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Staged:
    """The rows that a worker has read from a database: the content of ``staged.json``."""

    source: str
    """The name of the query or the table, such as ``query churn``."""
    at: str
    """When the rows were read, in UTC and ISO 8601."""
    columns: Mapping[str, str]
    """The type of each column in the database."""
    files: tuple[StagedFile, ...]
    sql_sha256: str = ""
    """Digest of the text of the query, which is in no document."""

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(file.rows for file in self.files)

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()


def read_staged(store: ObjectStore, job_id: str) -> Staged | None:
    """Return what a worker has read from a database for a job; None if it has not, or not yet."""
    key = keys.staged(job_id)
    try:
        with decoding(store, key):
            found = build(Staged, decode_object(store.get(key).data))
            if foreign := [file.key for file in found.files if not file.key.startswith(keys.staged_folder(job_id))]:
                raise ValueError(f"it lists {foreign[0]!r}, which is no file of the job")
            return found
    except ObjectNotFound:
        return None
