"""The facts of a report, as data. ``scoreline report --json`` prints them, and the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from scoreline.tasks.job.documents import State
from scoreline.tasks.job.findings import Finding, Review
from scoreline.tasks.quality.challengers.compared_columns import LabelComparison, ScoreComparison
from scoreline.tasks.quality.challengers.comparison import Comparison
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes
from scoreline.tasks.quality.profiles.column_profile import Kind, Type
from scoreline.tasks.quality.report.pictures import Picture
from scoreline.tasks.quality.trace.lineage import Lineage

FORMAT = 1

ChecksFrom = Literal["job", "version", "defaults", "none"]
"""Where the checks of a job come from. ``none``: the job was not to be checked."""
Change = Literal["changed", "same", "unknown"]
"""Whether a column has moved away from the baseline. ``unknown``: there is nothing to compare it with."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of a column."""

    rows: int
    """Rows that were counted."""
    null_share: float | None = None
    """Share of rows in which the value is null or NaN."""
    infinities: int = 0
    mean: float | None = None
    std: float | None = None
    minimum: float | None = None
    quarter: float | None = None
    """A quarter of the numbers are smaller; an estimate."""
    median: float | None = None
    three_quarters: float | None = None
    maximum: float | None = None
    distinct: int | None = None
    """Number of different texts."""
    distinct_estimated: bool = False
    """Whether that number is an estimate, because there are very many."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a job beside the same column of what it is compared with."""

    key: str
    """Name of the column; a score with the name of a feature ends in `` (score)``."""
    kind: Kind
    type: Type
    change: Change
    now: Numbers
    before: Numbers | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """Measures of drift by name (see `scoreline.tasks.quality.checks.drift`)."""
    too_far: tuple[str, ...] = ()
    """Names of the measures that exceed the default limits of the checks."""
    findings: tuple[int, ...] = ()
    """Places of the findings about the column in `Report.findings`."""
    picture: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the columns are compared with."""

    kind: Literal["baseline", "first", "job"]
    """``baseline`` of the model version, the ``first`` accepted run of the output, or a ``job`` that was asked for."""
    name: str
    """The model version or the job."""
    rows: int
    counted: int
    columns_only_there: tuple[str, ...] = ()
    """Columns that this job lacks."""


@dataclass(frozen=True, kw_only=True)
class SegmentScore:
    """A score in a segment."""

    name: str
    mean: float | None = None
    before: float | None = None
    """Mean in the segment of what the job is compared with."""
    top: str = ""
    """The most frequent text, if the score is a text."""
    top_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The rows with one value of the segment column."""

    value: str
    rows: int
    share: float
    before: float | None = None
    """Share of the rows of what the job is compared with."""
    scores: tuple[SegmentScore, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A rejected row, as an example."""

    source: str
    row: int
    message: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    record: str | None = None
    """Raw text of the row if it could not be decoded."""


@dataclass(frozen=True, kw_only=True)
class RejectReason:
    """A reason for which rows were rejected."""

    stage: str
    column: str
    message: str
    rows: int
    examples: tuple[RejectedRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rejects:
    """The rejected rows, as far as they were counted."""

    counted: int
    """Number of rejected rows that were counted."""
    complete: bool
    """Whether all rejected rows were counted."""
    stages: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[RejectReason, ...] = ()
    more_reasons: int = 0
    """Number of further reasons."""
    note: str = ""
    """Why rows were not counted; empty if they were."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An activity of the processes, and the seconds that it took."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All facts of a report about one job."""

    job_id: str
    model: str
    """``name@version``."""
    state: State
    made: str
    """Time at which the report was made, in UTC and ISO 8601."""
    submitted: str
    seconds: float
    """Seconds from the submission until the end."""
    submitter: str = ""
    schedule: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    input: tuple[str, ...]
    """The URIs of the request."""
    output: str
    """Folder of the results."""
    rows: int
    """Rows of the input."""
    scored: int
    rejected: int
    parts: int
    error: str = ""
    checked: bool
    """Whether the checks of the job were run, as far as is known. Earlier releases ran none."""
    findings: tuple[Finding, ...] = ()
    review: Review | None = None
    """What a person decided."""
    counted: int = 0
    """Rows in the profile."""
    one_in: int = 1
    """About one in so many rows is in the profile."""
    notes: tuple[str, ...] = ()
    """What is missing in this report, and why."""
    compared: Compared | None = None
    columns: tuple[Column, ...] = ()
    """Scores first, then features, then kept columns; of each kind, those that have changed most first."""
    segment: str = ""
    segments: tuple[Segment, ...] = ()
    rejects: Rejects | None = None
    stages: tuple[Stage, ...] = ()
    work_s: float = 0.0
    """Seconds that processes worked on the parts."""
    requests_write: int = 0
    requests_read: int = 0
    result_bytes: int = 0
    checks_from: ChecksFrom
    plan_sha256: str = ""
    lineage: Lineage
    comparison: Comparison | None = None
    """The comparison with the challenger; None if the job has none."""
    outcomes: Outcomes | None = None
    """What is known by now about the runs of the output; None if no labels were added."""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON has them. Every field is there, also if it is empty or unknown (None)."""
        apart = ("lineage", "comparison", "outcomes")
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in apart}
        document: dict[str, Any] = {"format": FORMAT} | {name: _plain(value) for name, value in plain.items()}
        for name in apart:
            value = getattr(self, name)
            document[name] = None if value is None else _with_every_field(value, value.to_dict())
        return document


_DERIVED: Mapping[type, tuple[str, ...]] = {
    Outcomes: ("versions",),
    Comparison: ("agreement", "champion_seconds_per_row", "challenger_seconds_per_row"),
    LabelComparison: ("agreement",),
    ScoreComparison: ("mean_difference", "mean_absolute_difference", "rank_correlation", "drift"),
}
"""What ``to_dict`` computes from the fields, and leaves out if it is unknown."""


def _with_every_field(value: Any, document: Any) -> Any:
    """Return what ``to_dict`` returned, with the fields that it left out because they are empty or unknown."""
    if isinstance(value, (tuple, list)):
        return [_with_every_field(item, found) for item, found in zip(value, document, strict=True)]
    if not isinstance(document, Mapping):  # a value, or a mapping whose keys JSON does not allow
        return document
    if isinstance(value, Mapping):
        return {name: _with_every_field(item, document[name]) for name, item in value.items()}
    if not hasattr(value, "to_dict"):
        return document
    whole = dict(document)
    for name in (*(item.name for item in fields(value)), *_DERIVED.get(type(value), ())):
        item = getattr(value, name)
        item = item() if callable(item) else item
        whole[name] = _with_every_field(item, document[name]) if name in document else _plain(item)
    return whole


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
