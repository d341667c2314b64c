"""The rejected rows of a batch, as arrays, because there may be thousands of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from scoreline.tasks.scoring.features import Rejection, Stage


class RowsAlike(NamedTuple):
    """Rows that were rejected at the same stage and because of the same column."""

    rows: Any
    """Numbers of the rows: ndarray of int."""
    codes: Any
    """For each row, the position of its message in `messages`: ndarray of int."""
    stage: Stage
    column: str | None
    messages: Sequence[str]


class RejectedRows(Mapping[int, Rejection]):
    """The reasons of rejected rows, by row number, in order.

    Parameters
    ----------
    rows : ndarray of int
        Numbers of the rows, in order.
    codes : ndarray of int
        For each row, the position of its reason in the lists below.
    stages, columns, messages : sequence
        The distinct reasons, as in `Rejection`.
    """

    def __init__(
        self,
        rows: Any,
        codes: Any,
        stages: Sequence[Stage],
        columns: Sequence[str | None],
        messages: Sequence[str],
    ) -> None:
        self.rows = rows
        self.codes = codes
        self.stages = stages
        self.columns = columns
        self.messages = messages

    @classmethod
    def of(cls, rejected: Mapping[int, Rejection]) -> RejectedRows:
        """Return the rows of any mapping."""
        if isinstance(rejected, RejectedRows):
            return rejected
        return cls.joined(alike(rejected))

    @classmethod
    def joined(cls, groups: Iterable[RowsAlike]) -> Self:
        """Return the rows of several groups. No row may be in two of them."""
        groups = [group for group in groups if len(group.rows)]
        if not groups:
            none = np.empty(0, dtype=np.int64)
            return cls(none, none, (), (), ())
        counts = [len(group.messages) for group in groups]
        first = np.cumsum([0, *counts[:-1]])
        rows = np.concatenate([group.rows for group in groups])
        codes = np.concatenate([group.codes + start for group, start in zip(groups, first, strict=True)])
        order = np.argsort(rows, kind="stable")
        return cls(
            rows[order],
            codes[order],
            [group.stage for group in groups for _ in group.messages],
            [group.column for group in groups for _ in group.messages],
            [message for group in groups for message in group.messages],
        )

    def among(self, rows: Any) -> RejectedRows:
        """Return the rows with other numbers: the number of row ``n`` becomes ``rows[n]``. `rows` is in order."""
        return RejectedRows(rows[self.rows], self.codes, self.stages, self.columns, self.messages)

    def merged(self, other: RejectedRows) -> RejectedRows:
        """Return the rows of both. No row may be in both."""
        rows = np.concatenate([self.rows, other.rows])
        codes = np.concatenate([self.codes, other.codes + len(self.messages)])
        order = np.argsort(rows, kind="stable")
        return RejectedRows(
            rows[order],
            codes[order],
            [*self.stages, *other.stages],
            [*self.columns, *other.columns],
            [*self.messages, *other.messages],
        )

    def between(self, start: int, stop: int) -> RejectedRows:
        """Return the rows from `start` to before `stop`, numbered from `start`."""
        low, high = np.searchsorted(self.rows, (start, stop))
        rows = self.rows[low:high] - start
        return RejectedRows(rows, self.codes[low:high], self.stages, self.columns, self.messages)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

    def __getitem__(self, row: int) -> Rejection:
        place = int(np.searchsorted(self.rows, row))
        if place == len(self.rows) or self.rows[place] != row:
            raise KeyError(row)
        code = int(self.codes[place])
        return Rejection(stage=self.stages[code], column=self.columns[code], message=self.messages[code])

    def __repr__(self) -> str:
        return repr(dict(self))


def alike(rejected: Mapping[int, Rejection]) -> list[RowsAlike]:
    """Return the rows of a mapping in groups."""
    groups: dict[tuple[Stage, str | None], tuple[list[int], list[int], dict[str, int]]] = {}
    for row, why in rejected.items():
        rows, codes, messages = groups.setdefault((why.stage, why.column), ([], [], {}))
        rows.append(row)
        codes.append(messages.setdefault(why.message, len(messages)))
    return [
        RowsAlike(np.array(rows, dtype=np.int64), np.array(codes, dtype=np.int64), stage, column, list(messages))
        for (stage, column), (rows, codes, messages) in groups.items()
    ]
