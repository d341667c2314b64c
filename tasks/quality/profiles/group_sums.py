"""Adds up the counts of columns, as footers contain them, for a group of rows: a segment, or all rows.

The counts become a profile only when all of them are added. Making one for each part would take most of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from scoreline.tasks.quality.profiles.column_sums import ColumnSum, ReadColumn, read_column
from scoreline.tasks.quality.profiles.profile import ColumnProfile, Kind, Profile, by_key

type Key = tuple[Kind, str]
"""Kind and name of a column."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read and checked of a group, before it is added."""

    rows: int
    counted: int
    one_in: int
    order: list[Key]
    """The columns of the sum in their order, including those that are added."""
    columns: list[tuple[Key, ReadColumn]]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is added."""
        return not self.rows and not self.columns


class GroupSum:
    """Adds up the columns of a group of rows.

    Parameters
    ----------
    empty : ColumnProfile
        A column without rows, whose histograms have the limits.
    """

    def __init__(self, empty: ColumnProfile) -> None:
        self._empty = empty
        self._rows = self._counted = 0
        self._one_in = 1
        self._order: list[Key] = []
        self.columns: dict[Key, ColumnSum] = {}
        """The sum of each column."""
        self.is_new = True
        """Whether no group was added, not even an empty one."""

    @property
    def is_empty(self) -> bool:
        """Whether there are neither rows nor columns."""
        return not self._rows and not self._order

    def read(self, raw: Mapping[str, Any], data: bytes, at: int) -> tuple[Read, int]:
        """Read and check a group whose arrays begin at `at`. Return the group, and where its arrays end.

        Raises
        ------
        ValueError, TypeError, LookupError
            The group is damaged, or its columns or its sample are not those of the sum.
        """
        rows, counted, one_in = numbers = [raw[name] for name in ("rows", "counted", "one_in")]
        if {*map(type, numbers)} != {int} or min(numbers) < 0 or not one_in:
            raise TypeError("a number of rows is not a whole number")
        found: list[tuple[Key, ReadColumn]] = []
        for column in raw["columns"]:
            key = column["kind"], column["name"]
            read, at = read_column(column, data, at, self._empty, self.columns.get(key))
            found.append((key, read))
        names = [key for key, _ in found]
        order = self._order if names == self._order else _joined(self._order, names)
        if one_in != self._one_in and not self.is_empty and (rows or names):
            raise ValueError("profiles with different samples or segments cannot be merged")
        return Read(rows, counted, one_in, order, found), at

    def add(self, read: Read) -> None:
        """Add a group that was read. Nothing was added meanwhile."""
        self.is_new = False
        if read.is_empty:
            return
        self._rows += read.rows
        self._counted += read.counted
        self._order, self._one_in = read.order, read.one_in
        for key, column in read.columns:
            self._column(key).add(column)

    def add_sum(self, other: GroupSum) -> None:
        """Add the groups that another sum has added. The other sum is used up."""
        self.is_new = False
        self._rows += other._rows
        self._counted += other._counted
        self._one_in = other._one_in
        self._order = _joined(self._order, other._order)
        for key, column in other.columns.items():
            self._column(key).add_sum(column)

    def _column(self, key: Key) -> ColumnSum:
        if key not in self.columns:
            self.columns[key] = ColumnSum(*key, self._empty)
        return self.columns[key]

    def profile(self, segment: str = "", segments: Mapping[str, Profile] | None = None, others: Any = None) -> Profile:
        """Return the sum of all groups so far, with the profiles of its segments."""
        return Profile(
            rows=self._rows,
            counted=self._counted,
            one_in=self._one_in,
            columns=by_key(self.columns[key].profile() for key in self._order),
            segment=segment,
            segments=segments or {},
            other_segments=others,
        )


def _joined(ours: list[Key], others: list[Key]) -> list[Key]:
    """Return the columns of two groups in order (see `Profile.merge`); raises `ValueError` if names are ambiguous."""
    if len({*others}) < len(others):
        raise ValueError("there are two columns of one name")
    joined = [key for kind in get_args(Kind) for key in _of_kind(kind, ours, others)]
    by_key(ColumnProfile(name=name, kind=kind) for kind, name in joined)
    return joined


def _of_kind(kind: Kind, ours: list[Key], others: list[Key]) -> list[Key]:
    one, two = ([key for key in keys if key[0] == kind] for keys in (ours, others))
    return sorted({*one, *two}) if one and two and one != two else one or two
