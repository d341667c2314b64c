"""Tries a missing value together with the rows that are expected to be refused.

To explain a missing value, a row that can be scored is scored with this value instead of its own (see `Trials`). Most
of the time of such a call is spent on the call itself. The row is therefore scored in the same call as the rows that
are expected to be refused. If the same check refuses it, it would fail alone with the error that was confirmed for the
other rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from scoreline.tasks.scoring.features import take
from scoreline.tasks.scoring.model_calls import is_about_rows
from scoreline.tasks.scoring.non_finite import Trials
from scoreline.tasks.scoring.refusals import CheckKey, Confirmed, Refused, ask


@dataclass(kw_only=True)
class Probe:
    """A row of a batch in which one value is missing.

    Parameters
    ----------
    score : callable
        Scores features.
    x : DataFrame or ndarray, shape (n_rows, n_features)
        The features of the batch.
    column : int
        Position of the feature.
    base : int
        Number of the row.
    holding : int
        Number of a row in which the value is missing.
    """

    score: Callable[[Any], Any]
    x: Any
    name: str
    column: int
    base: int
    holding: int
    _check: CheckKey | None = None
    """The check that refuses the row, if its error is the same for all rows."""

    @classmethod
    def of(cls, trials: Trials, x: Any, score: Callable[[Any], Any], refused: Any, others: Any) -> Self | None:
        """Return the probe for rows that are expected to be refused; None if no or several values are missing in them.

        There is no probe either if a row might become other features alone than among the rows of its batch.

        Parameters
        ----------
        refused, others : ndarray of int
            Numbers of the rows that are expected to be refused, and of those that are not.
        """
        if not len(refused) or not len(others) or x.ndim != 2 or not trials.clean[others[0]]:
            return None
        if not all(_is_alike_alone(trials.batch.schema.field(name).type) for name in trials.features):
            return None
        holding = [(name, refused[mask[refused]]) for (name, _), mask in trials.masks.items() if mask[refused].any()]
        if len(holding) != 1 or not pa.types.is_floating(trials.batch.schema.field(holding[0][0]).type):
            return None
        name, rows = holding[0]
        return cls(
            score=score,
            x=x,
            name=name,
            column=list(trials.features).index(name),
            base=int(others[0]),
            holding=int(rows[0]),
        )

    def ask(self, rows: Any) -> list[Refused]:
        """Score rows together with the probe. Return those of the rows that the failing step refuses."""
        taken = take(self.x, np.append(rows, self.base))
        if isinstance(taken, pd.DataFrame):
            taken = taken.reset_index(drop=True)
            taken.iloc[len(rows), self.column] = self.x.iloc[self.holding, self.column]
        else:
            taken[len(rows), self.column] = self.x[self.holding, self.column]
        try:
            self.score(taken)
        except Exception as error:
            if not is_about_rows(error) and not isinstance(error, MemoryError):
                raise
            found = ask(error, len(taken))
        else:
            return []
        checks = [refused for refused in found if refused.rows[-1] == len(rows)]
        if len(checks) == 1 and checks[0].cells.say is None:
            self._check = checks[0].check
        without = (replace(refused, rows=refused.rows[refused.rows < len(rows)]) for refused in found)
        return [refused for refused in without if len(refused.rows)]

    def explain(self, trials: Trials, confirmed: dict[CheckKey, Confirmed | None]) -> None:
        """Tell `trials` the error of the probe, if it is known."""
        said = None if self._check is None else confirmed.get(self._check)
        if said is not None:
            trials.known[self.name, self.holding, self.base] = said.line


def _is_alike_alone(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))
