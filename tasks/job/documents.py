"""A job's documents, as they lie in the bucket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from scoreline.storage import keys
from scoreline.storage.errors import (
    DocumentCorrupt,
    InvalidRequest,
    JobNotFound,
    ObjectNotFound,
    PreconditionFailed,
)
from scoreline.storage.models.manifest import PinnedModel
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.tables.options import read_options
from scoreline.tasks.job.spec import JobSpec, check_budget

State = Literal["submitted", "running", "succeeded", "partial", "failed", "cancelled"]
Reason = Literal["", "rejected", "parts", "error"]
"""Why a job failed: more rows were ``rejected`` than allowed, ``parts`` failed, or an ``error`` ended it as a whole."""
ENDED: frozenset[State] = frozenset({"succeeded", "partial", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job: the content of ``job.json``."""

    spec: JobSpec
    model: PinnedModel
    submitted: str
    """UTC, ISO 8601."""
    webhook: str | None = None
    """Whom to tell how it ended. No part of the spec: of two who submit the same job, the first decides."""

    @property
    def work(self) -> str:
        """What decides how long a row takes: version of the model, and method."""
        return f"{self.model.ref} {self.spec.method or 'default'}"

    def to_json(self) -> bytes:
        """Encode; the same job gives the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Job:
        """Decode and check, since whoever can write the bucket could have written it."""
        raw = json.loads(data)
        given = dict(raw["spec"])
        if "input" in given:  # as jobs were recorded that had one input alone
            given |= {"inputs": [given.pop("input")], "read": {}}
        features = tuple(given["features"]) if given["features"] else None
        spec = JobSpec(
            **given | {"features": features, "inputs": tuple(given["inputs"]), "read": read_options(given["read"])}
        )
        webhook = raw.get("webhook")
        if webhook is not None and not isinstance(webhook, str):
            raise TypeError(f"webhook {webhook!r} is no address")
        return cls(spec=spec.check(), model=PinnedModel(**raw["model"]), submitted=raw["submitted"], webhook=webhook)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job: the content of ``run.json``, which is there once a job was resumed."""

    number: int = 1
    max_rejected: str | None = None
    """Reject budget of this run, where it is not the spec's."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Run:
        """Decode and check."""
        run = cls(**json.loads(data))
        if run.max_rejected is not None:
            check_budget(run.max_rejected)
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
    """Why it failed, for programs; empty in any other state, and in documents of releases that did not write it."""
    failures: Mapping[str, str]
    """Messages by number of the failed part."""
    run: int = 1
    """Which run of the job ended so: the outcome of an earlier one is no outcome any more."""

    def to_json(self) -> bytes:
        """Encode; `reason` is left out where there is none, as releases wrote it that had no reasons."""
        fields = {name: value for name, value in asdict(self).items() if name != "reason" or value}
        return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Outcome:
        """Decode."""
        return cls(**json.loads(data))


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Whether somebody was told how a job ended: the content of ``notice.json``."""

    run: int
    delivered: bool
    error: str = ""
    """Why not, where nobody tries any more."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Delivery:
        """Decode."""
        return cls(**json.loads(data))


@dataclass(frozen=True, kw_only=True)
class Status:
    """What can be said of a job now."""

    job_id: str
    state: State
    model: str
    """``name@version`` that scores every row of it."""
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
    """UTC, ISO 8601."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline status --json`` prints."""
        return asdict(self)


_MALFORMED = (ValueError, KeyError, TypeError, InvalidRequest)


@contextlib.contextmanager
def decoding(store: ObjectStore, key: str) -> Iterator[None]:
    """Name the object where the block finds that it is not what Scoreline writes; raises `DocumentCorrupt`."""
    try:
        yield
    except _MALFORMED as error:
        reason = str(error) if isinstance(error, InvalidRequest) else repr(error)
        raise DocumentCorrupt(f"{store.uri(key)} is not what Scoreline writes there: {reason}") from error


def read_job(store: ObjectStore, job_id: str) -> Job:
    """Read ``job.json``; raises `JobNotFound`."""
    try:
        with decoding(store, key := keys.job(job_id)):
            job = Job.from_json(store.get(key).data)
            if job.spec.job_id != job_id:
                raise ValueError(f"it is job {job.spec.job_id!r}")
            return job
    except ObjectNotFound as error:
        if "no bucket" in str(error):
            raise
        raise JobNotFound(f"no job {job_id!r} in bucket {store.bucket!r}") from None


def read_run(store: ObjectStore, job_id: str) -> tuple[Run, str | None]:
    """Read which run of a job counts, and the ETag of its record where it was resumed."""
    try:
        got = store.get(keys.run(job_id))
    except ObjectNotFound:
        return Run(), None
    with decoding(store, keys.run(job_id)):
        return Run.from_json(got.data), got.info.etag


def read_outcome(store: ObjectStore, job_id: str) -> Outcome | None:
    """Read ``outcome.json``, where the run that counts has ended."""
    try:
        with decoding(store, key := keys.outcome(job_id)):
            outcome = Outcome.from_json(store.get(key).data)
    except ObjectNotFound:
        return None
    if outcome.state in ("succeeded", "partial"):  # such a job cannot be resumed
        return outcome
    return outcome if outcome.run >= read_run(store, job_id)[0].number else None


def read_success(store: ObjectStore, folder: str, plan_sha256: str) -> Mapping[str, Any] | None:
    """Read ``_SUCCESS`` of a job whose results are arranged; None where it is not there, or is of another plan.

    Once it is there the job's parts may be gone.
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


def read_delivery(store: ObjectStore, job_id: str) -> Delivery | None:
    """Read whether somebody was told of a job's end; None where nobody was, and somebody may still try."""
    try:
        with decoding(store, key := keys.notice(job_id)):
            return Delivery.from_json(store.get(key).data)
    except ObjectNotFound:
        return None


def mark_active(store: ObjectStore, job_id: str) -> None:
    """Note in the bucket that a job is under way, and since when."""
    with contextlib.suppress(PreconditionFailed):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        store.put(keys.active(job_id), now.encode(), create_only=True)


def seconds_since(moment: str) -> float:
    """Seconds since a time in ISO 8601, a job's submission say."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
