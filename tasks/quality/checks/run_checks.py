"""Holds a job against its checks, and says in sentences what was found."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from scoreline.storage.errors import describe
from scoreline.storage.wording import plural
from scoreline.tasks.backlog.time_left import duration
from scoreline.tasks.job.findings import Finding, Level
from scoreline.tasks.quality.checks.check_types import Check, Checks
from scoreline.tasks.quality.checks.check_values import OF_COLUMNS, CheckName
from scoreline.tasks.quality.checks.column_checks import (
    Compared,
    check_classes,
    check_drift,
    check_mean,
    check_nulls,
    check_outside,
    percent,
    share_noise,
)
from scoreline.tasks.quality.profiles.profile import ColumnProfile, Profile

_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """The numbers of rows of a job that has ended."""

    rows: int
    """Rows of the input."""
    rejected: int = 0
    """Rows that were rejected."""


def run_checks(
    checks: Checks,
    *,
    counts: RunCounts,
    profile: Profile | None,
    baseline: Profile | None = None,
    baseline_name: str = "the baseline",
    last: RunCounts | None = None,
    newest_input: datetime | None = None,
    now: datetime,
) -> list[Finding]:
    """Hold a job against its checks. A check that itself fails gives one finding that warns and names the check.

    This function raises no exception and does no I/O.

    Parameters
    ----------
    checks : Checks
        The checks of the job (see `scoreline.tasks.quality.checks.checks_of.checks_of`).
    counts : RunCounts
        The numbers of rows of the job.
    profile : Profile or None
        The profile of the job. Without a profile, only rows, rejects and freshness are checked.
    baseline : Profile, optional
        The profile to compare with: the baseline of the version, or the profile of the first accepted job of the
        output. Without a baseline, only fixed limits are checked.
    baseline_name : str
        How messages call the baseline, for example ``the first accepted job``.
    last : RunCounts, optional
        The numbers of rows of the last accepted run.
    newest_input : datetime, optional
        Time at which the newest object of the input was written, with its zone.
    now : datetime
        The current time, with its zone.

    Returns
    -------
    list of Finding
        In the order of the checks; empty if nothing is wrong.
    """
    whole: Mapping[CheckName, Callable[[Check], Iterator[Finding]]] = {
        "rows": lambda rule: _rows(rule, counts, last),
        "rejects": lambda rule: _rejects(rule, counts, last),
        "freshness": lambda rule: _freshness(rule, newest_input, now),
        "vanished": lambda rule: _vanished(rule, checks, profile, baseline, baseline_name),
    }
    found: list[Finding] = []
    for name, check in whole.items():
        found += _safely(name, "", checks.table[name], check)
    for key, column in (profile.columns if profile is not None else {}).items():
        before = baseline.columns.get(key) if baseline is not None else None
        if before is not None and before.kind != column.kind:
            before = None
        pair = Compared(now=column, before=before, baseline_name=baseline_name)
        for name in OF_COLUMNS:
            if _applies(name, column, checks):
                check = functools.partial(_OF_COLUMNS[name], pair)
                found += _safely(name, column.name, checks.of(name, column.name), check)
    return found


_OF_COLUMNS: Mapping[CheckName, Callable[[Compared, Check], Iterator[Finding]]] = {
    "nulls": check_nulls,
    "outside": check_outside,
    "drift": check_drift,
    "mean": check_mean,
    "classes": check_classes,
}


def _applies(name: CheckName, column: ColumnProfile, checks: Checks) -> bool:
    """Return whether a check applies to a column, unless the file names the check for the column.

    Times move on by themselves, and kept columns are often numbers or dates of the day, so their range and distribution
    are not compared. Means and classes are those of scores.
    """
    if name in checks.columns.get(column.name, {}):
        return True
    if name in ("mean", "classes"):
        return column.kind == "score"
    return name == "nulls" or (column.type != "time" and column.kind != "kept")


def _safely(name: CheckName, column: str, rule: Check, check: Callable[[Check], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of a check; if it fails, one finding that says so."""
    if rule.level == "off":
        return []
    try:
        return list(check(rule))
    except Exception as error:  # noqa: BLE001  # a faulty check must not lose a job
        of = f" of {column!r}" if column else ""
        return [
            Finding(
                check=name,
                level="warn",
                column=column,
                message=f"The check {name}{of} could not be made: {describe(error)}",
            )
        ]


def _rows(rule: Check, counts: RunCounts, last: RunCounts | None) -> Iterator[Finding]:
    rows, said = counts.rows, f"The input has {plural(counts.rows, 'row')}"
    least, most, fall, rise = (rule.limit(name) for name in ("min", "max", "fall", "rise"))
    if least is not None and rows < least:
        yield _finding("rows", rule, f"{said}; at least {int(least):,} are expected.", rows, least)
    elif most is not None and rows > most:
        yield _finding("rows", rule, f"{said}; at most {int(most):,} are expected.", rows, most)
    elif last is not None and last.rows:
        change = round(rows / last.rows - 1, 9)
        than = f"{int(last.rows):,} of the last accepted run"
        if fall is not None and change < -fall:
            message = f"{said}, {percent(-change)} fewer than the {than}; up to {percent(fall)} fewer are expected."
            yield _finding("rows", rule, message, -change, fall)
        elif rise is not None and change > rise:
            message = f"{said}, {percent(change)} more than the {than}; up to {percent(rise)} more are expected."
            yield _finding("rows", rule, message, change, rise)


def _rejects(rule: Check, counts: RunCounts, last: RunCounts | None) -> Iterator[Finding]:
    if not counts.rows:
        return
    share, most, rise = counts.rejected / counts.rows, rule.limit("max"), rule.limit("rise")
    said = f"{plural(counts.rejected, 'row')} of {counts.rows:,} ({percent(share)}) were rejected"
    if most is not None and share > most:
        yield _finding("rejects", rule, f"{said}; at most {percent(most)} is allowed.", share, most)
    elif rise is not None and last is not None and last.rows:
        before = last.rejected / last.rows
        noise = share_noise((counts.rejected, counts.rows), (last.rejected, last.rows))
        if share - before > max(rise, noise):
            message = f"{said}, but {percent(before)} in the last accepted run."
            yield _finding("rejects", rule, message, share, before + rise)


def _freshness(rule: Check, newest: datetime | None, now: datetime) -> Iterator[Finding]:
    oldest = rule.limit("max_age")
    if oldest is None or newest is None:
        return
    age_s = (now - newest).total_seconds()
    if age_s > oldest:
        written = f"{newest.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        message = (
            f"The newest object of the input was written {duration(age_s)} ago, at {written}; it may be at most "
            f"{duration(oldest)} old."
        )
        yield _finding("freshness", rule, message, age_s, oldest)


def _vanished(
    rule: Check, checks: Checks, profile: Profile | None, baseline: Profile | None, baseline_name: str
) -> Iterator[Finding]:
    if profile is None or not profile.columns:
        return
    expected = {} if baseline is None else {key: column.kind for key, column in baseline.columns.items()}
    has_scores = any(column.kind == "score" for column in profile.columns.values())
    gone = [key for key, kind in expected.items() if key not in profile.columns and (has_scores or kind != "score")]
    for name in gone[:_NAMED]:
        message = f"The column {name!r} of {baseline_name} is missing."
        yield _finding("vanished", rule, message, None, None, name)
    if more := len(gone) - _NAMED if len(gone) > _NAMED else 0:
        are = "is" if more == 1 else "are"
        message = f"{plural(more, 'further column')} of {baseline_name} {are} missing."
        yield _finding("vanished", rule, message, None, None)
    for name in checks.kept:
        if name not in profile.columns and name not in gone:
            yield _finding(
                "vanished", rule, f"The kept column {name!r}, which checks name, is missing.", None, None, name
            )


def _finding(
    check: CheckName, rule: Check, message: str, value: float | None, limit: float | None, column: str = ""
) -> Finding:
    level: Level = "block" if rule.level == "block" else "warn"
    rounded = round(value, 6) if isinstance(value, float) else value
    return Finding(check=check, level=level, message=message, column=column, value=rounded, limit=limit)
