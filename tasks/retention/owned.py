"""Finds the objects that belong to the results of one job.

Deployments with different main buckets may share an output, and may use the same job id there. Objects with the receipt
of another job are therefore left alone, even in the folder ``job_id=<job id>/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, ObjectNotFound
from scoreline.storage.objects.base import ObjectInfo, ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.typed_json import MALFORMED, decode_object
from scoreline.tasks.job.documents import WITH_RESULTS, Outcome
from scoreline.tasks.job.uris import parse_uri

_THREADS = 16
_JOB_FOLDER = "job_id="


class ForeignResults(InvalidRequest):
    """Raised when the folder of a job contains the results of another job."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The objects of a job's results."""

    store: ObjectStore
    folder: str
    objects: tuple[ObjectInfo, ...] = ()
    manifest_sha256: str = ""
    """Digest of the results manifest, according to ``_SUCCESS``."""

    def delete(self) -> None:
        """Delete the objects, ``_SUCCESS`` and then the manifest first, so that no reader takes the rest for complete.

        Only keys in the folder are deleted.
        """
        own = [info.key for info in self.objects if info.key.startswith(self.folder)]
        first = [key for key in (keys.success(self.folder), keys.results_manifest(self.folder)) if key in own]
        for key in first:
            self.store.delete(key)
        self.store.delete_many([key for key in own if key not in first])


def find_results(
    buckets: Buckets, output: str, job_id: str, plan_sha256: str, state: str, outcome: Outcome | None = None
) -> Results:
    """Return the objects of a job's results.

    Parameters
    ----------
    plan_sha256 : str
        Digest of the plan, which is in the receipt of each object. If it is empty, the job has written no results.
    outcome : Outcome, optional
        The outcome of the job. If it is complete, and ``_SUCCESS`` and the receipt of the first part agree with it, the
        finalizer has compared the receipts of all parts with the plan. Otherwise the receipt of each object is read.

    Raises
    ------
    BucketNotAllowed
        The results are in a bucket that is not in ALLOWED_BUCKETS.
    ForeignResults
        ``_SUCCESS`` in the folder belongs to another job.
    """
    bucket, prefix = parse_uri(output)
    store, folder = buckets[bucket], keys.output_folder(prefix, job_id)
    if not plan_sha256:
        return Results(store=store, folder=folder)
    success = _read_success(store, folder)
    listed = [info for info in store.list(folder) if info.key.startswith(folder)]

    def has_own_receipt(key: str) -> bool:
        # Release 0.1.0 let other jobs write into this folder, where their _SUCCESS and manifest have no receipt
        without_receipt = "" if f"/{_JOB_FOLDER}" in f"/{key.removeprefix(folder)}" else plan_sha256
        try:
            return store.head(key).metadata.get("plan", without_receipt) == plan_sha256
        except ObjectNotFound:
            return False

    # The finalizer that wrote _manifest.json and _SUCCESS has checked the receipts of all parts
    first = min((info.key for info in listed if _part_number(info.key, folder) is not None), default=None)
    own_marks = first is None or has_own_receipt(first)
    if success is not None and (
        not own_marks
        or state not in WITH_RESULTS
        or (outcome is not None and (success.get("rows"), success.get("rejected")) != (outcome.rows, outcome.rejected))
        or success.get("job_id", job_id) != job_id
        or success.get("plan", plan_sha256) != plan_sha256
    ):
        raise ForeignResults(f"{store.uri(keys.success(folder))} belongs to another job with the same id")
    checked = outcome.parts if outcome is not None and success is not None and "plan" not in success else 0

    def is_own(info: ObjectInfo) -> bool:
        if info.key in (keys.success(folder), keys.results_manifest(folder)):
            return own_marks
        number = _part_number(info.key, folder)
        return (number is not None and number < checked) or has_own_receipt(info.key)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="retention") as pool:
        own = [info for info, mine in zip(listed, pool.map(is_own, listed), strict=True) if mine]
    digest = success.get("manifest_sha256") if success is not None else ""
    return Results(store=store, folder=folder, objects=tuple(own), manifest_sha256=str(digest or ""))


def _part_number(key: str, folder: str) -> int | None:
    """Return the number of a part that is directly in the folder of a job; None for any other key."""
    name = key.removeprefix(folder)
    return None if "/" in name else keys.part_number(f"/{name}")


def _read_success(store: ObjectStore, folder: str) -> Mapping[str, Any] | None:
    """Return ``_SUCCESS``, or None if there is none. A malformed one is that of no job."""
    try:
        return decode_object(store.get(keys.success(folder)).data)
    except ObjectNotFound:
        return None
    except MALFORMED:
        return {"job_id": None}
