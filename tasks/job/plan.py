"""The contents of a plan: the input objects, the slices of these objects that each part reads, and the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scoreline.storage.tables.base import SeekPoint, Span
from scoreline.storage.tables.packed_spans import row_counts
from scoreline.storage.tables.row_rules import RowRule

BATCH_ROWS = 65_536
"""Maximum number of rows scored at once. Forests are fastest at this batch size."""
BATCH_BYTES = 64 << 20
"""Default limit in bytes for the memory of the rows that are scored at once (see `scoreline.tasks.scoring.batch_size`).
65,536 rows of 50 float64 columns take 52 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """An object of the input, and its spans, each of which can be read separately."""

    bucket: str
    key: str
    size: int
    etag: str
    spans: Sequence[Span]

    @property
    def row_counts(self) -> Sequence[int]:
        """The number of rows of each span."""
        return row_counts(self.spans)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A run of rows in one object."""

    bucket: str
    key: str
    size: int
    etag: str
    start: int
    """Position of the first row, in the unit of the format (see `Span`)."""
    stop: int
    first_row: int
    """Number of the first row within the object, from 0."""
    rows: int
    """Number of rows from `start` to `stop`."""
    only: Sequence[int] | None = None
    """Numbers of the rows to score, counted within the object: a range or a sorted tuple. By default all rows are
    scored."""
    point: SeekPoint | None = None
    """The last seek point before `start`; None if decompression must begin at the start of the object."""

    @property
    def uri(self) -> str:
        """URI of the object."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def count(self) -> int:
        """Number of rows that are scored."""
        return self.rows if self.only is None else len(self.only)

    @property
    def scope(self) -> tuple[int, int]:
        """The first row and the number of rows of a range that contains every row to score."""
        return (self.only.start, len(self.only)) if isinstance(self.only, range) else (self.first_row, self.rows)

    def span(self, wanted: range | None) -> Span:
        """Return the slice as a span of its object, of which the rows `wanted` are needed (see `Span.wanted`)."""
        return Span(
            start=self.start,
            stop=self.stop,
            first_row=self.first_row,
            rows=self.rows,
            size=0,
            point=self.point,
            wanted=wanted,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The slices that one task scores, in input order."""

    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Total number of rows that are scored, in all slices."""
        return sum(piece.count for piece in self.slices)


@dataclass(frozen=True, kw_only=True)
class ChallengerColumns:
    """How each part scores its rows with the challenger of the job."""

    features: tuple[str, ...] = ()
    schema: str = ""
    """Output schema as Arrow IPC in base64, kept columns included; empty if the challenger cannot score the input."""
    reads: str = ""
    """Schema of its features and of the kept columns, as Arrow IPC in base64."""
    extra: tuple[str, ...] = ()
    """Features that are read only for the challenger, because the job neither scores nor keeps them."""
    frames: bool = False
    """Whether it gets numbers in a DataFrame (see `Columns.frames`)."""
    failure: str = ""
    """Why it cannot score the input; empty if it can."""


@dataclass(frozen=True, kw_only=True)
class CarryOver:
    """From which accepted run a job with ``only_changed`` carries scores over."""

    fingerprint: str = ""
    """Digest of everything on which a score depends besides the row; empty if scores cannot be carried at all."""
    environment: str = ""
    """Digest of the versions of the libraries."""
    hashed: tuple[str, ...] = ()
    """The columns by whose values a row is recognized."""
    job_id: str = ""
    """The accepted run; empty if all rows are scored."""
    results: str = ""
    """URI of the folder with its results."""
    manifest_sha256: str = ""
    """Digest of its manifest."""
    why_not: str = ""
    """Why all rows are scored; empty if scores are carried."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that each part reads and writes."""

    features: tuple[str, ...]
    keep: tuple[str, ...]
    schema: str
    """Output schema as Arrow IPC in base64; empty for an input without rows."""
    reads: str = ""
    """Schema of the columns that are read, features first, as Arrow IPC in base64. Text is decoded to these types."""
    folders: tuple[str, ...] = ()
    """The columns that come from folder names, such as ``year=2026/``, rather than from the objects."""

    types: Mapping[str, str] = field(default_factory=dict)
    """The type in which the whole job scores each feature, for people to read."""
    frames: bool = False
    """Whether a model gets numbers in a DataFrame. A DataFrame is needed if the model does not say what it accepts, and
    fails on an array."""
    rules: tuple[RowRule, ...] = ()
    """The rules of the job's checks that each row must meet. All parts evaluate the same rules, because the digest of
    the plan covers them."""
    batch_rows: int = 0
    """Maximum number of rows that are scored at once, if the model is so slow that `BATCH_ROWS` would take too long;
    otherwise 0."""
    challenger: ChallengerColumns | None = None
    """The columns of the challenger; None without a challenger. The columns that only the challenger needs are in
    `reads`, but not in `names`."""

    carry: CarryOver | None = None
    """From which run scores are carried over; None unless the job asks for it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read for the model of the job, without duplicates."""
        return tuple(dict.fromkeys((*self.features, *self.keep)))

    @property
    def extra(self) -> tuple[str, ...]:
        """The names of the columns that are read only for the challenger."""
        return () if self.challenger is None else self.challenger.extra


def evenly_spaced[T](items: Sequence[T], most: int) -> Iterator[T]:
    """Yield at most ``most + 1`` evenly spaced items, including the first and the last.

    >>> list(evenly_spaced("abcdefghi", 2)), list(evenly_spaced("ab", 9)), list(evenly_spaced("", 9))
    (['a', 'e', 'i'], ['a', 'b'], [])
    """
    for number in sorted({n * (len(items) - 1) // most for n in range(most + 1)}) if items else ():
        yield items[number]
