"""Finds the checks of a job, and the rules that its rows must meet."""

from __future__ import annotations

from dataclasses import replace

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.attachments import CHECKS
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.tables.row_rules import RowRule
from scoreline.storage.tables.schemas import from_text
from scoreline.tasks.job.documents import Job
from scoreline.tasks.job.plan import Columns
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.checks_of import checks_of
from scoreline.tasks.scoring.contract import Contract
from scoreline.tasks.steps.engine import Engine


def checks_of_job(engine: Engine, job: Job, manifest: Manifest | None = None) -> Checks:
    """Return the checks of a job: its own, those of its model version, or the defaults.

    Parameters
    ----------
    manifest : Manifest, optional
        The manifest of the model version, if it is at hand.

    Raises
    ------
    InvalidRequest
        The text of the checks has faults.
    ModelCorrupt
        ``checks.toml`` of the version is missing, or differs from the manifest.
    """

    def read() -> bytes | None:
        found = manifest or engine.models.manifest(job.model)
        return ModelRegistry(engine.buckets.main).attachment(found, CHECKS)

    return checks_of(
        job.spec.checks, lambda: engine.published_checks.of(job.model.manifest_sha256, read), job.model.ref
    )


def with_rules(engine: Engine, job: Job, columns: Columns, manifest: Manifest) -> Columns:
    """Return the columns of a plan with the rules of the job's checks.

    Raises
    ------
    InvalidRequest
        A rule does not fit its column, or the job does not read the column.
    """
    rules = checks_of_job(engine, job, manifest).rules
    if not rules:
        return columns
    rules = _renamed(rules, manifest.feature_names, columns.features)
    try:
        Contract(rules).check(from_text(columns.reads))
    except InvalidRequest as error:
        raise InvalidRequest(f"the checks of the job do not fit its input: {error}") from error
    return replace(columns, rules=rules)


def _renamed(
    rules: tuple[RowRule, ...], names: tuple[str, ...] | None, features: tuple[str, ...]
) -> tuple[RowRule, ...]:
    """Return the rules for the columns of the input, whose names may differ from the names of the model's features."""
    if names is None or len(names) != len(features):
        return rules
    read_as = dict(zip(names, features, strict=True))
    return tuple(replace(rule, column=read_as.get(rule.column, rule.column)) for rule in rules)
