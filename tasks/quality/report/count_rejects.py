"""Counts rejected rows by stage and reason for a report, as many as its limits allow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from scoreline.storage.errors import PackageMissing, ScorelineError, describe, require_extra
from scoreline.storage.wording import cut
from scoreline.tasks.job.documents import WITH_RESULTS, Outcome
from scoreline.tasks.job.layout import ResultsLayout
from scoreline.tasks.job.plan_file import PlanFile
from scoreline.tasks.quality.report.facts import RejectedRow, RejectReason, Rejects

_REASONS = 12
_EXAMPLES = 2
_COLUMNS = 12
_CHARACTERS = 160


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many rejected rows are counted."""

    files: int
    rows: int


def count_rejected(layout: ResultsLayout, plan: PlanFile | None, outcome: Outcome, limits: Limits) -> Rejects | None:
    """Return why rows were rejected; None if no row was.

    Rows that cannot be counted are no error: the result says why.
    """
    if not outcome.rejected or plan is None:
        return None
    try:
        with require_extra("counting rejected rows by reason"):
            from scoreline.tasks.rejects.report import Tally, committed_rejects, read_rejects
        tally, complete = Tally(plan.columns.names, _EXAMPLES), True
        if outcome.state in WITH_RESULTS:  # the finalizer has deleted what attempts left that did not commit
            found_files = layout.store.list(layout.rejected_folder)
        else:
            found_files = committed_rejects(layout, plan.sha256)
        files = list(islice(found_files, limits.files + 1))
        for rows in read_rejects(layout.store, files[: limits.files]):
            if tally.rows >= limits.rows:
                complete = False
                break
            tally.add(rows.batch)
    except PackageMissing as error:
        return Rejects(counted=0, complete=False, note=describe(error))
    except ScorelineError as error:
        if error.transient:
            raise
        return Rejects(counted=0, complete=False, note=describe(error))
    found = tally.report("", "")
    return Rejects(
        counted=found.rows,
        complete=complete and len(files) <= limits.files,
        stages=found.stages,
        reasons=tuple(
            RejectReason(
                stage=reason.stage,
                column=reason.column,
                message=reason.message,
                rows=reason.rows,
                examples=tuple(
                    RejectedRow(
                        source=example.source,
                        row=example.row,
                        message=cut(example.message, 2 * _CHARACTERS),
                        columns={name: _short(value) for name, value in islice(example.columns.items(), _COLUMNS)},
                        record=None if example.record is None else cut(example.record, 2 * _CHARACTERS),
                    )
                    for example in reason.examples
                ),
            )
            for reason in found.reasons[:_REASONS]
        ),
        more_reasons=max(0, len(found.reasons) - _REASONS),
    )


def _short(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float)) else cut(str(value), _CHARACTERS)
