"""The lineage of a job: which objects were scored by which model version, what the checks found, and who accepted it.

Works with ``requirements.txt`` alone. `trace` finds the lineage of a single row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from scoreline.storage import keys
from scoreline.storage.audit import Submitter
from scoreline.storage.errors import (
    DocumentCorrupt,
    ModelCorrupt,
    ModelNotFound,
    ModelUntrusted,
    ObjectNotFound,
    ScorelineError,
    describe,
)
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job, Outcome, read_job, read_outcome
from scoreline.tasks.job.findings import Checks
from scoreline.tasks.job.plan import Slice
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.job.uris import parse_uri
from scoreline.tasks.quality.gate.pointer import Pointer, publishes

MAX_INPUTS = 1_000
"""Maximum number of objects that a lineage lists. Further ones are counted."""
MAX_PARTS = 100_000
"""The objects of so many parts are counted. Reading a longer plan would take a request for each 512 parts."""

Signature = Literal["signed", "not trusted", "not checked", "gone", "altered"]
"""``signed``: by a trusted key. ``not trusted``: by no trusted key. ``not checked``: no trusted keys are set here.
``gone``: the version was deleted. ``altered``: the manifest is not the one with which the job scored."""
InputState = Literal["", "unchanged", "changed", "gone", "unreadable"]
"""Whether an object is still the one that was read; empty if that was not looked up."""


@dataclass(frozen=True, kw_only=True)
class InputObject:
    """An object that a job reads."""

    uri: str
    etag: str
    rows: int
    """Number of its rows that the job scores or rejects."""
    state: InputState = ""


@dataclass(frozen=True, kw_only=True)
class ModelLineage:
    """The model version that scored every row of a job."""

    ref: str
    """``name@version``."""
    manifest_sha256: str
    signature: Signature
    signer: str = ""
    """The id of the trusted key that signed the manifest."""
    note: str = ""
    """Why the signature is not trusted, or the manifest cannot be read."""
    created: str = ""
    """Time of publishing; empty if the manifest cannot be read."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """The libraries with which the version was published."""


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """Who decided whether readers get the results of a job."""

    decision: Literal["accepted", "blocked", "withdrawn", "not published"]
    """``not published``: the job ended without all its results, or it is no run of an output."""
    who: str = ""
    """A person, or ``checks``."""
    where: str = ""
    at: str = ""
    reason: str = ""
    is_latest: bool = False
    """Whether readers of the output take this job now."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where the results of a job come from."""

    job_id: str
    state: str
    """The state in which the job ended; ``running`` if it has not ended."""
    submitted: str
    submitter: Submitter | None
    schedule: str | None
    rejected_of: str | None
    """The job whose rejected rows this job scored, if it did."""
    output: str
    """The folder of the results, as a URI."""
    model: ModelLineage
    method: str | None
    inputs: Sequence[InputObject]
    """The first `MAX_INPUTS` objects, in order of the input."""
    input_objects: int
    """Number of objects in the first `MAX_PARTS` parts, which most jobs do not exceed; 0 if they were not looked up, or
    if the job is not planned."""
    libraries: Mapping[str, str]
    """The libraries that scored the rows, if a result file was at hand to tell; otherwise empty."""
    checks: Checks | None
    acceptance: Acceptance

    def to_dict(self) -> dict[str, Any]:
        """Return the lineage as JSON has it."""
        return {
            "job_id": self.job_id,
            "state": self.state,
            "submitted": self.submitted,
            "submitter": None if self.submitter is None else asdict(self.submitter),
            "schedule": self.schedule,
            "rejected_of": self.rejected_of,
            "output": self.output,
            "model": asdict(self.model),
            "method": self.method,
            "inputs": [asdict(item) for item in self.inputs],
            "input_objects": self.input_objects,
            "libraries": dict(self.libraries),
            "checks": None if self.checks is None else self.checks.to_dict(),
            "acceptance": asdict(self.acceptance),
        }


def lineage_of(
    buckets: Buckets,
    registry: ModelRegistry,
    job_id: str,
    libraries: Mapping[str, str] | None = None,
    *,
    with_inputs: bool = True,
) -> Lineage:
    """Return the lineage of a job.

    Parameters
    ----------
    registry : ModelRegistry
        The registry, whose trusted keys check the signature of the model version.
    libraries : mapping, optional
        The libraries that scored the rows, from the footer of a result file (see `libraries_in`).
    with_inputs : bool
        Whether to list the objects. This reads the plan, which is large if the job has many parts, but at most
        `MAX_PARTS` of them.

    Raises
    ------
    JobNotFound
        There is no such job, or it was removed (`JobRemoved`).
    DocumentCorrupt
        A document of the job is not what Scoreline writes.
    """
    main = buckets.main
    job, outcome = read_job(main, job_id), read_outcome(main, job_id)
    inputs, number = _inputs_of(buckets, job_id) if with_inputs else ((), 0)
    return Lineage(
        job_id=job_id,
        state="running" if outcome is None else outcome.state,
        submitted=job.submitted,
        submitter=job.submitter,
        schedule=job.schedule,
        rejected_of=job.spec.rejected_of,
        output=keys.output_folder(job.spec.output, job_id),
        model=model_lineage(registry, job.model),
        method=job.spec.method,
        inputs=inputs,
        input_objects=number,
        libraries=libraries or {},
        checks=None if outcome is None else outcome.checks,
        acceptance=_acceptance(buckets, job, outcome),
    )


def model_lineage(registry: ModelRegistry, pinned: PinnedModel) -> ModelLineage:
    """Return what is known about a pinned model version, whether or not it still exists."""
    found = ModelLineage(ref=pinned.ref, manifest_sha256=pinned.manifest_sha256, signature="not checked")
    try:
        signer = registry.signer(pinned)
        manifest = registry.manifest(pinned)
    except ModelNotFound as error:
        return replace(found, signature="gone", note=describe(error))
    except ModelUntrusted as error:
        return replace(found, signature="not trusted", note=describe(error))
    except ModelCorrupt as error:
        return replace(found, signature="altered", note=describe(error))
    return replace(
        found,
        signature="not checked" if signer is None else "signed",
        signer=signer or "",
        created=manifest.created,
        libraries=dict(manifest.libraries),
    )


def libraries_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the libraries that the metadata of a result file's footer name; empty if it names none.

    >>> libraries_in({"scoreline.libraries": '{"numpy": "2.1.0"}'}), libraries_in({})
    ({'numpy': '2.1.0'}, {})
    """
    try:
        found = json.loads(metadata.get("scoreline.libraries") or "{}")
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def state_of_input(buckets: Buckets, uri: str, etag: str) -> InputState:
    """Return whether an object is still the one that was read."""
    bucket, key = parse_uri(uri)
    try:
        return "unchanged" if buckets[bucket].head(key).etag == etag else "changed"
    except ObjectNotFound:
        return "gone"
    except ScorelineError:
        return "unreadable"


def _inputs_of(buckets: Buckets, job_id: str) -> tuple[tuple[InputObject, ...], int]:
    """Return the first objects of a job and the number of all in `MAX_PARTS` parts; none if the job is not planned."""
    try:
        plan = PlanFile(buckets.main, job_id)
    except ObjectNotFound:
        return (), 0
    found, number = [], 0
    for (uri, etag), slices in itertools.groupby(_slices(plan), key=lambda piece: (piece.uri, piece.etag)):
        number += 1
        if number <= MAX_INPUTS:
            rows = sum(piece.count for piece in slices)
            found.append(InputObject(uri=uri, etag=etag, rows=rows))
    return tuple(found), number


def _slices(plan: PlanFile) -> Iterator[Slice]:
    for part in itertools.islice(plan, MAX_PARTS):
        yield from part.slices


def _acceptance(buckets: Buckets, job: Job, outcome: Outcome | None) -> Acceptance:
    if outcome is None or outcome.state not in ("succeeded", "partial", "blocked"):
        return Acceptance(decision="not published")
    checks = outcome.checks
    review = None if checks is None else checks.review
    if review is not None:
        found = Acceptance(
            decision=review.decision, who=review.who, where=review.where, at=review.at, reason=review.reason
        )
    elif outcome.state == "blocked":
        blocking = [finding.message for finding in checks.findings if finding.level == "block"] if checks else []
        found = Acceptance(decision="blocked", who="checks", reason=" ".join(blocking))
    else:
        found = Acceptance(decision="accepted", who="checks")
    if not publishes(job, buckets.main.bucket):
        return replace(found, decision="not published") if outcome.state != "blocked" else found
    try:
        document, _ = Pointer.of(buckets, job.spec.output).read()
    except DocumentCorrupt:
        return found
    entry = None if document is None else document.entry(job.spec.job_id)
    if entry is not None and review is None:
        found = replace(found, at=entry.decided, reason=entry.reason)
    return replace(found, is_latest=document is not None and document.job_id == job.spec.job_id)
