"""Tries checks on an input without a job: scores the rows in this process, and holds them against the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.ledger.base import Ledger
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.objects.buckets import Buckets
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.findings import Finding
from scoreline.tasks.job.plan import BATCH_ROWS
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.check_values import did_you_mean
from scoreline.tasks.quality.checks.run_checks import RunCounts, run_checks
from scoreline.tasks.quality.gate.latest import Latest
from scoreline.tasks.quality.gate.pointer import Pointer
from scoreline.tasks.quality.gate.stored_profiles import first_accepted, read_baseline
from scoreline.tasks.quality.profiles.counting import ColumnCounts
from scoreline.tasks.quality.profiles.profile import Kind, Profile, by_key
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.scoring.score import score_batch
from scoreline.tasks.steps.check_job import counts_of
from scoreline.tasks.steps.dry_engine import dry_engine, explaining_estimators
from scoreline.tasks.steps.engine import Engine
from scoreline.tasks.steps.job_checks import checks_of_job
from scoreline.tasks.steps.planner import draft
from scoreline.tasks.steps.preflight import UncachedModels
from scoreline.tasks.steps.sampling import Draft

MAX_ROWS = 1_000_000
"""Maximum number of rows that are scored. The drift of more rows is hardly different."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What the checks found on an input."""

    model: str
    rows: int
    """Number of rows that were tried."""
    rejected: int
    reasons: Mapping[str, int]
    """Number of rejected rows by stage and column, such as ``contract age``."""
    complete: bool
    """Whether all rows of the input were tried."""
    has_baseline: bool
    compared_with: str
    """The accepted run with whose numbers of rows those of the input are compared; empty if with none."""
    unknown: Mapping[str, str]
    """Columns that the checks name and a job with this input does not have, each with advice."""
    findings: tuple[Finding, ...]

    @property
    def blocked(self) -> bool:
        """Whether a job with this input would be blocked."""
        return any(finding.level == "block" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline checks test --json`` prints."""
        return {
            "model": self.model,
            "rows": self.rows,
            "rejected": self.rejected,
            "reasons": dict(self.reasons),
            "complete": self.complete,
            "has_baseline": self.has_baseline,
            "compared_with": self.compared_with,
            "unknown": list(self.unknown),
            "blocked": self.blocked,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def try_checks(
    buckets: Buckets, ledger: Ledger, models: ModelStorageManager, job: Job, *, against_runs: bool = False
) -> Tried:
    """Score an input in this process, write nothing, and hold the results against the checks of the job.

    Parameters
    ----------
    against_runs : bool
        Whether to compare with the accepted runs of the job's output, too, as the gate of a job does.

    Raises
    ------
    InvalidRequest
        The output has no accepted run.
    ScorelineError
        The error with which the job would fail.
    """
    pointer, latest = Pointer.of(buckets, job.spec.output), None
    if against_runs:
        latest, _ = pointer.read()
        if latest is None or latest.run is None:
            raise InvalidRequest(f"no run of {job.spec.output} is accepted, so there is none to compare with")
    with dry_engine(buckets, ledger, UncachedModels(models=models)) as engine, explaining_estimators():
        return _try(engine, job, draft(engine, job), pointer, latest)


def _try(engine: Engine, job: Job, made: Draft, pointer: Pointer, latest: Latest | None) -> Tried:
    manifest = engine.models.manifest(job.model)
    checks, baseline = checks_of_job(engine, job, manifest), read_baseline(engine.buckets.main, manifest)
    has_baseline, name = baseline is not None, "the baseline"
    if baseline is None and latest is not None:
        first = first_accepted(pointer, latest)
        baseline, name = None if first is None else first[1], "the first accepted run"
    counted = _Counted(checks)
    if made.parts:
        bundle, columns, contract = engine.models.get(job.model), made.columns, Contract(made.columns.rules)
        for piece in (piece for part in made.parts for piece in part.slices):
            if counted.rows >= MAX_ROWS:
                break
            for rows in engine.read_slice(piece, columns, job.spec.read, BATCH_ROWS):
                done = score_batch(
                    bundle,
                    rows.batch,
                    features=columns.features,
                    keep=columns.keep,
                    method=job.spec.method,
                    frames=columns.frames,
                    contract=contract,
                )
                reasons = [f"{why.stage} {why.column or ''}".strip() for why in done.rejected.values()]
                counted.add(rows.batch, columns.features, done.table, columns.keep)
                counted.reject([*reasons, *(f"decode {item.column or ''}".strip() for item in rows.malformed)])
                counted.rows += len(rows.malformed)
    complete = counted.rows >= sum(part.rows for part in made.parts)
    last = latest.run if latest is not None and complete else None
    found = run_checks(
        checks,
        counts=RunCounts(rows=counted.rows, rejected=sum(counted.reasons.values())),
        profile=counted.profile(),
        baseline=baseline,
        baseline_name=name,
        last=None if last is None else counts_of(last),
        now=datetime.now(UTC),
    )
    return Tried(
        model=job.model.ref,
        rows=counted.rows,
        rejected=sum(counted.reasons.values()),
        reasons=counted.reasons,
        complete=complete,
        has_baseline=has_baseline,
        compared_with="" if last is None else last.job_id,
        unknown=counted.unknown(),
        findings=tuple(found),
    )


class _Counted:
    """The profile of the rows that were tried, and the reasons for which rows were rejected."""

    def __init__(self, checks: Checks) -> None:
        self._named = frozenset(checks.named)
        self._kept = frozenset(checks.kept)
        self._columns: dict[tuple[Kind, str], ColumnCounts] = {}
        self.rows = 0
        self._profiled = 0
        self.reasons: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch, features: tuple[str, ...], results: pa.Table, keep: tuple[str, ...]) -> None:
        self.rows += batch.num_rows
        self._profiled += batch.num_rows
        for name in features:
            self._add("feature", name, batch.column(name))
        for name in (name for name in keep if name in self._named and name not in features):
            self._add("kept", name, batch.column(name))
        for name in results.column_names:
            if name not in keep:
                self._add("score", name, results.column(name))

    def unknown(self) -> dict[str, str]:
        """Return the columns that only the checks have, each with advice. A kept column has vanished instead."""
        names = [name for _, name in self._columns]
        if not any(kind == "score" for kind, _ in self._columns):
            return {}
        return {name: did_you_mean(name, names) for name in sorted(self._named - self._kept - set(names))}

    def _add(self, kind: Kind, name: str, column: pa.Array | pa.ChunkedArray) -> None:
        if (kind, name) not in self._columns:
            self._columns[kind, name] = ColumnCounts(name, kind)
        self._columns[kind, name].add(column)

    def reject(self, reasons: list[str]) -> None:
        for reason in reasons:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def profile(self) -> Profile:
        columns = by_key(counts.profile() for counts in self._columns.values())
        return Profile(rows=self._profiled, counted=self._profiled, columns=columns)
