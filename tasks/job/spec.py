"""The spec of a job, which records the request of a user, and the checks of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, InvalidURI
from scoreline.storage.keys import check_name
from scoreline.storage.models.manifest import METHODS, parse_ref
from scoreline.storage.tables.options import ReadOptions
from scoreline.tasks.job.deadline import resolve_deadline
from scoreline.tasks.job.load_options import LOAD_OPTIONS, check_load
from scoreline.tasks.job.source_options import check_no_objects, check_source
from scoreline.tasks.job.uris import names, parse_uri

PRIORITIES = ("low", "normal", "high")
MAX_CHECKS_BYTES = 100_000
"""Maximum size in bytes of the text of a job's checks."""
_PARTS_TRIED = 10
_BUDGET = re.compile(r"\d{1,15}|\d{1,15}(\.\d{1,15})?%")


def kept_names(keep: str) -> tuple[str, ...]:
    """Return the column names that `JobSpec.keep` lists; the words ``all`` and ``none`` list no names.

    >>> kept_names("id, name")
    ('id', 'name')
    >>> kept_names("all")  # a word and not a list of names
    ()
    """
    return () if keep in ("all", "none") else tuple(dict.fromkeys(name.strip() for name in keep.split(",")))


def check_budget(max_rejected: str) -> str:
    """Return a reject budget unchanged if it is well-formed; otherwise raise `InvalidRequest`."""
    if not _BUDGET.fullmatch(max_rejected):
        raise InvalidRequest(f"--max-rejected {max_rejected!r} is neither a count nor a percentage such as 1%")
    if max_rejected.endswith("%") and Decimal(max_rejected[:-1]) > 100:
        raise InvalidRequest(f"--max-rejected {max_rejected!r} is more than 100%")
    return max_rejected


def budget_rows(max_rejected: str, rows: int) -> int:
    """Return how many rows may be rejected out of `rows`.

    >>> budget_rows("1%", 250), budget_rows("7", 250)
    (2, 7)
    """
    if max_rejected.endswith("%"):
        return int(rows * Decimal(max_rejected[:-1]) / 100)
    return int(max_rejected)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """The request of a user, with all defaults filled in."""

    job_id: str
    model: str
    """``name``, ``name@alias`` or ``name@version``."""
    inputs: tuple[str, ...]
    """Objects, prefixes that end in ``/``, or globs. An object that matches several of these is scored once."""
    output: str
    """A prefix that ends in ``/``; results go below ``job_id=<job id>/``."""
    method: str | None = None
    """One of `METHODS`; by default, the usual methods of the estimator."""
    keep: str = "all"
    """Input columns to copy into the results: ``all`` (those that are not features), ``none``, or names separated by
    commas."""
    features: tuple[str, ...] | None = None
    """Columns to score, in this order, if the model was fitted without column names."""
    max_rejected: str = "1%"
    """Maximum number of rejected rows, as a count or as a percentage of all rows. With more rejected rows, the job
    fails."""
    part_rows: int | None = None
    """Target number of rows per part; by default, `part_sizes` chooses it."""
    max_attempts: int = 3
    """Maximum number of attempts at a part. If the process dies in each attempt, the part fails."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """Options for reading the objects, where their names do not determine the format."""
    rejected_of: str | None = None
    """Id of an earlier job. If set, only the rows that the earlier job rejected are scored, read from the same
    objects."""
    only_new: str | None = None
    """Name of a schedule. If set, objects that an earlier run of the schedule has scored are left out."""
    partition_by: str | None = None
    """A kept column. Each of its values gets a folder of results, ``<column>=<value>/``, without that column."""
    gather: bool = False
    """Whether the parts are gathered into fewer, larger files. With `partition_by`, parts are always gathered."""
    group: str | None = None
    """Group with which the job shares processes; by default, the name of the model."""
    priority: str | None = None
    """One of `PRIORITIES`, among the jobs of the group; by default, ``normal``."""
    max_processes: int | None = None
    """Maximum number of processes that score parts of the job at once; None for no maximum."""
    checks: str | None = None
    """Text of the checks of the job, in the format of ``checks.toml``, or ``none``. By default, the checks of the model
    version apply. `scoreline.tasks.quality` reads the text."""
    deadline: str | None = None
    """Time in ISO 8601 at which the job ends if it has not ended before. In a request, this may also be a duration from
    the submission."""

    profile: str | None = None
    """``on`` or ``off``: whether rows and scores are counted (see `scoreline.tasks.quality`). By default, the setting
    of the workers decides."""
    segment: str | None = None
    """A kept column. Rows and scores are also counted by its values."""
    challenger: str | None = None
    """``name``, ``name@alias`` or ``name@version`` of a model that scores the same rows, for comparison."""
    into: str | None = None
    """A table, ``schema.table``, into which the accepted results are loaded."""
    key: tuple[str, ...] | None = None
    """Columns that identify a row of the table."""
    into_columns: tuple[str, ...] | None = None
    """Columns to load, as ``name`` or ``column of the table=name``; by default, all columns of the results."""
    mode: str | None = None
    """``upsert``, ``append`` or ``replace``; by default, ``upsert``."""
    create: bool | None = None
    """Whether the table is created if it does not exist."""
    only_changed: bool | None = None
    """Whether rows that are as in the accepted run of the output keep their scores, and are not scored again."""
    database: str | None = None
    """Name of a database that the workers know; by default, their database of results."""

    query: str | None = None
    """Name of a query that workers know. If set, its rows are scored, which a worker stages below ``inputs``."""
    params: Mapping[str, str] | None = None
    """Values of the parameters of the query."""
    table: str | None = None
    """``schema.table`` in a database that workers know. If set, its rows are scored, as for `query`."""
    where_recent: tuple[str, ...] | None = None
    """A column with times and a duration. If set, only the rows of the table with a time in that span are scored."""

    @property
    def group_name(self) -> str:
        """The group with which the job shares processes."""
        return self.group or parse_ref(self.model)[0]

    @property
    def arranged(self) -> bool:
        """Whether the parts are arranged into other result files after all parts are scored."""
        return self.gather or self.partition_by is not None

    @property
    def reads_database(self) -> bool:
        """Whether the job scores rows of a database."""
        return self.query is not None or self.table is not None

    @property
    def source_name(self) -> str:
        """What a job reads from a database, for messages: ``query churn`` or ``table public.customers``."""
        return f"query {self.query}" if self.query is not None else f"table {self.table}"

    def check(self) -> JobSpec:
        """Return the spec unchanged if it is well-formed; otherwise raise `InvalidRequest`.

        A spec is untrusted: it may come from another application's message, or from anyone with write access to the
        bucket.
        """
        self._check_types()
        check_name("job id", self.job_id)
        if self.job_id == "active":  # the folder jobs/active/ contains the markers of jobs
            raise InvalidRequest("job id 'active' is reserved: choose another")
        parse_ref(self.model)
        if self.challenger is not None:
            parse_ref(self.challenger)
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
        if self.group is not None:
            check_name("group", self.group)
        if self.priority is not None and self.priority not in PRIORITIES:
            raise InvalidRequest(f"priority {self.priority!r} is unknown: choose one of {', '.join(PRIORITIES)}")
        if self.checks is not None and len(self.checks.encode("utf-8", "replace")) > MAX_CHECKS_BYTES:
            raise InvalidRequest(f"checks has more than {MAX_CHECKS_BYTES:,} bytes: check fewer values or columns")
        if self.deadline is not None:
            resolve_deadline(self.deadline, datetime.now(UTC).isoformat())
        if self.profile not in (None, "on", "off"):
            raise InvalidRequest(f"profile {self.profile!r} is neither 'on' nor 'off'")
        if self.segment is not None and (not self.segment or self.profile == "off"):
            raise InvalidRequest(
                f"segment {self.segment!r} needs a profile: leave out --profile off"
                if self.segment
                else "segment names no column: name one, or leave it out"
            )
        check_source(query=self.query, params=self.params, table=self.table, where_recent=self.where_recent)
        if self.reads_database and self.rejected_of is None:  # otherwise, the rows of the job before are read
            check_no_objects(self.inputs, self.job_id, self.read, only_new=self.only_new is not None)
        self._check_load()
        for name in ("part_rows", "max_attempts", "max_processes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidRequest(f"{name} {value!r} is not a whole number of at least 1")
        return self

    def _check_load(self) -> None:
        for name in ("create", "only_changed"):
            if type(getattr(self, name)) not in (bool, type(None)):
                raise InvalidRequest(f"{name} {getattr(self, name)!r} is neither true nor false")
        if self.only_changed and (self.rejected_of is not None or self.only_new is not None):
            raise InvalidRequest(
                "only_changed needs all rows of the input: leave it out, or leave out "
                + ("only_new" if self.rejected_of is None else "--rejected")
            )
        if self.into is not None:
            check_load(self.into, self.key or (), self.into_columns or (), self.mode or "upsert")
            if self.database is not None:
                check_name("database", self.database)
        elif given := [
            name
            for name in LOAD_OPTIONS
            if getattr(self, name) is not None and not (name == "key" and self.only_changed)
        ]:
            raise InvalidRequest(f"{', '.join(given)} without into: name the table with --into")

    def _check_types(self) -> None:
        optional = (
            *("method", "only_new", "rejected_of", "partition_by", "group", "priority", "checks", "deadline"),
            *("profile", "segment", "challenger", "into", "mode", "database", "query", "table"),
        )
        for name in ("job_id", "model", "output", "keep", "max_rejected", *optional):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in optional):
                raise InvalidRequest(f"{name} {value!r} is not a text")
        if not all(isinstance(uri, str) for uri in self.inputs):
            raise InvalidRequest(f"input {list(self.inputs)!r} is neither a text nor several texts")
        if self.features is not None and not all(isinstance(name, str) for name in self.features):
            raise InvalidRequest(f"features {list(self.features)!r} are not all texts")


def check_apart(spec: JobSpec) -> None:
    """Refuse an output that lies within an input, because the results of one run would become input of the next run.

    Only new jobs are checked. A job that was accepted earlier keeps its output.
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
