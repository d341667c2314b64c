"""What a user asks for: the spec of a job, and the checks that hold it to a sound form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, InvalidURI
from scoreline.storage.keys import check_name
from scoreline.storage.models.manifest import METHODS, parse_ref
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.job.uris import names, parse_uri

_PARTS_TRIED = 10
_BUDGET = re.compile(r"\d{1,15}|\d{1,15}(\.\d{1,15})?%")


def kept_names(keep: str) -> tuple[str, ...]:
    """Return the columns that `JobSpec.keep` names; none if it is ``all`` or ``none``.

    >>> kept_names("id, name"), kept_names("all")
    (('id', 'name'), ())
    """
    return () if keep in ("all", "none") else tuple(dict.fromkeys(name.strip() for name in keep.split(",")))


def check_budget(max_rejected: str) -> str:
    """Return a reject budget if it is well-formed; raises `InvalidRequest`."""
    if not _BUDGET.fullmatch(max_rejected):
        raise InvalidRequest(f"max_rejected {max_rejected!r} is neither a count nor a percentage such as 1%")
    if max_rejected.endswith("%") and Decimal(max_rejected[:-1]) > 100:
        raise InvalidRequest(f"max_rejected {max_rejected!r} is more than 100%")
    return max_rejected


def budget_rows(max_rejected: str, rows: int) -> int:
    """Return how many of `rows` rows may be rejected.

    >>> budget_rows("1%", 250), budget_rows("7", 250)
    (2, 7)
    """
    if max_rejected.endswith("%"):
        return int(rows * Decimal(max_rejected[:-1]) / 100)
    return int(max_rejected)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What a user asks for, with every default spelled out."""

    job_id: str
    model: str
    """``name``, ``name@alias`` or ``name@version``."""
    inputs: tuple[str, ...]
    """Objects, prefixes that end in ``/``, or globs; an object that several of them name is scored once."""
    output: str
    """A prefix that ends in ``/``; results go below ``job_id=<job id>/``."""
    method: str | None = None
    """One of `METHODS`; by default those that are usual for the estimator."""
    keep: str = "all"
    """Input columns to carry over into the results: ``all`` that are not features, ``none``, or names with commas."""
    features: tuple[str, ...] | None = None
    """Columns to score, in this order, if the model was fitted without column names."""
    max_rejected: str = "1%"
    """Rows that may be rejected before the job counts as failed: a count, or a percentage of all rows."""
    part_rows: int | None = None
    """How many rows a part aims at; by default `part_sizes` decides."""
    max_attempts: int = 3
    """How often a part is begun, if its process dies each time, before the part fails."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How the objects are read, if their names do not say it."""
    rejected_of: str | None = None
    """If set, only the rows that this job rejected are scored, read from the same objects."""
    only_new: str | None = None
    """If set, objects that an earlier run of this schedule has scored are left out."""
    partition_by: str | None = None
    """A kept column. Results go into one folder for each of its values, ``<column>=<value>/``, without that column."""
    gather: bool = False
    """Whether the parts are gathered into fewer, larger files; with `partition_by` they are anyway."""

    @property
    def arranged(self) -> bool:
        """Whether the results are arranged from the parts once all parts are scored, rather than being the parts."""
        return self.gather or self.partition_by is not None

    def check(self) -> JobSpec:
        """Return the spec if all of it is well-formed; raises `InvalidRequest`.

        A spec is not trusted: it may come from another application's message, or from anyone who can write the bucket.
        """
        self._check_types()
        check_name("job id", self.job_id)
        if self.job_id == "active":  # the folder of the markers
            raise InvalidRequest("job id 'active' is reserved: choose another")
        parse_ref(self.model)
        if not self.inputs:
            raise InvalidRequest("the job names no input: name at least one object, prefix or glob")
        for uri in self.inputs:
            parse_uri(uri)
        self.read.check()
        if self.rejected_of is not None:
            check_name("job id", self.rejected_of)
        if not self.output.endswith("/"):
            raise InvalidURI(f"output {self.output!r} does not end with '/': it must be a prefix")
        parse_uri(self.output)
        if self.method is not None and self.method not in METHODS:
            raise InvalidRequest(f"method {self.method!r} is unknown: choose one of {', '.join(METHODS)}")
        check_budget(self.max_rejected)
        if self.only_new is not None:
            check_name("schedule", self.only_new)
        if self.partition_by is not None and (not self.partition_by or self.partition_by[0] in "_."):
            raise InvalidRequest(
                f"partition_by {self.partition_by!r}: dataset readers skip folders whose names begin with '_' or '.': "
                "choose another column"
            )
        if type(self.gather) is not bool:
            raise InvalidRequest(f"gather {self.gather!r} is neither true nor false")
        for name, value in (("part_rows", self.part_rows), ("max_attempts", self.max_attempts)):
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidRequest(f"{name} {value!r} is not a whole number of at least 1")
        return self

    def _check_types(self) -> None:
        optional = ("method", "only_new", "rejected_of", "partition_by")
        for name in ("job_id", "model", "output", "keep", "max_rejected", *optional):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in optional):
                raise InvalidRequest(f"{name} {value!r} is not a text")
        if not all(isinstance(uri, str) for uri in self.inputs):
            raise InvalidRequest(f"input {list(self.inputs)!r} is neither a text nor several texts")
        if self.features is not None and not all(isinstance(name, str) for name in self.features):
            raise InvalidRequest(f"features {list(self.features)!r} are not all texts")


def check_apart(spec: JobSpec) -> None:
    """Refuse an output that lies within an input: the results of one run would be the input of the next.

    This is asked of new jobs only; a job that is recorded keeps its output.
    """
    where, prefix = parse_uri(spec.output)
    folder = keys.output_folder(prefix, spec.job_id)
    for uri in spec.inputs:
        bucket, pattern = parse_uri(uri)
        if bucket == where and any(names(pattern, keys.result_part(folder, n)) for n in range(_PARTS_TRIED)):
            raise InvalidRequest(
                f"output {spec.output!r} lies within input {uri!r}, so its results would be input the next time: "
                "choose another place, or a folder there whose name begins with '_'"
            )
