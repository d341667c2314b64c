"""Lists the runs of an output: those that ``latest.json`` lists, and those that wait for a decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt
from scoreline.storage.objects.base import ObjectStore
from scoreline.tasks.job.documents import Status, read_outcome
from scoreline.tasks.quality.gate.latest import Latest

RunState = Literal["latest", "accepted", "withdrawn", "blocked"]


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run of an output."""

    job_id: str
    state: RunState
    """``latest``: the run that readers take; ``accepted``, ``withdrawn``: decided; ``blocked``: not decided."""
    at: str
    """The slot, or the time of submission if the run belongs to no schedule."""
    model: str
    rows: int
    rejected: int
    who: str
    """Who decided: a person, or ``checks``."""
    decided: str = ""
    """Time of the decision; empty if it is not known."""
    reason: str = ""
    """Why, or what the checks found."""

    def to_dict(self) -> dict[str, Any]:
        """Return the run as ``scoreline results --json`` prints it."""
        return dict(vars(self))


def list_runs(main: ObjectStore, output: str, document: Latest | None, blocked: Iterable[Status]) -> list[ListedRun]:
    """Return the runs of an output, the newest first.

    Parameters
    ----------
    output : str
        URI of the output; ends in ``/``.
    blocked : iterable of Status
        Blocked jobs of any output, as the index lists them.
    """
    found = {run.job_id: run for run in _decided(document)}
    for run in _undecided(main, output, blocked):
        found.setdefault(run.job_id, run)
    return sorted(found.values(), key=lambda run: (run.at, run.job_id), reverse=True)


def _decided(document: Latest | None) -> Iterator[ListedRun]:
    for run in () if document is None else document.runs:
        is_latest = document is not None and run.job_id == document.job_id
        yield ListedRun(
            job_id=run.job_id,
            state="latest" if is_latest else run.decision,
            at=run.place.at.isoformat(),
            model=run.model,
            rows=run.rows,
            rejected=run.rejected,
            who=run.who,
            decided=run.decided,
            reason=run.reason,
        )


def _undecided(main: ObjectStore, output: str, blocked: Iterable[Status]) -> Iterator[ListedRun]:
    for status in blocked:
        if status.output != keys.output_folder(output, status.job_id):
            continue
        try:
            outcome = read_outcome(main, status.job_id)
        except DocumentCorrupt:
            continue
        if outcome is None or outcome.state != "blocked":  # it was accepted or removed since
            continue
        checks = outcome.checks
        findings = [finding for finding in (checks.findings if checks else ()) if finding.level == "block"]
        review = checks.review if checks else None
        slot = keys.slot_of(status.job_id)
        yield ListedRun(
            job_id=status.job_id,
            state="blocked" if review is None else "withdrawn",
            at=status.submitted if slot is None else slot[0].isoformat(),
            model=status.model,
            rows=outcome.rows,
            rejected=outcome.rejected,
            who="checks" if review is None else review.who,
            decided="" if review is None else review.at,
            reason=" ".join(_sentence(finding.message) for finding in findings) if review is None else review.reason,
        )


def _sentence(message: str) -> str:
    return message if message.endswith((".", "…")) else f"{message}."
