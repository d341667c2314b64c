"""Writes the files into which the results of a job are partitioned or gathered.

Each file is written once, with a receipt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, ScoringError, StoreUnavailable
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import CREATE, ObjectInfo
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.layout import ResultsLayout

log = logging.getLogger(__name__)

_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class File:
    """A file with partitioned or gathered results, as the manifest lists it."""

    key: str
    rows: int
    bytes: int
    sha256: str
    value: str | None
    """The value of the partition column as text; None if it is null, or if there is no such column."""


class ResultFiles:
    """The files into which the results of one job are partitioned or gathered.

    The receipt of a file contains a combined digest of all parts. This digest shows whether a file was made from the
    same parts.

    Parameters
    ----------
    written : sequence of ObjectInfo
        The parts in order, with their receipts.
    """

    def __init__(self, layout: ResultsLayout, documents: Documents, written: Sequence[ObjectInfo]) -> None:
        self._layout, self._store = layout, layout.store
        self._job_id, self._plan_sha256 = documents.job.spec.job_id, documents.plan.sha256
        self._parts_digest = sha256_hex(json.dumps([info.metadata["sha256"] for info in written]).encode())
        self._existing = self._find_existing()

    def exists(self, key: str) -> bool:
        """Return whether an earlier attempt has already written a file from the same parts."""
        return key in self._existing

    def write(self, key: str, number: int, rows: int, body: bytes) -> ObjectInfo:
        """Write a file, unless it exists.

        Parameters
        ----------
        number : int
            Number of the file within its folder, from 0.
        body : bytes
            The whole file; ignored if the file exists.

        Raises
        ------
        ScoringError
            An object with other rows exists at the same key.
        StoreUnavailable
            The store refused to create the object, although it does not exist. The caller must retry.
        """
        if (existing := self._existing.get(key)) is not None:
            if int(existing.metadata["rows"]) != rows:
                raise ScoringError(
                    f"{self._store.uri(key)} does not hold the rows of its parts: remove it, then resume the job"
                )
            return existing
        receipt = {
            "plan": self._plan_sha256,
            "file": str(number),
            "rows": str(rows),
            "parts": self._parts_digest,
            "sha256": sha256_hex(body),
        }
        try:
            info = self._store.put(key, body, mode=CREATE, metadata=receipt)
        except PreconditionFailed:
            other = self._head(key)
            if other is None:  # the write failed for another reason, or the object was deleted meanwhile
                raise StoreUnavailable(
                    f"{self._store.uri(key)} could not be created, but does not exist: try again"
                ) from None
            if {**other.metadata, "sha256": ""} != {**receipt, "sha256": ""}:  # library versions change digests
                raise ScoringError(
                    f"{self._store.uri(key)} exists already and was not written by this job: remove it, then resume "
                    f"the job. All results can be read as {self._layout.uri(self._layout.parts_folder)}part-*.parquet"
                ) from None
            info = other
        log.info("file.written", extra={"job_id": self._job_id, "key": key, "rows": rows})
        return info

    def _find_existing(self) -> dict[str, ObjectInfo]:
        """Find the existing files of this job, and delete all files that were made from other versions of its parts.

        A part can change after files were made from it: if a user deletes the part, it is scored again.
        """
        folder = self._layout.folder
        keys = {
            info.key
            for info in self._store.list(folder)
            if not info.key.removeprefix(folder).startswith("_") and info.key.endswith(".parquet")
        }
        existing = {}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="receipt") as pool:
            for info in pool.map(self._head, sorted(keys)):
                if info is None or info.metadata.get("plan") != self._plan_sha256:
                    continue
                if info.metadata.get("parts") == self._parts_digest:
                    existing[info.key] = info
                else:
                    self._store.delete(info.key)
        return existing

    def _head(self, key: str) -> ObjectInfo | None:
        try:
            return self._store.head(key)
        except ObjectNotFound:
            return None
