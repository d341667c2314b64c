"""Measures how long the calls of a model take, so that a batch of a slow model does not take long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scoreline.storage.errors import RejectBudgetExceeded
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.tables.base import align
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import BATCH_ROWS
from scoreline.tasks.steps.sampling import SAMPLE_ROWS, TRIAL_ROWS, TRIAL_S, Draft, score_rows_of

MIN_BATCH_ROWS = 1_024
"""Minimum number of rows of a batch, if there are so many. With fewer rows, some models round sums differently."""
FIXED_SHARE = 0.1
"""Maximum share of the fixed time of a call in the time of a batch."""
_LONGEST_CALL_S = 1.0
"""If a call with the rows of the sample takes longer, no more rows are tried, because planning would take long. The
model then counts as slow for each row."""


@dataclass(frozen=True, kw_only=True)
class CallTime:
    """The time of a call: a fixed time, and a time for each row."""

    fixed_s: float
    row_s: float

    @classmethod
    def of(cls, few: tuple[int, float], many: tuple[int, float]) -> Self:
        """Return the time of a call from two measured calls, each given by its number of rows and its seconds.

        >>> CallTime.of((64, 0.125), (256, 0.5))
        CallTime(fixed_s=0.0, row_s=0.001953125)
        >>> CallTime.of((64, 0.5), (256, 0.25))
        CallTime(fixed_s=0.5, row_s=0.0)
        """
        row_s = max(0.0, (many[1] - few[1]) / (many[0] - few[0]))
        return cls(fixed_s=max(0.0, few[1] - few[0] * row_s), row_s=row_s)

    def rows_in(self, seconds: float) -> int:
        """Return how many rows a batch may have to take about `seconds`.

        A batch takes longer if the fixed time of its call would otherwise be more than `FIXED_SHARE` of its time, or if
        it would have fewer than `MIN_BATCH_ROWS` rows.

        >>> CallTime(fixed_s=0.01, row_s=0.0001).rows_in(0.5), CallTime(fixed_s=1.0, row_s=0.001).rows_in(0.5)
        (4864, 8960)
        """
        if not self.row_s:
            return BATCH_ROWS
        rows = max(seconds - self.fixed_s, self.fixed_s * (1 / FIXED_SHARE - 1)) / self.row_s
        return max(MIN_BATCH_ROWS, align(int(min(rows, BATCH_ROWS))))


def measure_call(job: Job, bundle: Bundle, made: Draft) -> CallTime | None:
    """Score the rows of the sample once more, and then each of them many times in one call.

    Rows of the sample that cannot be scored are left out, because finding such rows takes time.

    Returns
    -------
    CallTime, optional
        None if the sample has few rows that can be scored.
    """
    if made.sample is None or made.scored is None or made.rows_per_s is None:
        return None
    rows = np.setdiff1d(np.arange(made.sample.num_rows), np.array(list(made.scored.rejected), dtype=np.int64))
    if len(rows) < SAMPLE_ROWS // 2:
        return None

    def seconds(numbers: npt.NDArray[np.int64]) -> float:
        assert made.sample is not None
        batch = made.sample.take(pa.array(numbers))
        begun = time.perf_counter()
        score_rows_of(job, bundle, batch, made.columns, max_rejected=0)
        return time.perf_counter() - begun

    try:
        few_s = seconds(rows)
        if few_s > _LONGEST_CALL_S:
            return CallTime(fixed_s=0.0, row_s=few_s / len(rows))
        many = min(TRIAL_ROWS, max(4 * len(rows), int(TRIAL_S * len(rows) / max(few_s, 1e-6))))
        return CallTime.of((len(rows), few_s), (many, seconds(np.resize(rows, many))))
    except RejectBudgetExceeded:  # the model refuses rows together that it accepts among others
        return None
