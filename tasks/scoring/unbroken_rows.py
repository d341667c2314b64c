"""The rows of a batch that break no rule of the contract: only these rows are scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.tasks.scoring.batch_rejects import over_budget
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.rejected_rows import RejectedRows


@dataclass(frozen=True, kw_only=True)
class UnbrokenRows:
    """The rows of a batch that break no rule, and those that do."""

    batch: pa.RecordBatch
    """The rows that break no rule."""
    rows: Any
    """Numbers of these rows in the whole batch: ndarray of int."""
    broken: RejectedRows
    """The other rows."""

    @classmethod
    def of(cls, batch: pa.RecordBatch, contract: Contract) -> UnbrokenRows | None:
        """Return the rows that break no rule; None if no row breaks one."""
        broken = RejectedRows.joined(contract.broken(batch))
        if not broken:
            return None
        rows = np.delete(np.arange(batch.num_rows, dtype=np.int64), broken.rows)
        return cls(batch=batch.take(pa.array(rows)), rows=rows, broken=broken)

    def check_budget(
        self,
        max_rejected: int | None,
        report: Callable[[int], bool] | None,
        describe_row: Callable[[int], str] | None,
    ) -> None:
        """Raise `RejectBudgetExceeded` if the broken rows alone are too many (see `score_batch`)."""
        count, total = len(self.broken), len(self.broken) + len(self.rows)
        is_over = report is not None and report(count)
        if is_over or (max_rejected is not None and count > max_rejected):
            first = next(iter(self.broken))
            place = f"row {first} of a batch of {total}" if describe_row is None else describe_row(first)
            raise over_budget(count if is_over else f"more than {max_rejected}", place, self.broken[first])

    def describe_with(self, describe_row: Callable[[int], str] | None) -> Callable[[int], str]:
        """Return a function that describes an unbroken row by its number in the whole batch."""
        total = len(self.broken) + len(self.rows)
        place = describe_row or (lambda row: f"row {row} of a batch of {total}")
        return lambda row: place(int(self.rows[row]))

    def with_broken(self, rejected: RejectedRows) -> RejectedRows:
        """Return the broken rows and those that could not be scored, by their number in the whole batch."""
        return self.broken.merged(rejected.among(self.rows))
