"""The profile of rows and their scores: counts and exact sums for each column.

Profiles of different rows can be merged in any order, and the result is the same to the bit. This module works with
`requirements.txt` alone; `scoreline.tasks.quality.profiles.counting` makes profiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from scoreline.storage.errors import DocumentCorrupt, describe
from scoreline.storage.typed_json import MALFORMED
from scoreline.tasks.quality.profiles.column_profile import (
    EMPTY_COLUMN,
    EMPTY_SEGMENT_COLUMN,
    ColumnProfile,
    Kind,
    Type,
)
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import Histogram
from scoreline.tasks.quality.profiles.values import SHOWN, Values

__all__ = [
    "EMPTY_COLUMN",
    "EMPTY_SEGMENT_COLUMN",
    "MAX_SEGMENTS",
    "NULL_SEGMENT",
    "ColumnProfile",
    "ExactSum",
    "Histogram",
    "Kind",
    "Profile",
    "Type",
    "Values",
]

MAX_SEGMENTS = 50
"""Maximum number of values of the segment column that have a profile of their own."""
NULL_SEGMENT = "(null)"
"""The segment of rows whose segment column is null."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The profile of some rows and of their scores."""

    rows: int = 0
    """Number of rows from which the profile is made: those that could be decoded, scored or not."""
    counted: int = 0
    """Number of rows that are counted: all of them, or a sample."""
    one_in: int = 1
    """About one in so many rows is counted. A hash of the row number chooses the rows (see `sampling.sampled_rows`)."""
    columns: Mapping[str, ColumnProfile] = field(default_factory=dict)
    """The columns by name. If a score has the name of a feature, its key ends in `` (score)``."""
    segment: str = ""
    """The column by whose values the rows are divided into segments; empty if they are not."""
    segments: Mapping[str, Profile] = field(default_factory=dict)
    """The profile of each segment, in order of their values. Their histograms have fewer buckets."""
    other_segments: Profile | None = None
    """The profile of all further segments together, if there are more than `MAX_SEGMENTS`."""

    def merge(self, other: Profile) -> Profile:
        """Return the profile of the rows of both.

        Raises
        ------
        ValueError
            The profiles are of different columns, segments or samples, or one of them is shortened for a document.
        """
        if not other.rows and not other.columns:
            return self
        if not self.rows and not self.columns:
            return other
        if (self.one_in, self.segment) != (other.one_in, other.segment):
            raise ValueError("profiles with different samples or segments cannot be merged")
        return replace(
            self,
            rows=self.rows + other.rows,
            counted=self.counted + other.counted,
            columns=_merged(self.columns, other.columns),
            segments={
                name: _either(self.segments.get(name), other.segments.get(name)) or Profile()
                for name in sorted({*self.segments, *other.segments})
            },
            other_segments=_either(self.other_segments, other.other_segments),
        )._with_few_segments()

    def _with_few_segments(self) -> Profile:
        """Return the profile with at most `MAX_SEGMENTS` segments: the first in order of their values.

        The first values of all rows are among the first values of any rows in which they occur, so the result does not
        depend on the order in which profiles are merged.
        """
        kept, rest = {}, self.other_segments
        for number, (name, profile) in enumerate(self.segments.items()):
            if number < MAX_SEGMENTS:
                kept[name] = profile
            else:
                rest = _either(rest, profile)
        return replace(self, segments=kept, other_segments=rest)

    def shortened(self, number: int = SHOWN) -> Profile:
        """Return the profile as documents contain it: with at most so many values of each column."""
        return replace(
            self,
            columns={
                key: replace(column, values=column.values.shortened(number)) for key, column in self.columns.items()
            },
            segments={key: profile.shortened(number) for key, profile in self.segments.items()},
            other_segments=None if self.other_segments is None else self.other_segments.shortened(number),
        )

    def to_dict(
        self, *, derived: bool = True, describe: Callable[[Histogram], Any] = Histogram.to_json
    ) -> dict[str, Any]:
        """Return the profile as a JSON object. Unset fields are left out.

        Parameters
        ----------
        derived : bool
            Whether means and standard deviations are included, which `from_dict` does not need.
        describe : callable
            Returns what stands for a histogram.
        """
        document: dict[str, Any] = {"rows": self.rows, "counted": self.counted, "one_in": self.one_in}
        document["columns"] = [column.to_json(derived, describe) for column in self.columns.values()]
        if self.segment:
            document["segment"] = self.segment
            document["segments"] = {
                name: profile.to_dict(derived=derived, describe=describe) for name, profile in self.segments.items()
            }
        if self.other_segments is not None:
            document["other_segments"] = self.other_segments.to_dict(derived=derived, describe=describe)
        return document

    def encode(self, head: Mapping[str, Any]) -> bytes:
        """Return the profile as a JSON document that begins with the fields `head`.

        Each histogram becomes lists of numbers only while it is written. Those of 10,000 columns would take 250 MB.
        """
        document = {**head, **self.to_dict(describe=lambda histogram: histogram)}
        text = json.dumps(document, ensure_ascii=False, default=Histogram.to_json)
        return text.encode("utf-8", "surrogatepass")

    @classmethod
    def from_dict(cls, raw: Any, where: str = "the profile") -> Profile:
        """Read what `to_dict` returned.

        Parameters
        ----------
        where : str
            Where the document is stored, for the error message.

        Raises
        ------
        DocumentCorrupt
            The document is not a profile.
        """
        try:
            return cls._from_dict(raw, depth=0)
        except MALFORMED as error:
            raise DocumentCorrupt(f"{where} is damaged: {describe(error)}. Score the rows again to make it") from None

    @classmethod
    def _from_dict(cls, raw: Any, depth: int) -> Profile:
        numbers = {name: raw[name] for name in ("rows", "counted", "one_in")}
        if any(type(number) is not int or number < 0 for number in numbers.values()) or not numbers["one_in"]:
            raise TypeError("a number of rows is not a whole number")
        empty = EMPTY_SEGMENT_COLUMN if depth else EMPTY_COLUMN
        columns = by_key(ColumnProfile.from_json(column, empty) for column in raw["columns"])
        segment, inner = raw.get("segment", ""), raw.get("segments", {})
        if (
            not isinstance(segment, str)
            or not isinstance(inner, dict)
            or len(inner) > MAX_SEGMENTS
            or (depth and inner)
        ):
            raise TypeError("the segments are malformed")
        other = raw.get("other_segments")
        return cls(
            **numbers,
            columns=columns,
            segment=segment,
            segments={name: cls._from_dict(profile, depth + 1) for name, profile in sorted(inner.items())},
            other_segments=None if other is None else cls._from_dict(other, depth + 1),
        )


def by_key(columns: Iterable[ColumnProfile]) -> dict[str, ColumnProfile]:
    """Return the columns by name. A score that has the name of another column gets a key of its own."""
    keyed: dict[str, ColumnProfile] = {}
    for column in columns:
        key = f"{column.name} (score)" if column.name in keyed and column.kind == "score" else column.name
        if key in keyed:
            raise ValueError(f"there are two columns {key!r}")
        keyed[key] = column
    return keyed


def _merged(ours: Mapping[str, ColumnProfile], others: Mapping[str, ColumnProfile]) -> dict[str, ColumnProfile]:
    """Merge columns by name and kind. A part without scored rows has no scores.

    The order of the columns does not depend on the order of merging: features, kept columns, then scores; those of one
    kind stay in their order if the columns are equal, and are sorted by name otherwise.
    """
    one = {(column.kind, column.name): column for column in ours.values()}
    two = {(column.kind, column.name): column for column in others.values()}
    merged = []
    for kind in get_args(Kind):
        names = [name for of_kind, name in one if of_kind == kind]
        more = [name for of_kind, name in two if of_kind == kind]
        if names and more and names != more:
            names = sorted({*names, *more})
        for name in names or more:
            a, b = one.get((kind, name)), two.get((kind, name))
            merged.append(a.merge(b) if a and b else a or b)
    return by_key(column for column in merged if column is not None)


def _either(one: Profile | None, other: Profile | None) -> Profile | None:
    return other if one is None else one if other is None else one.merge(other)
