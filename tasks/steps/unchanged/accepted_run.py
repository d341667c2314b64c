"""Finds the accepted run from which a job carries scores, and reads which parts it has.

Scores are carried only if scoring the row again would give the same bits. The fingerprint of a job is a digest of
everything on which a score depends besides the row itself: the model version, its outputs, the types of the columns,
the rules of rows and the versions of the libraries. It seeds the hashes of rows, so that the scores of a run with
another fingerprint are never found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, InputError, ObjectNotFound, PreconditionFailed
from scoreline.storage.hashing import sha256_hex
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import library_versions
from scoreline.storage.models.row_order import ORDERLY
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.schemas import from_text
from scoreline.storage.typed_json import MALFORMED, convert
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.object_lines import lines_of
from scoreline.tasks.job.plan import CarryOver, Columns
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.published import read_manifest_head
from scoreline.tasks.scoring.score import Scored
from scoreline.tasks.scoring.settled_types import describe_types
from scoreline.tasks.steps.unchanged.row_hashes import NoHash, RowHasher
from scoreline.tasks.steps.unchanged.stored_scores import sketched

MAX_MANIFEST_BYTES = 64 << 20
"""Each process reads the manifest of the accepted run once. One of 100,000 parts has some 60 MB."""
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class AcceptedParts:
    """The scores of the parts of the accepted run, as its manifest names them."""

    digests: Sequence[str]
    """The digest of the scores of each part; empty if the part has none."""
    hashes: Any = field(repr=False)
    """The hashes in the sketches of all parts, in order: ndarray of uint64."""
    numbers: Any = field(repr=False)
    """The part of each of them: ndarray of int64."""

    @classmethod
    def of(cls, parts: Iterable[tuple[str, str]]) -> AcceptedParts:
        """Return the parts with these digests and sketches."""
        parts = list(parts)
        sketches = [sketched(sketch) for _, sketch in parts]
        hashes = np.concatenate([np.empty(0, np.uint64), *sketches])
        numbers = np.repeat(np.arange(len(parts)), [len(sketch) for sketch in sketches])
        order = np.argsort(hashes, kind="stable")
        return cls(digests=[digest for digest, _ in parts], hashes=hashes[order], numbers=numbers[order])

    def parts_of(self, hi: Any) -> list[int]:
        """Return the parts that share hashes with a batch, those that share most first."""
        if not len(self.hashes):
            return []
        wanted = np.sort(hi[hi <= self.hashes[-1]])
        if not len(wanted):
            return []
        places = np.searchsorted(wanted, self.hashes)
        places[places == len(wanted)] = 0
        numbers, counts = np.unique(self.numbers[wanted[places] == self.hashes], return_counts=True)
        return [int(number) for number in numbers[np.argsort(-counts, kind="stable")]]


def outputs_of(columns: Columns) -> pa.Schema:
    """Return the columns of the results that the model computes."""
    return pa.schema([field for field in from_text(columns.schema) if field.name not in columns.keep])


@cache
def environment_of() -> str:
    """Return a digest of the versions of all libraries that may compute a score (see `Bundle.may_be_tried`)."""
    versions = library_versions()
    for package in (*ORDERLY - {"sklearn", "contextlib"}, "scikit-learn", "pyarrow"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return sha256_hex(json.dumps(versions, sort_keys=True).encode())[:32]


def carry_over(
    buckets: Buckets, job: Job, columns: Columns, bundle: Bundle, score: Callable[[pa.RecordBatch], Scored], rows: Any
) -> CarryOver:
    """Decide from which run a job carries scores, if from any.

    Parameters
    ----------
    columns : Columns
        The columns of the plan, with the schema of the results.
    score : callable
        Scores rows as a part would.
    rows : pyarrow.RecordBatch
        Rows of the input. They show whether the score of a row depends on the other rows.

    Raises
    ------
    InputError
        The key is not among the columns that are read.
    """
    key = job.spec.key or ()
    if lost := [name for name in key if name not in columns.names]:
        raise InputError(
            f"the key {', '.join(map(repr, lost))} is neither a feature nor a kept column: keep it (--keep), or name "
            "another --key"
        )
    hashed = tuple(dict.fromkeys((*key, *columns.features, *(rule.column for rule in columns.rules))))
    reads, environment = from_text(columns.reads), environment_of()
    depends = {
        "format": _FORMAT,
        "model": job.model.manifest_sha256,
        "method": job.spec.method,
        "features": columns.features,
        "frames": columns.frames,
        "hashed": [[name, str(reads.field(name).type)] for name in hashed],
        "scored_as": describe_types(reads, columns.features),  # beside a null, integers are scored as floats
        "outputs": [[field.name, str(field.type)] for field in outputs_of(columns)],
        "rules": [asdict(rule) for rule in columns.rules],
        "environment": environment,
    }
    fingerprint = sha256_hex(json.dumps(depends, sort_keys=True, default=str).encode())
    found = CarryOver(fingerprint=fingerprint, environment=environment, hashed=hashed)
    try:
        RowHasher(hashed, fingerprint).check(pa.schema([reads.field(name) for name in hashed]))
    except NoHash as error:
        return replace(
            found, fingerprint="", why_not=f"a feature, the key or a rule is {error.kind}, and is not compared"
        )
    if bundle.calls_own_code:
        why = "the model uses code of another library or of your own, and nothing shows whether that code has changed"
        return replace(found, fingerprint="", why_not=why)
    if not (bundle.keeps_rows_apart and bundle.may_be_tried and _depend_on_nothing_else(score, rows)):
        why = "the score of a row depends on the other rows that the model scores with it, at least in its last bits"
        return replace(found, fingerprint="", why_not=why)
    return _from_latest(buckets, job, found)


def _from_latest(buckets: Buckets, job: Job, found: CarryOver) -> CarryOver:
    """Add the accepted run of the output, or the reason why there is none to carry from."""
    output = job.spec.output
    try:
        latest, _ = Pointer.of(buckets, output).read()
    except DocumentCorrupt as error:
        return replace(found, why_not=str(error))
    if latest is None or latest.published is None or latest.run is None or latest.job_id == job.spec.job_id:
        return replace(found, why_not=f"no other run of {output} is accepted yet")
    run, results = latest.run, latest.published.results
    if run.model_sha256 != job.model.manifest_sha256:
        return replace(found, why_not=f"the accepted run {run.job_id} has another model version, {run.model}")
    store, folder = _place(buckets, results)
    head = read_manifest_head(store, folder)
    try:
        size = store.head(keys.results_manifest(folder)).size
    except ObjectNotFound:  # the run is being removed
        head = {}
    if not head:
        return replace(found, why_not=f"the manifest of the accepted run {run.job_id} cannot be read")
    before = head.get("carry_fingerprint")
    if before is None:
        return replace(
            found,
            why_not=f"the accepted run {run.job_id} has no scores to carry over, because it was submitted without "
            "--only-changed or had none",
        )
    if before != found.fingerprint:
        return replace(
            found,
            why_not=f"the accepted run {run.job_id} has other outputs, columns, types, rules or library versions",
        )
    if size > MAX_MANIFEST_BYTES:
        return replace(found, why_not=f"the manifest of the accepted run {run.job_id} is too large")
    return replace(found, job_id=run.job_id, results=results, manifest_sha256=latest.published.manifest_sha256)


class AcceptedRuns:
    """Reads the manifests of accepted runs, and keeps the one that was read last."""

    def __init__(self) -> None:
        self._known: tuple[CarryOver, AcceptedParts | None] | None = None

    def parts(self, buckets: Buckets, carry: CarryOver) -> AcceptedParts | None:
        """Return the parts of a run; None if its manifest is gone or differs from the one that was planned."""
        if self._known is None or self._known[0] != carry:
            self._known = (carry, self._read(buckets, carry))
        return self._known[1]

    def _read(self, buckets: Buckets, carry: CarryOver) -> AcceptedParts | None:
        store, folder = _place(buckets, carry.results)
        digest = hashlib.sha256()
        try:
            info = store.head(keys.results_manifest(folder))
            found = AcceptedParts.of(_parts(lines_of(store, info, digest.update)))
        except (ObjectNotFound, PreconditionFailed, *MALFORMED):
            return None
        return found if digest.hexdigest() == carry.manifest_sha256 else None


def _parts(lines: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the digest and the sketch of the scores of each part in a manifest; both are empty if it has none."""
    for line in lines:
        if line.rstrip().endswith(b'"parts": ['):
            break
    for line in lines:
        text = line.strip().rstrip(b",")
        if not text or text.startswith(b"]"):
            continue
        raw = json.loads(text).get("carry") or {"sha256": "", "sketch": ""}
        yield convert(raw.get("sha256"), str, "sha256"), convert(raw.get("sketch"), str, "sketch")


def _place(buckets: Buckets, results: str) -> tuple[ObjectStore, str]:
    bucket, folder = parse_uri(results)
    return buckets[bucket], folder


def scores_of(buckets: Buckets, carry: CarryOver, part: int, sha256: str) -> bytes:
    """Return the stored scores of a part of the accepted run; raises `ObjectNotFound`."""
    store, folder = _place(buckets, carry.results)
    return store.get(keys.carry_part(folder, part, sha256)).data


def _depend_on_nothing_else(score: Callable[[pa.RecordBatch], Scored], rows: pa.RecordBatch) -> bool:
    """Return whether rows get the same bits if they are scored with fewer rows, or at other places of the batch."""
    found = score(rows)
    if len(found.rejected):
        rows = rows.take(pa.array(np.delete(np.arange(rows.num_rows), found.rejected.rows)))
    whole, count = found.table, rows.num_rows
    some: Any = np.sort(np.random.default_rng(0).permutation(count)[: -(-count // 7)])
    for chosen in (some, np.arange(min(5, count // 2), count), some[:1]):
        if not _same_bits(score(rows.take(pa.array(chosen))).table, whole.take(pa.array(chosen))):
            return False
    return bool(count)


def _same_bits(one: pa.Table, other: pa.Table) -> bool:
    if one.num_rows != other.num_rows or one.schema.names != other.schema.names:
        return False
    for left, right in zip(one.columns, other.columns, strict=True):
        if pa.types.is_floating(left.type):
            left, right = (np.asarray(column.to_numpy()) for column in (left, right))
            if left.tobytes() != right.tobytes():
                return False
        elif not left.equals(right):
            return False
    return True
