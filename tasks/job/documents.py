"""The documents of a job. Each document is a JSON object in the bucket, and a dataclass in this module."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from scoreline.storage import keys
from scoreline.storage.audit import Submitter
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    JobNotFound,
    JobRemoved,
    ObjectNotFound,
    PreconditionFailed,
)
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import CREATE, ObjectStore
from scoreline.storage.tables.options import read_options
from scoreline.storage.typed_json import MALFORMED_GZIP, build, convert, decode_object, moment
from scoreline.tasks.job.findings import Checks, Review
from scoreline.tasks.job.labels import check_labels
from scoreline.tasks.job.load_options import LOAD_OPTIONS
from scoreline.tasks.job.loads import LoadStatus
from scoreline.tasks.job.source_options import SOURCE_OPTIONS
from scoreline.tasks.job.spec import JobSpec, check_budget
from scoreline.tasks.job.tombstone import Tombstone, refuse_removed, tombstone_in

State = Literal["submitted", "running", "succeeded", "partial", "failed", "cancelled", "blocked"]
"""``blocked``: the job has all its results, but they are not for readers, because its checks or a person said so."""
Reason = Literal["", "rejected", "parts", "request", "deadline", "error"]
"""Why a job failed. ``rejected``: too many rows were rejected. ``parts``: some parts failed. ``request``: the options
do not fit the input or the model, so there is no plan. ``deadline``: the job had not ended by its deadline. ``error``:
any other error ended the whole job."""
COMPLETE: frozenset[State] = frozenset({"succeeded", "partial"})
"""The states of a job that has all its results, which are for readers."""
WITH_RESULTS: frozenset[State] = COMPLETE | {"blocked"}
"""The states of a job that has all its results, so that it cannot be resumed."""
ENDED: frozenset[State] = WITH_RESULTS | {"failed", "cancelled"}
REMOVAL_S = 3600.0
"""Seconds for which a job cannot be resumed after its removal has begun (see `Run.removing`)."""


_DOCUMENT = "document"
"""Name of the metadata field of a marker that contains the digest of ``job.json``."""
_LATER_OPTIONS = (
    *("group", "priority", "max_processes", "checks", "deadline", "profile", "segment"),
    *("challenger", "only_changed", "into", *LOAD_OPTIONS, *SOURCE_OPTIONS),
)
"""Fields of the spec that are left out if they are not set, because earlier releases refuse a spec with other fields
than their own."""
_OVER_BUDGET_BEFORE_REASONS = ("rows were rejected, allowed are", "that may be rejected")
"""Excerpts of the error of a job that exceeded its reject budget. The excerpts show the reason in documents that were
written before documents contained a reason."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job: the content of ``job.json``."""

    spec: JobSpec
    model: PinnedModel
    submitted: str
    """Time of submission, in UTC and ISO 8601."""
    webhook: str | None = field(default=None, repr=False)
    """Address to notify when the job ends. Its path may be a secret. The address is not part of the spec: the first
    submission of a job sets it."""
    schedule: str | None = None
    """Name of the schedule whose slot this job is. No request of an application can set it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels by which the job can be found. They are not part of the spec: the first submission of a job sets them."""
    submitter: Submitter | None = None
    """Who submitted the job first. None in documents of earlier releases."""
    challenger: PinnedModel | None = None
    """The version that scores the same rows, for comparison (see `JobSpec.challenger`)."""

    @property
    def work(self) -> str:
        """Key of the job's pace in the ledger: the model version and the method."""
        return f"{self.model.ref} {self.spec.method or 'default'}"

    @property
    def scoring_work(self) -> str:
        """Key of the job's pace. This pace leaves out fetching and decoding, whose time depends on the input."""
        return f"{self.work} scoring"

    def to_json(self) -> bytes:
        """Encode the job as JSON. Equal jobs give equal bytes."""
        optional = ("schedule", "labels", "submitter", "challenger")
        kept = {name: value for name, value in asdict(self).items() if name not in optional or value}
        for name in _LATER_OPTIONS:
            if kept["spec"][name] is None:
                del kept["spec"][name]
        return json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Job:
        """Decode and check; raises `JobRemoved` for a tombstone.

        The document is untrusted, because anyone with access to the bucket can write it.
        """
        raw = decode_object(data)
        refuse_removed(raw)
        given = dict(raw["spec"])
        if "input" in given:  # documents of older releases have exactly one input
            given |= {"inputs": [given.pop("input")], "read": {}}
        features = convert(given["features"], tuple[str, ...] | None, "features") or None
        inputs = convert(given["inputs"], tuple[str, ...], "inputs")
        for name in ("key", "into_columns", "where_recent"):
            given[name] = convert(given.get(name), tuple[str, ...] | None, name) or None
        given["params"] = convert(given.get("params"), Mapping[str, str] | None, "params")
        spec = JobSpec(**given | {"features": features, "inputs": inputs, "read": read_options(given["read"])})
        challenger = convert(raw.get("challenger"), PinnedModel | None, "challenger")
        moment(raw["submitted"], "submitted")
        if spec.deadline is not None:
            moment(spec.deadline, "deadline")
        return cls(
            spec=spec.check(),
            model=build(PinnedModel, raw["model"], "model").check(),
            submitted=raw["submitted"],
            webhook=convert(raw.get("webhook"), str | None, "webhook"),
            schedule=convert(raw.get("schedule"), str | None, "schedule"),
            labels=check_labels(raw.get("labels")),
            submitter=convert(raw.get("submitter"), Submitter | None, "submitter"),
            challenger=None if challenger is None else challenger.check(),
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job: the content of ``run.json``, which exists once the job has been resumed."""

    number: int = 1
    max_rejected: str | None = None
    """Reject budget of this run, if it differs from the budget in the spec."""
    removing: str = ""
    """Time at which the removal of the job began, in UTC and ISO 8601. Such a job cannot be resumed for an hour."""
    deadline: str | None = None
    """Deadline of this run, if the job was resumed with a deadline. The deadline in the spec is that of the first
    run."""

    def deadline_of(self, job: Job) -> str | None:
        """Return the time in ISO 8601 at which this run of a job ends; None if it has no deadline."""
        return job.spec.deadline if self.number == 1 else self.deadline

    def to_json(self) -> bytes:
        """Encode. `removing` and `deadline` are left out if they are not set, as earlier releases do not know them."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("removing", "deadline") or value}
        return json.dumps(kept, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Run:
        """Decode and check."""
        run = build(cls, decode_object(data))
        if run.max_rejected is not None:
            check_budget(run.max_rejected)
        if run.removing:
            moment(run.removing, "removing")
        if run.deadline is not None:
            moment(run.deadline, "deadline")
        return run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended: the content of ``outcome.json``."""

    state: State
    rows: int = 0
    rejected: int = 0
    parts: int = 0
    parts_done: int = 0
    seconds: float = 0.0
    error: str = ""
    reason: Reason = ""
    """Why the job failed, in a form for programs. Empty if the job did not fail, and in documents of older releases."""
    failures: Mapping[str, str]
    """Error messages, by the number of the failed part."""
    run: int = 1
    """Which run of the job ended this way. The outcome of an earlier run no longer counts."""
    summary: str = ""
    """The error without anything that it quotes from an input or a document, so that it can be sent over the broker."""
    work_s: float = 0.0
    """Seconds that processes worked on the parts."""
    class_a: int = 0
    """Number of requests that wrote or listed objects; 0 if it is unknown."""
    class_b: int = 0
    """Number of requests that read objects; 0 if it is unknown."""
    result_bytes: int = 0
    """Size of the parts' results."""
    results: str = field(default="", repr=False)
    """The results of a small job of records, as `scoreline.tasks.records.table.encode` writes them."""
    checks: Checks | None = None
    """What the checks found, and what a person decided; None if there is neither."""
    carried: int | None = None
    """Number of rows whose scores were carried over from the accepted run; None unless the job asks for it."""
    not_carried: str = ""
    """Why all rows, or more rows than necessary, were scored although the job asks for it; empty otherwise."""
    loads: tuple[str, ...] = ()
    """Ids of the loads that were requested after the job had ended (see `scoreline.tasks.job.loads`)."""
    job: Mapping[str, Any] | None = field(default=None, repr=False)
    """The content of ``job.json``, if a listing of jobs reads this outcome in place of the entry in the index."""

    def to_json(self) -> bytes:
        """Encode. Fields that later releases have added are left out if they are empty."""
        added = (
            *("reason", "summary", "work_s", "class_a", "class_b", "result_bytes", "results", "checks", "loads"),
            "job",
        )
        kept = {name: value for name, value in asdict(self).items() if name not in (*added, "not_carried") or value}
        if self.carried is None:
            del kept["carried"]
        if self.checks is not None:
            kept["checks"] = self.checks.to_dict()
        return json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Outcome:
        """Decode. In documents of older releases, which have no reason, the error message shows the reason.

        An unknown reason, which a later release may write, becomes ``error``.
        """
        raw = decode_object(data)
        if isinstance(raw.get("reason"), str) and raw["reason"] not in get_args(Reason):
            raw["reason"] = "error"
        outcome = build(cls, raw)
        over_budget = any(words in outcome.error for words in _OVER_BUDGET_BEFORE_REASONS)
        if outcome.state == "failed" and not outcome.reason and over_budget:
            return replace(outcome, reason="rejected")
        return outcome


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The result of notifying a webhook that a job has ended: the content of ``notice.json``."""

    run: int
    delivered: bool
    error: str = ""
    """Why the notification was not delivered and will not be retried."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Delivery:
        """Decode."""
        return build(cls, decode_object(data))


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state and the progress of a job."""

    job_id: str
    state: State
    model: str
    """The ``name@version`` that scores every row of the job."""
    output: str
    """Where the results are."""
    parts: int = 0
    parts_done: int = 0
    rows: int = 0
    rejected: int = 0
    total_rows: int = 0
    seconds: float = 0.0
    error: str = ""
    reason: Reason = ""
    """Why the job failed; empty in any other state."""
    submitted: str = ""
    """When the job was submitted, in UTC and ISO 8601."""
    labels: Mapping[str, str] = field(default_factory=dict)
    submitter: Submitter | None = None
    """Who submitted the job."""
    work_left_s: float | None = None
    """Seconds that one process would take for the rest of a running job, by the pace of earlier jobs with the same
    model version. None if the pace is unknown, or if the job is not running."""
    processes: int = 0
    """Number of processes that score parts of all jobs; 0 if it is unknown, or if the job is not running."""
    work_s: float = 0.0
    """Seconds that processes worked on the parts of a job that has its results; 0 if it is unknown."""
    class_a: int = 0
    """Number of requests that wrote or listed objects for that job; 0 if it is unknown."""
    class_b: int = 0
    """Number of requests that read objects for that job; 0 if it is unknown."""
    result_bytes: int = 0
    """Size of the results of that job; 0 if it is unknown."""
    checks: Checks | None = None
    """What the checks of that job found, and what a person decided; None if there is neither."""
    loads: tuple[LoadStatus, ...] = ()
    """How far the results of that job are loaded into tables of databases."""
    carried: int | None = None
    """Number of rows whose scores were carried over from the accepted run; None unless the job asks for it."""
    not_carried: str = ""
    """Why all rows, or more rows than necessary, were scored although the job asks for it."""
    challenger: str = ""
    """The ``name@version`` that is compared with `model` on the same rows; empty without one."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the job ends, if all processes work on it; None if that is unknown."""
        return None if self.work_left_s is None or not self.processes else self.work_left_s / self.processes

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline status --json`` prints.

        An empty `reason`, `labels` or `submitter` is left out, as in the body of a webhook, and so are all later fields
        that are unknown.
        """
        optional = (
            "reason",
            "labels",
            "submitter",
            "work_left_s",
            "processes",
            "work_s",
            "class_a",
            "class_b",
            "result_bytes",
            "checks",
            "loads",
            "not_carried",
            "challenger",
        )
        kept = {name: value for name, value in asdict(self).items() if name not in optional or value}
        if self.carried is None:
            del kept["carried"]
        return kept if self.checks is None else kept | {"checks": self.checks.to_dict()}


_MALFORMED = (*MALFORMED_GZIP, InvalidRequest)


@contextlib.contextmanager
def decoding(store: ObjectStore, key: str, remedy: str = "") -> Iterator[None]:
    """Raise `DocumentCorrupt`, with the name of the object, for errors from malformed content in the block."""
    try:
        yield
    except JobRemoved:
        raise
    except _MALFORMED as error:
        reason = str(error) if isinstance(error, InvalidRequest) else f"{type(error).__name__}: {error}"
        what = f"{store.uri(key)} is not what Scoreline writes there: {reason}"
        raise DocumentCorrupt(f"{what}; {remedy}" if remedy else what) from error


def read_job(store: ObjectStore, job_id: str) -> Job:
    """Read ``job.json``; raises `JobNotFound`, or `JobRemoved` if a tombstone has taken its place."""
    try:
        with decoding(store, key := keys.job(job_id)):
            job = Job.from_json(store.get(key).data)
            if job.spec.job_id != job_id:
                raise ValueError(f"it is job {job.spec.job_id!r}")
            return job
    except ObjectNotFound:
        raise JobNotFound(f"no job {job_id!r} in bucket {store.bucket!r}") from None


def read_model_refs(store: ObjectStore, job_id: str) -> tuple[str, ...]:
    """Return the ``name@version`` that a job scores with, and that of its challenger. The errors are as in `read_job`.

    The rest of ``job.json`` may be malformed, because a later release may have written it.
    """
    try:
        with decoding(store, key := keys.job(job_id)):
            raw = decode_object(store.get(key).data)
            refuse_removed(raw)
            models = [raw["model"], *([raw["challenger"]] if raw.get("challenger") else [])]
            return tuple(f"{model['name']}@{model['version']}" for model in models)
    except ObjectNotFound:
        raise JobNotFound(f"no job {job_id!r} in bucket {store.bucket!r}") from None


def read_tombstone(store: ObjectStore, job_id: str) -> Tombstone | None:
    """Return the tombstone of a job; None if the job exists, or if no job ever had this id."""
    try:
        with decoding(store, key := keys.job(job_id)):
            return tombstone_in(decode_object(store.get(key).data))
    except ObjectNotFound:
        return None


def read_run(store: ObjectStore, job_id: str) -> tuple[Run, str | None]:
    """Return the current run of a job, and the ETag of ``run.json`` if the job has been resumed."""
    try:
        got = store.get(keys.run(job_id))
    except ObjectNotFound:
        return Run(), None
    with decoding(store, keys.run(job_id)):
        return Run.from_json(got.data), got.info.etag


def read_last_outcome(store: ObjectStore, job_id: str) -> Outcome | None:
    """Return the outcome of the last run that has ended; None if no run has ended."""
    try:
        with decoding(store, key := keys.outcome(job_id)):
            return Outcome.from_json(store.get(key).data)
    except ObjectNotFound:
        return None


def read_outcome(store: ObjectStore, job_id: str) -> Outcome | None:
    """Return the outcome of the current run; None if that run has not ended."""
    outcome = read_last_outcome(store, job_id)
    if outcome is None or outcome.state in WITH_RESULTS:  # a job with results cannot be resumed: it has no later run
        return outcome
    return outcome if outcome.run >= read_run(store, job_id)[0].number else None


def claim_end(store: ObjectStore, job_id: str, outcome: Outcome) -> Outcome:
    """Claim how a run ends, and return the outcome that was claimed first, because only the first claim is valid.

    A success is claimed before ``_SUCCESS`` is written, and any other end before ``outcome.json`` is written. A job
    therefore never has both ``_SUCCESS`` and a failed or cancelled outcome.
    """
    key = keys.claim(job_id, outcome.run)
    try:
        store.put(key, outcome.to_json(), mode=CREATE)
    except PreconditionFailed:
        with decoding(store, key):
            return Outcome.from_json(store.get(key).data)
    return outcome


def read_success(store: ObjectStore, folder: str, plan_sha256: str) -> Mapping[str, Any] | None:
    """Return the ``_SUCCESS`` of a job; None if it does not exist or belongs to another plan.

    This function is for jobs whose results are arranged (see `JobSpec.arranged`): once ``_SUCCESS`` exists, the parts
    of such a job may have been deleted.
    """
    try:
        with decoding(store, key := keys.success(folder)):
            raw = json.loads(store.get(key).data)
            if not isinstance(raw, dict) or raw.get("plan") != plan_sha256:
                return None
            if not all(type(raw[name]) is int for name in ("rows", "rejected", "parts")):
                raise TypeError("rows, rejected and parts are not numbers")
            return raw
    except ObjectNotFound:
        return None


def read_claim(store: ObjectStore, job_id: str, run: int) -> Outcome | None:
    """Return how a run will end, or has ended; None if no end is claimed yet."""
    try:
        with decoding(store, key := keys.claim(job_id, run)):
            return Outcome.from_json(store.get(key).data)
    except ObjectNotFound:
        return None


def read_review(store: ObjectStore, job_id: str) -> tuple[Review | None, str | None]:
    """Return the latest decision of a person about a job, and the ETag of ``review.json``; None if there is none."""
    try:
        got = store.get(keys.review(job_id))
    except ObjectNotFound:
        return None, None
    with decoding(store, keys.review(job_id)):
        return Review.from_json(got.data), got.info.etag


def read_delivery(store: ObjectStore, job_id: str) -> Delivery | None:
    """Return the final result of notifying a job's webhook; None if the webhook may still be sent."""
    try:
        with decoding(store, key := keys.delivery(job_id)):
            return Delivery.from_json(store.get(key).data)
    except ObjectNotFound:
        return None


def mark_active(store: ObjectStore, job_id: str, document_sha256: str | None = None) -> None:
    """Write the marker of a job under way; the marker contains the current time.

    Parameters
    ----------
    document_sha256 : str, optional
        Digest of ``job.json``, for `is_active`.
    """
    with contextlib.suppress(PreconditionFailed):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        metadata = None if document_sha256 is None else {_DOCUMENT: document_sha256}
        store.put(keys.active(job_id), now.encode(), mode=CREATE, metadata=metadata)


def is_active(store: ObjectStore, job_id: str, document_sha256: str) -> bool:
    """Return whether a job with this ``job.json`` is certainly under way, with one request."""
    try:
        return store.head(keys.active(job_id)).metadata.get(_DOCUMENT) == document_sha256
    except ObjectNotFound:
        return False


def seconds_since(moment: str) -> float:
    """Return the number of seconds since a time in ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
