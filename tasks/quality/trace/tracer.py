"""Traces a row of a result file back to its input row, its job, its model version, and who accepted it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import (
    BucketNotAllowed,
    InputChanged,
    InvalidRequest,
    JobNotFound,
    JobRemoved,
    ObjectNotFound,
    ResultsDamaged,
    ScorelineError,
    describe,
)
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.buckets import Buckets
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.formats import Tables
from scoreline.storage.tables.schemas import from_text
from scoreline.tasks.inputs.hive_partitions import folder_values
from scoreline.tasks.job.documents import read_job
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan import Slice
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.quality.results.opened_results import ResultFile, open_result
from scoreline.tasks.quality.trace.input_rows import JobPlan, Origin, origin_in_rejects, origin_in_results
from scoreline.tasks.quality.trace.lineage import (
    InputState,
    Lineage,
    ModelLineage,
    libraries_in,
    lineage_of,
    model_lineage,
    state_of_input,
)
from scoreline.tasks.quality.trace.result_uris import files_of
from scoreline.tasks.rejects.json_values import to_json_value

MAX_FOUND = 20
"""Maximum number of rows that are traced for one key."""
_DIGEST = "scoreline.manifest_sha256"
_BATCH_ROWS = 65_536

Copy = Literal["", "as written", "other"]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Where one row of a result file comes from."""

    file: str
    """The URI or the path of the file."""
    row: int
    """Number of the row in the file, from 0."""
    rejected: bool
    """Whether it is a rejected row, and not a result."""
    values: Mapping[str, Any]
    """The values of the row in the file."""
    copy: Copy
    """Whether a file on this computer is the one that the job wrote; empty if that is not known."""
    job_id: str
    part: int | None
    """The part that scored the row; None if it is not known."""
    input: str
    """URI of the object; without its bucket, or empty, if the documents of the job are gone."""
    etag: str
    input_row: int | None
    """Number of the row in the object, from 0; None if it is not known."""
    input_state: InputState
    model: ModelLineage
    libraries: Mapping[str, str]
    """The libraries that scored the part."""
    lineage: Lineage | None
    """The lineage of the job, without its objects; None if the documents of the job are gone."""
    notes: Sequence[str] = ()
    """What is not known, and why."""
    input_values: Mapping[str, Any] | None = None
    """The values of the input row, if they were asked for and can still be read."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline trace --json`` prints."""
        found = {name: value for name, value in vars(self).items() if name not in ("model", "lineage", "input_values")}
        found |= {"libraries": dict(self.libraries), "notes": list(self.notes), "model": asdict(self.model)}
        found["lineage"] = None if self.lineage is None else _without_inputs(self.lineage)
        return found if self.input_values is None else found | {"input_values": dict(self.input_values)}


def _without_inputs(lineage: Lineage) -> dict[str, Any]:
    return {
        name: value for name, value in lineage.to_dict().items() if name not in ("inputs", "input_objects", "libraries")
    }


@dataclass(frozen=True, kw_only=True)
class Tracer:
    """Traces rows of result files.

    Parameters
    ----------
    buckets : Buckets
        The buckets of jobs, results and inputs.
    registry : ModelRegistry
        The registry, whose trusted keys check signatures.
    tables : Tables
        Reads input rows.
    """

    buckets: Buckets
    registry: ModelRegistry
    tables: Tables

    def row(self, file: str, row: int, *, show: bool = False) -> Trace:
        """Trace a row by its number in a result file.

        Parameters
        ----------
        file : str
            A URI ``s3://bucket/key``, or the path of a file on this computer.
        row : int
            Number of the row in the file, from 0.
        show : bool
            Whether to read the input row, too.

        Raises
        ------
        InvalidRequest
            There is no such file or row, or Scoreline did not write the file.
        ResultsDamaged
            The file contradicts the documents of its job.
        """
        with open_result(self.buckets, file) as opened:
            return self._trace(opened, row, show)

    def find(self, target: str, key: Mapping[str, str], *, show: bool = False) -> Iterator[Trace]:
        """Trace at most `MAX_FOUND` rows by their key.

        Parameters
        ----------
        target : str
            A result file; or the URI of an output, of its ``latest.json``, or of the folder of a job; or the id of a
            job. An output stands for the run that readers take. The rejected rows of a job are searched after its
            results.
        key : mapping of str to str
            Values by column, as text.

        Raises
        ------
        InvalidRequest
            There is no such target, or the files have no such column. Otherwise as `row`.
        """
        left = MAX_FOUND
        for name in files_of(self.buckets, target):
            with open_result(self.buckets, name) as opened:
                for row in opened.find(key):
                    yield self._trace(opened, row, show)
                    left -= 1
                    if not left:
                        return

    def _trace(self, opened: ResultFile, row: int, show: bool) -> Trace:
        values = opened.row(row)
        documents, notes = self._documents(opened)
        origin = (
            origin_in_rejects(opened, values, documents)
            if opened.rejects
            else origin_in_results(opened, row, documents)
        )
        if origin.note:
            notes.append(origin.note)
        lineage = None
        if documents is not None:
            lineage = lineage_of(self.buckets, self.registry, opened.footer.job_id, with_inputs=False)
        is_champion = lineage is None or lineage.model.manifest_sha256 == opened.footer.metadata.get(_DIGEST)
        if not is_champion:
            notes.append("the challenger of the job gave these scores, for comparison: readers do not get them")
        libraries = libraries_in(opened.footer.metadata)
        state: InputState = state_of_input(self.buckets, origin.uri, origin.etag) if "://" in origin.uri else ""
        found = Trace(
            file=opened.name,
            row=row,
            rejected=opened.rejects,
            values=values,
            copy=self._compare(opened, documents) if is_champion else "",
            job_id=opened.footer.job_id,
            part=origin.part,
            input=origin.uri,
            etag=origin.etag,
            input_row=origin.row,
            input_state=state,
            model=lineage.model if lineage is not None and is_champion else self._model_in(opened),
            libraries=libraries,
            lineage=lineage,
            notes=tuple(notes),
        )
        return self._shown(found, origin, documents) if show else found

    def _documents(self, opened: ResultFile) -> tuple[JobPlan | None, list[str]]:
        """Return the documents of the job that wrote a file, or why they are not at hand."""
        job_id, footer = opened.footer.job_id, opened.footer.metadata
        try:
            job = read_job(self.buckets.main, job_id)
            plan = PlanFile(self.buckets.main, job_id)
            layout = ResultsLayout.of(self.buckets, job)
        except JobRemoved as error:
            return None, [describe(error)]
        except (JobNotFound, ObjectNotFound):
            return None, [
                f"bucket {self.buckets.main.bucket!r} has no documents of job {job_id}: another deployment ran the "
                "job, or it was deleted"
            ]
        except BucketNotAllowed as error:
            return None, [describe(error)]
        submitted = footer.get("scoreline.submitted_at") or footer.get("scoreline.scored_at")  # as release 0.1.0 has it
        digests = [item.manifest_sha256 for item in (job.model, job.challenger) if item is not None]
        if submitted != job.submitted or footer.get(_DIGEST) not in digests:
            return None, [
                f"job {job_id} in bucket {self.buckets.main.bucket!r} is another job with the same id: the file was "
                "written by a job that another deployment ran, or that was deleted"
            ]
        return JobPlan(job=job, plan=plan, layout=layout), []

    def _model_in(self, opened: ResultFile) -> ModelLineage:
        """Return what the footer says about the model version.

        The documents of the job do not tell it if they are gone, or if its challenger wrote the file.
        """
        metadata = opened.footer.metadata
        pinned = PinnedModel(
            name=metadata.get("scoreline.model", ""),
            version=metadata.get("scoreline.model_version", ""),
            manifest_sha256=metadata.get(_DIGEST, ""),
        )
        try:
            return model_lineage(self.registry, pinned.check())
        except ValueError:
            raise ResultsDamaged(f"{opened.name} has a footer that does not name a model version") from None

    def _compare(self, opened: ResultFile, documents: JobPlan | None) -> Copy:
        """Return whether a file on this computer is the one that the job wrote."""
        if opened.info is not None or documents is None:
            return ""
        with Path(opened.name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        found = False
        with contextlib.suppress(ScorelineError):
            for name in files_of(self.buckets, documents.layout.uri(documents.layout.folder)):
                bucket, _, key = name.removeprefix("s3://").partition("/")
                if Path(key).name == Path(opened.name).name or documents.job.spec.arranged:
                    found = True
                    if self.buckets[bucket].head(key).metadata.get("sha256") == digest.hexdigest():
                        return "as written"
        return "other" if found else ""

    def _shown(self, found: Trace, origin: Origin, documents: JobPlan | None) -> Trace:
        if documents is None or origin.piece is None or origin.row is None:
            return replace(found, notes=(*found.notes, "the input row cannot be shown, because it is not known"))
        try:
            values = self._read(origin.piece, origin.row, documents)
        except (InputChanged, ObjectNotFound):
            return replace(found, notes=(*found.notes, "the input row cannot be shown, because its object has changed"))
        except ScorelineError as error:
            return replace(found, notes=(*found.notes, f"the input row cannot be shown: {describe(error)}"))
        return replace(found, input_values=values)

    def _read(self, piece: Slice, row: int, documents: JobPlan) -> dict[str, Any]:
        """Return the values of an input row in the columns that its job reads."""
        source = Pinned.of(self.buckets[piece.bucket], piece)
        columns, options = documents.plan.columns, documents.job.spec.read
        reads = from_text(columns.reads) if columns.reads else self.tables.survey(source, options).schema
        in_object = pa.schema([item for item in reads if item.name not in columns.folders])
        of_folders = {name: value for name, value in folder_values(piece.key).items() if name in columns.folders}
        for rows in self.tables.read(source, piece.span(range(row, row + 1)), in_object, _BATCH_ROWS, options):
            for item in rows.malformed:
                if item.row == row:
                    return {"raw": item.raw, "message": item.message, **_values(item.values)}
            place = int(np.searchsorted(rows.numbers, row))
            if place < len(rows.numbers) and rows.numbers[place] == row:
                (values,) = rows.batch.slice(place, 1).to_pylist()
                return _values(values) | of_folders
        raise InvalidRequest(f"{source.uri} has no row {row:,}")


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_json_value(value) for name, value in values.items()}
