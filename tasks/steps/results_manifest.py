"""Checks the receipts of a job's parts and writes the manifest, which lists every part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from scoreline.storage import keys
from scoreline.storage.errors import PreconditionFailed, ScoringError, StoreUnavailable, describe
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import IfMatch, ObjectInfo, create_once, exists
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.commits import Commit, read_commit
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Part
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.result_files import File

_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The entry of a part in the manifest, or the reason why the part is missing."""

    rows: int = 0
    rejected: int = 0
    text: str = ""
    """The entry as a line of JSON."""
    seconds: str = ""
    """Timings of the part, as in its receipt."""
    failure: str = ""
    """Reason why the part is missing; empty if the part exists."""
    broken: bool = False
    """Whether the part was counted, but its objects do not account for all of its rows. It has to be scored again."""
    info: ObjectInfo | None = None
    """The object with the part's results; None if there is no such object, or if it does not belong to the job's
    results."""


@dataclass(kw_only=True)
class CheckedParts:
    """The results of checking the parts of a job."""

    rows: int = 0
    rejected: int = 0
    entries: list[str] = field(default_factory=list)
    """Lines of the manifest, one for each part that exists."""
    infos: list[ObjectInfo] = field(default_factory=list)
    """Objects of the parts, in order. Empty unless the results still have to be arranged."""
    timings: Timings = field(default_factory=Timings)
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons why parts are missing, by part number."""
    broken: set[int] = field(default_factory=set)
    """Numbers of the parts that were counted in the ledger, but are not complete in the bucket."""

    def add(self, number: int, entry: Entry, *, keep_info: bool = False) -> None:
        """Add a part. `keep_info` says whether its object still has to be arranged."""
        if entry.failure:
            self.failures[str(number)] = entry.failure
            if entry.broken:
                self.broken.add(number)
            return
        self.entries.append(entry.text)
        self.timings.add(entry.seconds)
        if entry.info is not None and keep_info:
            self.infos.append(entry.info)
        self.rows += entry.rows
        self.rejected += entry.rejected


def check_parts(
    layout: ResultsLayout, documents: Documents, failed: Mapping[int, str], first: int = 0
) -> Iterator[Entry]:
    """Check the receipts of all parts, several at a time, and yield a manifest entry for each part, in order.

    If a part is committed, objects with rejected rows that its receipt does not name are deleted, because attempts that
    did not commit left them behind.

    Parameters
    ----------
    failed : mapping of int to str
        The reasons why parts failed according to the ledger, by part number.
    first : int
        Number of the first part to check.
    """
    listed: dict[int, set[str]] = {}
    for info in layout.store.list(layout.rejected_folder):
        if (number := keys.part_number(info.key)) is not None:
            listed.setdefault(number, set()).add(info.key)

    def check(item: tuple[int, Part]) -> Entry:
        number, part = item
        if number in failed:
            return Entry(failure=failed[number])
        try:
            commit = read_commit(layout, documents.plan.sha256, number, part.rows)
        except ScoringError as error:
            return Entry(failure=describe(error))
        if commit is None:
            return Entry(failure=f"no object {layout.uri(layout.part(number))}", broken=True)
        if commit.fault:
            return Entry(failure=commit.fault, broken=True)
        for left in listed.get(number, set()) - ({commit.rejects.key} if commit.rejects else set()):
            layout.store.delete(left)
        return entry_of(layout, number, part, commit)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="receipt") as pool:
        pending: list[tuple[int, Part]] = []
        for item in islice(enumerate(documents.plan), first, None):
            pending.append(item)
            if len(pending) == 32 * _THREADS:
                yield from pool.map(check, pending)
                pending = []
        yield from pool.map(check, pending)


def entry_of(layout: ResultsLayout, number: int, part: Part, commit: Commit) -> Entry:
    """Return the entry of a committed part."""
    scored = commit.receipt
    source = [{"key": s.key, "etag": s.etag, "first_row": s.scope[0], "rows": s.scope[1]} for s in part.slices]
    # if results are arranged, parts are deleted later, and their keys are useless
    identity: dict[str, Any] = {"key": commit.info.key} if layout.keeps_parts else {"part": number}
    entry = identity | {
        "rows": scored.rows,
        "rejected": scored.rejected,
        "bytes": commit.info.size,
        "sha256": scored.sha256,
        "source": source,
    }
    if commit.rejects is not None:
        entry |= {"rejected_key": commit.rejects.key, "rejected_sha256": commit.rejects.metadata["sha256"]}
    return Entry(
        rows=scored.rows,
        rejected=scored.rejected,
        text=json.dumps(entry, sort_keys=True, ensure_ascii=False),
        seconds=scored.seconds,
        info=commit.info,
    )


def create_manifest(layout: ResultsLayout, body: bytes) -> bytes:
    """Write the manifest, unless an equal one exists. Return the manifest in the store.

    Manifests count as equal if they differ only in their timings, because timings change if a deleted part is scored
    again. An existing manifest that differs is replaced, unless ``_SUCCESS`` already names it. The manifests differ if
    a finalizer died and a part was scored again afterwards.

    Raises
    ------
    PreconditionFailed
        ``_SUCCESS`` exists and names a different manifest.
    StoreUnavailable
        Another process has replaced the manifest meanwhile. The caller must retry.
    """
    store, key = layout.store, layout.manifest
    try:
        create_once(store, key, body)
    except PreconditionFailed:
        existing = store.get(key)
        with decoding(store, key):
            one, other = json.loads(existing.data), json.loads(body)
            same = one | {"seconds": None} == other | {"seconds": None}
        if same:
            return existing.data
        if exists(store, layout.success):
            raise
        try:
            store.put(key, body, mode=IfMatch(existing.info.etag))
        except PreconditionFailed:
            raise StoreUnavailable(f"{store.uri(key)} was replaced by another process: try again") from None
    return body


def encode_manifest(head: Mapping[str, Any], entries: Sequence[str], files: Sequence[File] | None) -> bytes:
    """Return a manifest as one JSON document, with a line for each part and for each arranged file.

    Parameters
    ----------
    head : mapping of str to Any
        The fields that describe the whole job.
    entries : sequence of str
        The parts, each as a line of JSON.
    files : sequence of File, optional
        The files into which the parts were arranged (see `JobSpec.arranged`); None if the parts are the results.
    """
    start = json.dumps(head, sort_keys=True, ensure_ascii=False)[:-1]
    if files is not None:
        lines = [json.dumps(asdict(file), sort_keys=True, ensure_ascii=False) for file in files]
        start += ', "files": [\n' + ",\n".join(lines) + "\n]"
    return (start + ', "parts": [\n' + ",\n".join(entries) + "\n]}\n").encode()


def write_manifest(
    layout: ResultsLayout, documents: Documents, parts: CheckedParts, files: Sequence[File] | None = None
) -> bytes:
    """Write the manifest. Return the content of ``_SUCCESS``, which contains the digest of the manifest."""
    job, plan = documents.job, documents.plan
    common = {"job_id": job.spec.job_id, "model": job.model.ref, "rows": parts.rows, "rejected": parts.rejected}
    head = common | {
        "manifest_sha256": job.model.manifest_sha256,
        "warnings": list(plan.warnings),
        "seconds": parts.timings.rounded(3),
    }
    success = common | {"parts": len(parts.entries)}
    if files is not None:
        head |= {"partition_by": job.spec.partition_by}
        success |= {"plan": plan.sha256, "files": len(files)}
    body = create_manifest(layout, encode_manifest(head, parts.entries, files))
    return json.dumps(success | {"manifest_sha256": sha256_hex(body)}, sort_keys=True).encode()
