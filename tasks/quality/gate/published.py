"""Finds out what readers need of a run: its files with rows and digests, from its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, InvalidRequest, ObjectNotFound, PreconditionFailed
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import MALFORMED, convert, decode_object
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.job.findings import Checks
from scoreline.tasks.job.object_lines import lines_of
from scoreline.tasks.quality.gate.latest import MAX_FILES, Published, ResultFile

_HEAD_BYTES = 256 << 10
"""The first line of a manifest is read up to this size."""


class RunGone(InvalidRequest):
    """Raised when the results of a run are removed, or being removed, or not complete."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a results manifest says."""

    sha256: str
    files: tuple[ResultFile, ...]
    partition_by: str | None
    arranged: bool
    """Whether the files are arranged from the parts."""


def published(store: ObjectStore, folder: str, checks: Checks | None = None) -> Published:
    """Return what readers need of the run in a folder.

    Raises
    ------
    RunGone
        ``_SUCCESS`` or the manifest is missing.
    DocumentCorrupt
        The manifest is not the one that ``_SUCCESS`` names.
    """
    try:
        with decoding(store, key := keys.success(folder)):
            success = decode_object(store.get(key).data)
            sha256 = convert(success.get("manifest_sha256"), str, "manifest_sha256")
            number = convert(success.get("files", success.get("parts")), int, "parts")
        if number > MAX_FILES:
            return Published(results=store.uri(folder), manifest_sha256=sha256, files=None, checks=checks)
        found = read_manifest(store, folder)
    except ObjectNotFound as error:
        raise RunGone(f"{store.uri(folder)} has no complete results: {error}") from None
    if found.sha256 != sha256:
        raise DocumentCorrupt(
            f"{store.uri(keys.results_manifest(folder))} is not the manifest that {store.uri(keys.success(folder))} "
            "names: submit the job again with another id"
        )
    return Published(
        results=store.uri(folder),
        manifest_sha256=sha256,
        files=found.files,
        partition_by=found.partition_by,
        checks=checks,
    )


def published_of(
    store: ObjectStore,
    folder: str,
    manifest_sha256: str,
    number: int,
    entries: Iterable[Mapping[str, Any]],
    *,
    partition_by: str | None = None,
) -> Published:
    """Return what readers need of the run in a folder, as `published` does, without reading it.

    Parameters
    ----------
    number : int
        Number of files.
    entries : iterable of mapping
        The entries of the files in the manifest, in order.
    """
    results = Published(results=store.uri(folder), manifest_sha256=manifest_sha256, files=None)
    if number > MAX_FILES:
        return results
    files = tuple(_file_of(store, raw) for raw in entries)
    return replace(results, files=files, partition_by=partition_by)


def read_manifest(store: ObjectStore, folder: str) -> Listing:
    """Read the manifest of the results in a folder; raises `ObjectNotFound` or `DocumentCorrupt`."""
    key = keys.results_manifest(folder)
    info, digest = store.head(key), hashlib.sha256()
    files: list[ResultFile] = []
    with decoding(store, key):
        try:
            lines = lines_of(store, info, digest.update)
            start = next(lines, b"").decode()
            arranged = start.rstrip().endswith('"files": [')
            head = json.loads(start + "]}")
            for line in lines:
                if line.startswith(b"]"):
                    break
                if line.strip():
                    files.append(_file_of(store, json.loads(line.rstrip().rstrip(b","))))
            for _ in lines:  # the rest counts for the digest
                pass
            partition_by = convert(head.get("partition_by"), str | None, "partition_by")
        except PreconditionFailed as error:
            raise ObjectNotFound(f"{store.uri(key)} was replaced while it was read") from error
    return Listing(sha256=digest.hexdigest(), files=tuple(files), partition_by=partition_by, arranged=arranged)


def read_manifest_head(store: ObjectStore, folder: str) -> Mapping[str, Any]:
    """Return what the first line of a manifest says, which is everything but the files, with one request.

    The mapping is empty if there is no manifest, or none with a first line that can be read.
    """
    try:
        line = store.get(keys.results_manifest(folder), byte_range=(0, _HEAD_BYTES)).data.partition(b"\n")[0]
        head = json.loads(line.rstrip() + b"]}")
    except (ObjectNotFound, ValueError):
        return {}
    return head if isinstance(head, dict) else {}


def stream_files(store: ObjectStore, folder: str) -> Iterator[ResultFile]:
    """Yield the files that a manifest lists, with one piece of the manifest in memory."""
    key = keys.results_manifest(folder)
    lines = lines_of(store, store.head(key))
    next(lines, b"")
    for line in lines:
        if line.startswith(b"]"):
            return
        if line.strip():
            try:
                yield _file_of(store, json.loads(line.rstrip().rstrip(b",")))
            except MALFORMED as error:
                raise DocumentCorrupt(f"{store.uri(key)} is not what Scoreline writes there: {error}") from error


def _file_of(store: ObjectStore, raw: Mapping[str, Any]) -> ResultFile:
    key = convert(raw.get("key"), str, "key")
    return ResultFile(
        uri=store.uri(key),
        rows=convert(raw.get("rows"), int, "rows"),
        bytes=convert(raw.get("bytes"), int, "bytes"),
        sha256=convert(raw.get("sha256"), str, "sha256"),
        value=convert(raw.get("value"), str | None, "value"),
    )
