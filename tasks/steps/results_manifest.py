"""Checks the receipts of a job's parts and writes the manifest, which lists every part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice, zip_longest
from typing import Any

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, ScoringError, StoreUnavailable, describe
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.objects.base import CREATE, IfMatch, ObjectInfo, exists
from scoreline.storage.objects.writer import PART_BYTES, ObjectWriter
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.commits import Commit, read_commit
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.listed_rejects import ListedRejects
from scoreline.tasks.job.object_lines import lines_of
from scoreline.tasks.job.plan import Part
from scoreline.tasks.job.success import encode_success
from scoreline.tasks.scoring.timings import Timings
from scoreline.tasks.steps.result_files import File

_THREADS = 16
MAX_FAILURES = 1_000
"""Maximum number of missing parts whose reasons are kept. All missing parts are counted."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The entry of a part in the manifest, or the reason why the part is missing."""

    rows: int = 0
    rejected: int = 0
    bytes: int = 0
    """Size of the object with the part's results."""
    text: str = ""
    """The entry as a line of JSON."""
    seconds: str = ""
    """Timings of the part, as in its receipt."""
    failure: str = ""
    """Reason why the part is missing; empty if the part exists."""
    broken: bool = False
    """Whether the part was counted, but its objects do not account for all of its rows. It has to be scored again."""
    carried: int = 0
    """Number of rows whose scores were carried over."""
    carry_fault: str = ""
    """Why scores could not be carried over (see `Receipt.carry_fault`)."""
    info: ObjectInfo | None = None
    """The object with the part's results, if it has to be arranged; otherwise None."""


@dataclass(kw_only=True)
class PartTotals:
    """What the parts of a job add up to."""

    rows: int = 0
    rejected: int = 0
    bytes: int = 0
    """Size of the results."""
    complete: int = 0
    """Number of parts that exist."""
    infos: list[ObjectInfo] = field(default_factory=list)
    """Objects of the parts, in order. Empty unless the results still have to be arranged."""
    timings: Timings = field(default_factory=Timings)
    carried: int = 0
    """Number of rows whose scores were carried over."""
    carry_fault: str = ""
    """Why scores could not be carried over, in the first part with such a fault."""
    missing: int = 0
    """Number of parts that are missing."""
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons why parts are missing, by part number. At most `MAX_FAILURES` reasons are kept."""
    broken: set[int] = field(default_factory=set)
    """Numbers of the parts that were counted in the ledger, but are not complete in the bucket."""

    def add(self, number: int, entry: Entry) -> None:
        """Add a part."""
        if entry.failure:
            self.missing += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures[str(number)] = entry.failure
            if entry.broken:
                self.broken.add(number)
            return
        self.complete += 1
        self.timings.add(entry.seconds)
        if entry.info is not None:
            self.infos.append(entry.info)
        self.rows += entry.rows
        self.rejected += entry.rejected
        self.carried += entry.carried
        self.carry_fault = self.carry_fault or entry.carry_fault
        self.bytes += entry.bytes


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
        for left in listed.result().of_part(number) - ({commit.rejects.key} if commit.rejects else set()):
            layout.store.delete(left)
        return entry_of(layout, number, part, commit)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="receipt") as pool:
        listed = pool.submit(ListedRejects, layout)
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
    if scored.carry_sha256:
        entry |= {"carry": {"sha256": scored.carry_sha256, "sketch": scored.carry_sketch}}
    if scored.carried:
        entry |= {"carried": scored.carried}
    return Entry(
        rows=scored.rows,
        rejected=scored.rejected,
        carried=scored.carried,
        carry_fault=scored.carry_fault,
        bytes=commit.info.size,
        text=json.dumps(entry, sort_keys=True, ensure_ascii=False),
        seconds=scored.seconds,
        info=None if layout.keeps_parts else commit.info,
    )


def create_manifest(layout: ResultsLayout, lines: Callable[[], Iterator[str]]) -> str:
    """Write the manifest, unless an equal one exists. Return the digest of the manifest in the store.

    The manifest is written and compared piece by piece, because that of a million parts has 400 MB. Manifests count as
    equal if they differ only in their timings, because timings change if a deleted part is scored again. An existing
    manifest that differs is replaced, unless ``_SUCCESS`` already names it. The manifests differ if a finalizer died
    and a part was scored again afterwards.

    Parameters
    ----------
    lines : callable
        Returns the lines of the manifest (see `manifest_lines`).

    Raises
    ------
    PreconditionFailed
        ``_SUCCESS`` exists and names a different manifest.
    StoreUnavailable
        Another process has replaced the manifest meanwhile. The caller must retry.
    """
    try:
        return _write(layout, lines)
    except PreconditionFailed:
        try:
            existing = layout.store.head(layout.manifest)
            digest = _digest_if_same(layout, existing, lines())
        except ObjectNotFound:
            raise _taken(layout) from None
        if digest is not None:
            return digest
        if exists(layout.store, layout.success):
            raise
    try:
        return _replace(layout, existing, lines)
    except PreconditionFailed:
        raise _taken(layout) from None


def _write(layout: ResultsLayout, lines: Callable[[], Iterator[str]]) -> str:
    """Create the manifest, and return its digest."""
    digest = hashlib.sha256()
    with ObjectWriter(layout.store, layout.manifest, mode=CREATE) as writer:
        for line in lines():
            data = line.encode()
            digest.update(data)
            writer.write(data)
        writer.complete()
    return digest.hexdigest()


def _replace(layout: ResultsLayout, existing: ObjectInfo, lines: Callable[[], Iterator[str]]) -> str:
    """Replace a manifest that has not changed, and return the digest of the new manifest.

    An upload in parts cannot depend on an ETag. A large manifest is therefore deleted before another one is created.
    """
    body = bytearray()
    for line in lines():
        body += line.encode()
        if len(body) > PART_BYTES:
            break
    else:
        layout.store.put(layout.manifest, bytes(body), mode=IfMatch(existing.etag))
        return sha256_hex(bytes(body))
    if layout.store.head(layout.manifest).etag != existing.etag:
        raise _taken(layout)
    layout.store.delete(layout.manifest)
    return _write(layout, lines)


def _taken(layout: ResultsLayout) -> StoreUnavailable:
    return StoreUnavailable(f"{layout.uri(layout.manifest)} was replaced by another process: try again")


def _digest_if_same(layout: ResultsLayout, existing: ObjectInfo, lines: Iterator[str]) -> str | None:
    """Return the digest of an existing manifest; None if it differs from the lines by more than its timings."""
    digest = hashlib.sha256()
    stored = lines_of(layout.store, existing, digest.update)
    pairs = zip_longest(stored, (line.encode() for line in lines), fillvalue=b"")
    try:
        theirs, ours = next(pairs)
        if not _same_head(theirs, ours) or any(one != other for one, other in pairs):
            return None
    except PreconditionFailed:
        raise _taken(layout) from None
    return digest.hexdigest()


def _same_head(one: bytes, other: bytes) -> bool:
    """Return whether the first lines of two manifests differ only in their timings."""
    try:
        first, second = (json.loads(line + b"]}") for line in (one, other))
    except ValueError:
        return False
    return bool(first | {"seconds": None} == second | {"seconds": None})


def manifest_lines(head: Mapping[str, Any], entries: Iterable[str], files: Sequence[File] | None) -> Iterator[str]:
    """Yield the lines of a manifest. It is one JSON document, with a line for each part and for each arranged file.

    Parameters
    ----------
    head : mapping of str to Any
        The fields that describe the whole job.
    entries : iterable of str
        The parts, each as a line of JSON.
    files : sequence of File, optional
        The files into which the parts were arranged (see `JobSpec.arranged`); None if the parts are the results.
    """
    start = json.dumps(head, sort_keys=True, ensure_ascii=False)[:-1]
    if files is not None:
        yield start + ', "files": [\n'
        yield from _separated(json.dumps(asdict(file), sort_keys=True, ensure_ascii=False) for file in files)
        start = "]"
    yield start + ', "parts": [\n'
    yield from _separated(entries)
    yield "]}\n"


def _separated(items: Iterable[str]) -> Iterator[str]:
    """Yield one line for each item, with commas between the items; an empty line if there are no items."""
    last: str | None = None
    for item in items:
        if last is not None:
            yield last + ",\n"
        last = item
    yield (last or "") + "\n"


@dataclass(frozen=True, kw_only=True)
class WrittenManifest:
    """A manifest that is in the bucket."""

    sha256: str
    success: bytes
    """The content of ``_SUCCESS``, which contains the digest of the manifest."""


def write_manifest(
    layout: ResultsLayout,
    documents: Documents,
    totals: PartTotals,
    entries: Callable[[], Iterable[Entry]],
    files: Sequence[File] | None = None,
) -> WrittenManifest:
    """Write the manifest.

    Parameters
    ----------
    entries : callable
        Returns the entries of all parts, in order. It is called again if the manifest exists.
    files : sequence of File, optional
        As for `manifest_lines`.
    """
    job, plan = documents.job, documents.plan
    common = {"job_id": job.spec.job_id, "model": job.model.ref, "rows": totals.rows, "rejected": totals.rejected}
    head = common | {
        "manifest_sha256": job.model.manifest_sha256,
        "warnings": list(plan.warnings),
        "seconds": totals.timings.rounded(3),
    }
    if files is not None:
        head |= {"partition_by": job.spec.partition_by}
    if (carry := plan.columns.carry) is not None:
        head |= {"carried": totals.carried, "carried_from": carry.job_id}
        if carry.fingerprint:
            head |= {"carry_fingerprint": carry.fingerprint}
    digest = create_manifest(layout, lambda: manifest_lines(head, (entry.text for entry in entries()), files))
    success = encode_success(
        job,
        rows=totals.rows,
        rejected=totals.rejected,
        parts=totals.complete,
        manifest_sha256=digest,
        plan_sha256=plan.sha256,
        files=None if files is None else len(files),
    )
    return WrittenManifest(sha256=digest, success=success)
