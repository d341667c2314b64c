"""Finds all rows whose values a fitted step of scikit-learn refuses, from the error of a single call.

Most steps check their whole input before they compute anything. Such a step refuses all of its input for a single
value, such as an unknown category, NaN or a negative number. The error message says little about the rows, but its
traceback contains the failed check and the checked array. Pipelines, searches and stacks of models keep the order of
the rows that they pass on to their steps. Therefore the same check can be applied to all rows at once.

The result of a check is a guess until a call has confirmed it (see `Search`). Only checks of scikit-learn are used,
because custom code may reorder rows, or refuse a row because of other rows. The traceback does not show a custom step
that has already returned, so models with custom steps are excluded (see `row_order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType, TracebackType
from typing import Any

import numpy as np
import pandas as pd

from scoreline.storage.models.row_order import ORDERLY
from scoreline.tasks.scoring import step_checks
from scoreline.tasks.scoring.model_calls import first_line
from scoreline.tasks.scoring.step_checks import Cells


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """The error that a step raises for one of the rows that it refuses."""

    line: str
    """The first line of the error message."""
    quotes: bool
    """Whether the error is the same for all rows of the kind, apart from the value that it quotes."""


type CheckKey = tuple[CodeType, int, str]
"""Identifies the check of a step, and the kind of value that it refuses."""


@dataclass(kw_only=True)
class SingleCalls:
    """What calls with single rows have shown in the earlier batches of a part.

    A check that one batch of a part has confirmed need not be confirmed again in the next batches. A part is scored
    from its first batch on, so that what is remembered depends on the rows of the part and the model alone.
    """

    confirmed: dict[CheckKey, Confirmed | None] = field(default_factory=dict)
    """What a step says about one of the rows that it refuses, by check; None if the check did not tell which rows
    fail."""
    job_begins: bool = False
    """Whether no large batch of the job has been scored in this process. This affects only the speed."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Rows of a call that a step refuses because of the same kind of value."""

    check: CheckKey
    rows: Any
    """Positions of the rows within the call, an ndarray of int, in order."""
    cells: Cells
    """The values that the step refuses."""
    names: Sequence[str] | None
    """Names of the columns of the step, if it was fitted with names."""

    def confirm(self, row: int, error: Exception) -> Confirmed | None:
        """Return the error of a call with only one of the rows; None if it is not the expected error."""
        line = first_line(error)
        expected = line if self.cells.say is None else self.cells.say(np.array([row]))[0]
        _, _, words = expected.partition(": ")
        return Confirmed(line=line, quotes=expected == line) if words in str(error) else None

    def messages(self, rows: Any, confirmed: Confirmed) -> tuple[list[str], Any]:
        """Return the distinct messages that the step raises for single rows, and the number of the message of each row.

        Parameters
        ----------
        rows : ndarray of int
            Positions of the rows within the call. There must be at least one position.
        confirmed : Confirmed
            The error that the step raises for one of these rows.
        """
        say = self.cells.say
        if say is None or not confirmed.quotes:
            return [confirmed.line], np.zeros(len(rows), dtype=np.intp)
        groups = self._said_alike(rows) if self.cells.says_first else np.arange(len(rows))
        _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
        return say(rows[first]), codes

    def _said_alike(self, rows: Any) -> Any:
        """Return a number for each row.

        Rows get the same number if their first refused values are the same text in the same column.
        """
        groups, columns = np.empty(len(rows), dtype=np.int64), self.cells.mask[rows].argmax(axis=1)
        for column in np.unique(columns):
            own = np.flatnonzero(columns == column)
            values = np.asarray(self.cells.values[column], dtype=object)[rows[own]]
            are_texts = pd.api.types.infer_dtype(values, skipna=False) == "string"
            codes = pd.factorize(values)[0] if are_texts else np.arange(len(own))
            groups[own] = int(column) * len(rows) + codes
        return groups


def ask(error: Exception, n_rows: int) -> list[Refused]:
    """Return the rows that the failing step of a call refuses, by kind of value; empty if they are unknown.

    Parameters
    ----------
    error : Exception
        The exception that the call raised, with its traceback.
    n_rows : int
        Number of rows of the call.
    """
    frames: list[FrameType] = []
    cause: BaseException | None = error
    while cause is not None and len(frames) < _MAX_FRAMES:
        frames += _frames(cause.__traceback__)
        if any(_module(frame).partition(".")[0] not in ORDERLY for frame in frames):
            return []
        for number in range(len(frames) - 1, -1, -1):
            check = step_checks.CHECKS.get((_module(frames[number]), frames[number].f_code.co_name))
            if check is not None and (found := _refused(check, frames[: number + 1], n_rows)):
                return found
        cause = cause.__cause__ or cause.__context__
    return []


_MAX_FRAMES = 500


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _refused(
    check: Callable[[Mapping[str, Any], FrameType], list[Cells]], frames: Sequence[FrameType], n_rows: int
) -> list[Refused]:
    """Apply a check to all rows of the call. Return an empty list if the check itself fails."""
    frame = frames[-1]
    try:
        answers = check(frame.f_locals, frame)
    except Exception:  # noqa: BLE001  # another version of scikit-learn, or an input of a kind that is not known here
        return []
    step, names = _step(frames)
    found = []
    for cells in answers:
        if cells.mask.shape[0] != n_rows:
            return []
        rows = np.flatnonzero(cells.mask if cells.mask.ndim == 1 else cells.mask.any(axis=1))
        if len(rows):
            found.append(Refused(check=(frame.f_code, id(step), cells.kind), rows=rows, cells=cells, names=names))
    return found


def _step(frames: Sequence[FrameType]) -> tuple[Any, Sequence[str] | None]:
    """Return the estimator that was checking its input, and the names of its columns if it was fitted with names."""
    for frame in reversed(frames):
        for name in ("self", "_estimator", "estimator"):
            step = frame.f_locals.get(name)
            if step is not None and hasattr(step, "get_params"):
                names = getattr(step, "feature_names_in_", None)
                return step, None if names is None else [str(name) for name in names]
    return None, None
