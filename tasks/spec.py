"""What a user asks for, what the job pins, and how it ends: plain values with a JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from storage.errors import InvalidRequest, InvalidURI
from storage.keys import check_name
from storage.models.manifest import METHODS, PinnedModel, parse_ref

State = Literal["submitted", "running", "succeeded", "partial", "failed"]

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<key>[^\0]*)")
_BUDGET = re.compile(r"\d+|\d+(\.\d+)?%")


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key``.

    >>> parse_uri("s3://data/in/*.parquet")
    ('data', 'in/*.parquet')
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidURI(f"{uri!r} is not of the form s3://bucket/key")
    if any(step in (".", "..") for step in match["key"].split("/")):
        raise InvalidURI(f"{uri!r} has '.' or '..' as a step")
    return match["bucket"], match["key"]


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What a user asks for."""

    job_id: str
    model: str
    """``name``, ``name@alias`` or ``name@version``."""
    input: str
    """An object, a prefix that ends in ``/``, or a glob."""
    output: str
    """A prefix that ends in ``/``; results go below ``job_id=<job id>/``."""
    method: str | None = None
    """``predict`` or ``predict_proba``; by default all that the model has of them."""
    keep: str = "all"
    """Input columns to carry into the results: ``all`` that are not features, ``none``, or names with commas."""
    features: tuple[str, ...] | None = None
    """Columns to score, in order, for a model that was fitted without column names."""
    max_rejected: str = "1%"
    """Rows that may be rejected before the job counts as failed: a count, or a percentage of all rows."""

    def check(self) -> JobSpec:
        """Return the spec where all of it is well-formed, else raise `InvalidRequest`."""
        check_name("job id", self.job_id)
        parse_ref(self.model)
        parse_uri(self.input)
        if not self.output.endswith("/"):
            raise InvalidURI(f"output {self.output!r} has to end with '/': it is a prefix")
        parse_uri(self.output)
        if self.method is not None and self.method not in METHODS:
            raise InvalidRequest(f"method {self.method!r} is none of {', '.join(METHODS)}")
        if not _BUDGET.fullmatch(self.max_rejected):
            raise InvalidRequest(f"max_rejected {self.max_rejected!r} is neither a count nor a percentage, as 1%")
        return self

    def budget(self, rows: int) -> int:
        """Rows of `rows` that may be rejected."""
        if self.max_rejected.endswith("%"):
            return int(rows * float(self.max_rejected[:-1]) / 100)
        return int(self.max_rejected)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job: the content of ``job.json``."""

    spec: JobSpec
    model: PinnedModel
    submitted: str
    """UTC, ISO 8601."""

    def to_json(self) -> bytes:
        """Encode; the same job gives the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Job:
        """Decode and check, since whoever can write the bucket could have written it."""
        raw = json.loads(data)
        features = raw["spec"]["features"]
        spec = JobSpec(**raw["spec"] | {"features": tuple(features) if features else None})
        return cls(spec=spec.check(), model=PinnedModel(**raw["model"]), submitted=raw["submitted"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended: the content of ``outcome.json``."""

    state: State
    rows: int = 0
    rejected: int = 0
    parts: int = 0
    seconds: float = 0.0
    error: str = ""
    failures: Mapping[str, str]
    """Reasons by number of the failed part."""

    def to_json(self) -> bytes:
        """Encode."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Outcome:
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

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("succeeded", "partial", "failed")

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline status --json`` prints."""
        return asdict(self)
