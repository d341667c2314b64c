"""Checks the receipts of a job's parts and writes the manifest, which lists every part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, ScoringError, describe
from scoreline.storage.objects.base import ObjectInfo, ObjectStore, create_once
from scoreline.storage.wording import plural
from scoreline.tasks.dispatch.dispatcher import Documents
from scoreline.tasks.job.documents import decoding
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Part
from scoreline.tasks.job.receipt import Receipt
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
    """Reason why the part is missing; empty if it exists."""
    info: ObjectInfo | None = None
    """The object with the part's results; None if the part is missing."""


def check_parts(layout: ResultsLayout, documents: Documents, failed: Mapping[int, str]) -> Iterator[Entry]:
    """Check the receipts of all parts, many at a time, and yield an entry for each part, in order.

    Parameters
    ----------
    failed : mapping of int to str
        Reasons of the failed parts according to the ledger, by part number.
    """
    with_rejects = {info.key for info in layout.store.list(layout.rejected_folder)}

    def check(item: tuple[int, Part]) -> Entry:
        number, part = item
        if number in failed:
            return Entry(failure=failed[number])
        return _check_part(layout, documents.plan.sha256, number, part, with_rejects)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="receipt") as pool:
        pending: list[tuple[int, Part]] = []
        for item in enumerate(documents.plan):
            pending.append(item)
            if len(pending) == 32 * _THREADS:
                yield from pool.map(check, pending)
                pending = []
        yield from pool.map(check, pending)


def _check_part(layout: ResultsLayout, plan_sha256: str, number: int, part: Part, with_rejects: set[str]) -> Entry:
    """Check the receipts of a part's results and rejected rows, and return its entry."""
    store, key = layout.store, layout.part(number)
    current, former = layout.rejected_part(number), layout.former_rejected_part(number)
    rejects_key = former if former in with_rejects and current not in with_rejects else current

    def receipt_of(info: ObjectInfo) -> Receipt:
        uri = store.uri(info.key)
        return Receipt.from_metadata(info.metadata, uri).check(plan_sha256, number, uri)

    try:
        info = store.head(key)
        scored = receipt_of(info)
        if scored.rows + scored.rejected != part.rows:
            raise ScoringError(
                f"planned with {plural(part.rows, 'row')}, but {scored.rows} were scored and {scored.rejected} "
                f"rejected: remove {store.uri(key)}, then resume the job"
            )
        if scored.rejected:
            rejects = receipt_of(store.head(rejects_key))
            if (rejects.rows, rejects.rejected) != (scored.rows, scored.rejected):
                raise ScoringError(
                    f"{store.uri(rejects_key)} does not hold the rows that were rejected when {store.uri(key)} was "
                    "scored: remove both, then resume the job"
                )
        for left in {current, former} & with_rejects - ({rejects_key} if scored.rejected else set()):
            store.delete(left)  # written by an earlier attempt that died before its commit
    except (ObjectNotFound, ScoringError) as error:
        return Entry(failure=describe(error))
    source = [{"key": s.key, "etag": s.etag, "first_row": s.scope[0], "rows": s.scope[1]} for s in part.slices]
    identity: dict[str, Any] = {"key": key} if layout.keeps_parts else {"part": number}  # arranged parts are deleted
    entry = identity | {
        "rows": scored.rows,
        "rejected": scored.rejected,
        "bytes": info.size,
        "sha256": scored.sha256,
        "source": source,
    }
    if scored.rejected:
        entry |= {"rejected_key": rejects_key, "rejected_sha256": rejects.sha256}
    return Entry(
        rows=scored.rows,
        rejected=scored.rejected,
        text=json.dumps(entry, sort_keys=True, ensure_ascii=False),
        seconds=scored.seconds,
        info=info,
    )


def create_manifest(store: ObjectStore, key: str, body: bytes) -> bytes:
    """Write a manifest, unless an equal one exists. Return the manifest in the store.

    Manifests are equal if they differ only in their timings, which change if a deleted part is scored again.

    Raises
    ------
    PreconditionFailed
        A manifest of other results exists.
    """
    try:
        create_once(store, key, body)
    except PreconditionFailed:
        existing = store.get(key).data
        with decoding(store, key):
            one, other = json.loads(existing), json.loads(body)
            same = one | {"seconds": None} == other | {"seconds": None}
        if not same:
            raise
        return existing
    return body


def encode_manifest(head: Mapping[str, Any], entries: Sequence[str], files: Sequence[File] | None) -> bytes:
    """Return a manifest as one JSON document, with a line for each part and for each file of arranged results.

    Parameters
    ----------
    head : mapping of str to Any
        The fields that describe the whole job.
    entries : sequence of str
        The parts, each as a line of JSON.
    files : sequence of File, optional
        The files of arranged results; None if the parts are the results.
    """
    start = json.dumps(head, sort_keys=True, ensure_ascii=False)[:-1]
    if files is not None:
        lines = [json.dumps(asdict(file), sort_keys=True, ensure_ascii=False) for file in files]
        start += ', "files": [\n' + ",\n".join(lines) + "\n]"
    return (start + ', "parts": [\n' + ",\n".join(entries) + "\n]}\n").encode()
