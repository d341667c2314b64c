"""Finds the input row from which a row of a result file was scored.

The rows of a part are those of its slices, in order, without the rows that were rejected. The plan has the slices, and
the receipt of the part names the rejected rows. If the documents of the job are gone, the footer of the file still has
the slices, which is enough if no row of the part was rejected.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scoreline.storage.errors import ObjectNotFound, PreconditionFailed, ResultsDamaged, ScoringError
from scoreline.storage.objects.base import ObjectInfo
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.parquet import read_table
from scoreline.storage.wording import plural
from scoreline.tasks.job.commits import find_rejects
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.object_lines import lines_of
from scoreline.tasks.job.plan import Slice
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.receipt import Receipt
from scoreline.tasks.quality.results.opened_results import ResultFile
from scoreline.tasks.quality.trace.row_origins import FIELD, origin_of
from scoreline.tasks.rejects.table import REJECTION_FIELDS, rejection_columns


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The input row of a result."""

    part: int | None
    """The part that scored the row; None if it is not known."""
    uri: str
    """The object; without its bucket if only the footer of the file is left. Empty if it is not known."""
    etag: str = ""
    row: int | None = None
    """Number of the row within the object, from 0; None if it is not known."""
    note: str = ""
    """Why something is not known."""
    piece: Slice | None = None
    """The slice that contains the row, if the plan is at hand."""


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The documents of the job that wrote a result file."""

    job: Job
    plan: PlanFile
    layout: ResultsLayout


def origin_in_rejects(file: ResultFile, values: Mapping[str, Any], documents: JobPlan | None) -> Origin:
    """Return the origin of a rejected row, whose values say where it comes from."""
    source, number = (values[name] for name in file.columns[-len(REJECTION_FIELDS) :][:2])
    uri, row, part = str(source), int(number), file.footer.part
    if documents is not None and part is not None:
        for piece in documents.plan.part(part).slices:
            if piece.uri == uri and _contains(piece, row):
                return Origin(part=part, uri=uri, etag=piece.etag, row=row, piece=piece)
    etags = {etag for key, etag, _, _ in file.footer.source if uri.endswith(f"/{key}")}
    return Origin(part=part, uri=uri, etag=etags.pop() if len(etags) == 1 else "", row=row)


def origin_in_results(file: ResultFile, row: int, documents: JobPlan | None) -> Origin:
    """Return the origin of a scored row.

    Raises
    ------
    ResultsDamaged
        The file does not have the rows that its job recorded.
    """
    part, scored = file.footer.part, row
    if part is None:
        located = _in_arranged(file, row, documents)
        if isinstance(located, Origin):
            return located
        part, scored = located
    if documents is None:
        return _from_footer(file, part, scored)
    slices = documents.plan.part(part).slices
    planned = sum(piece.count for piece in slices)
    rejects = _rejects_of(documents, part)
    if rejects is None:  # the results are gone, so that no receipt says which rows were rejected
        if file.footer.part is None or planned != file.rows:
            return _among(part, slices, "the results of the job are gone, which say which of its rows were rejected")
        rejects = {}
    bad = sum(len(numbers) for numbers in rejects.values())
    if file.footer.part is not None and planned - bad != file.rows:
        raise ResultsDamaged(
            f"{file.name} has {plural(file.rows, 'row')}, but its job scored {planned - bad:,} rows in part {part}: "
            "take the file that the job wrote"
        )
    for piece in slices:
        numbers = range(piece.first_row, piece.first_row + piece.rows) if piece.only is None else piece.only
        rejected = _within(rejects.get(piece.uri, ()), numbers)
        if scored < len(numbers) - len(rejected):
            found = numbers[scored] if not rejected else _without(numbers, rejected)[scored]
            return Origin(part=part, uri=piece.uri, etag=piece.etag, row=int(found), piece=piece)
        scored -= len(numbers) - len(rejected)
    raise ResultsDamaged(f"{file.name} has more rows than its job scored in part {part}: take the file of the job")


def _from_footer(file: ResultFile, part: int, scored: int) -> Origin:
    """Return the origin as far as the footer alone says it."""
    if file.footer.part is None:
        return Origin(part=part, uri="", note="the documents of the job are gone, which list the objects of its parts")
    source = file.footer.source
    if sum(rows for _, _, _, rows in source) != file.rows:
        keys = sorted({key for key, _, _, _ in source})
        return Origin(
            part=part,
            uri=keys[0] if len(keys) == 1 else "",
            etag=source[0][1] if len(keys) == 1 else "",
            note="the documents of the job are gone, which say which rows of the part were rejected",
        )
    for key, etag, first_row, rows in source:
        if scored < rows:
            return Origin(part=part, uri=key, etag=etag, row=first_row + scored)
        scored -= rows
    return Origin(part=part, uri="", note="the footer of the file does not list the objects of the part")


def _in_arranged(file: ResultFile, row: int, documents: JobPlan | None) -> tuple[int, int] | Origin:
    """Return the part of a row of an arranged file, and its number among the scored rows of the part."""
    text = file.footer.metadata.get(FIELD)
    if text is not None:
        try:
            return origin_of(text, row)
        except ValueError as error:
            raise ResultsDamaged(f"{file.name} is damaged: {error}") from None
    note = "an earlier release arranged this file, and did not record where its rows come from"
    if documents is None or documents.job.spec.partition_by is not None:
        return Origin(part=None, uri="", note=note)
    number = file.footer.metadata.get("scoreline.file", "")  # gathered files have the rows of the parts in order
    before = row
    with contextlib.suppress(ObjectNotFound, PreconditionFailed):
        for entry in _manifest_entries(documents.layout):
            if "rejected" not in entry:
                before += entry["rows"] if _number_of(entry["key"]) < int(number or 0) else 0
            elif before < entry["rows"]:
                return entry["part"], before
            else:
                before -= entry["rows"]
    return Origin(part=None, uri="", note=f"{note}; the manifest of the job is gone")


def _rejects_of(documents: JobPlan, part: int) -> Mapping[str, Sequence[int]] | None:
    """Return the numbers of the rejected rows of a part by object, sorted; None if it is not known any more."""
    layout, plan = documents.layout, documents.plan
    try:
        info = layout.store.head(layout.part(part))
    except ObjectNotFound:
        found = None if layout.keeps_parts else _rejects_in_manifest(layout, part)
        return None if found is None else _numbers_in(layout, found, plan)
    uri = layout.uri(info.key)
    try:
        receipt = Receipt.from_metadata(info.metadata, uri).check(plan.sha256, part, uri)
    except ScoringError:
        raise ResultsDamaged(f"{uri} was written by another job with the same id: it cannot be traced") from None
    rejects = find_rejects(layout, receipt)
    if receipt.rejected and rejects is None:
        return None
    return _numbers_in(layout, () if rejects is None else (rejects,), plan)


def _rejects_in_manifest(layout: ResultsLayout, part: int) -> tuple[ObjectInfo, ...] | None:
    """Return the object with the rejected rows of a part whose results were arranged; None if it is gone."""
    with contextlib.suppress(ObjectNotFound, PreconditionFailed):
        for entry in _manifest_entries(layout):
            if entry.get("part") == part:
                return (layout.store.head(entry["rejected_key"]),) if entry["rejected"] else ()
    return None


def _manifest_entries(layout: ResultsLayout) -> Iterator[dict[str, Any]]:
    """Yield the entries of a manifest: the files, and then the parts."""
    for line in lines_of(layout.store, layout.store.head(layout.manifest)):
        if line.startswith(b'{"') and b'"rows"' in line and not line.rstrip().endswith(b"["):
            yield json.loads(line.rstrip().rstrip(b","))


def _numbers_in(layout: ResultsLayout, rejects: Sequence[ObjectInfo], plan: PlanFile) -> dict[str, list[int]]:
    names = rejection_columns(plan.columns.names)
    found: dict[str, list[int]] = {}
    for info in rejects:
        table = read_table(Pinned.of(layout.store, info))
        for source, row in zip(table[names["source"]].to_pylist(), table[names["row"]].to_pylist(), strict=True):
            found.setdefault(source, []).append(row)
    return {source: sorted(numbers) for source, numbers in found.items()}


def _among(part: int, slices: Sequence[Slice], note: str) -> Origin:
    """Return what is known of a row if it may be any row of a part."""
    objects = {(piece.uri, piece.etag) for piece in slices}
    found = Origin(part=part, uri="", note=note)
    if len(objects) > 1:
        return found
    ((uri, etag),) = objects
    return replace(found, uri=uri, etag=etag)


def _number_of(key: str) -> int:
    """Return the number of an arranged file in its key."""
    digits = key.removesuffix(".parquet").rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _contains(piece: Slice, row: int) -> bool:
    if piece.only is None:
        return piece.first_row <= row < piece.first_row + piece.rows
    return bool(_within([row], piece.only))


def _within(rows: Sequence[int], numbers: Sequence[int]) -> Sequence[int]:
    """Return those of some sorted rows that a range or a sorted tuple contains."""
    if isinstance(numbers, range):
        return rows[bisect_left(rows, numbers.start) : bisect_left(rows, numbers.stop)]
    known = set(numbers)
    return [row for row in rows if row in known]


def _without(numbers: Sequence[int], rejected: Sequence[int]) -> Any:
    return np.setdiff1d(np.array(numbers), np.array(rejected), assume_unique=True)
