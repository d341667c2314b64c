"""Compares the columns and segments of two profiles, for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from scoreline.tasks.job.findings import Finding
from scoreline.tasks.quality.checks.check_values import default_limits
from scoreline.tasks.quality.checks.measures import Measure, exceeded
from scoreline.tasks.quality.profiles.column_profile import ColumnProfile, Kind
from scoreline.tasks.quality.profiles.profile import Profile
from scoreline.tasks.quality.report.facts import Change, Column, Numbers, Segment, SegmentScore
from scoreline.tasks.quality.report.pictures import picture_of

_KINDS: tuple[Kind, ...] = ("score", "feature", "kept")
assert set(_KINDS) == set(get_args(Kind))
_SCORES_OF_SEGMENTS = 3
"""Maximum number of scores that are shown for each segment."""


def compared_columns(profile: Profile, reference: Profile | None, findings: Sequence[Finding]) -> tuple[Column, ...]:
    """Return the columns of a job: scores, features, kept columns; those with findings and much drift first.

    Parameters
    ----------
    reference : Profile, optional
        The profile to compare with.
    """
    columns = []
    for key, now in profile.columns.items():
        before = reference.columns.get(key) if reference is not None else None
        if before is not None and before.kind != now.kind:
            before = None
        columns.append(_column(key, now, before, findings))
        for column in (now, before):  # those of all columns together would take 100 MB of a table with 2,000 columns
            if column is not None:
                column.histogram.release_ends()
                column.lengths.release_ends()
    place = {key: number for number, key in enumerate(profile.columns)}
    return tuple(
        sorted(
            columns,
            key=lambda column: (
                _KINDS.index(column.kind),
                not column.findings,
                column.change != "changed",
                -column.measures.get("psi", 0.0) if column.change == "changed" else 0.0,
                place[column.key],
            ),
        )
    )


def _column(key: str, now: ColumnProfile, before: ColumnProfile | None, findings: Sequence[Finding]) -> Column:
    measures = _measures(now, before)
    limits = default_limits("drift")
    too_few = before is None or _least(now, before) < limits["min_rows"]
    too_far = () if too_few else tuple(measure.name for measure, _ in exceeded(measures, limits))
    found = tuple(place for place, finding in enumerate(findings) if finding.column == now.name)
    change: Change = "changed" if found or too_far or (before is not None and now.type != before.type) else "same"
    if change == "same" and (before is None or not measures):
        change = "unknown"
    return Column(
        key=key,
        kind=now.kind,
        type=now.type,
        change=change,
        now=numbers_of(now),
        before=None if before is None else numbers_of(before),
        measures={measure.name: measure.value for measure in measures},
        too_far=too_far,
        findings=found,
        picture=picture_of(now, before),
    )


def _measures(now: ColumnProfile, before: ColumnProfile | None) -> list[Measure]:
    """Return the measures of drift; none in a process without NumPy, which need not have the packages of a worker."""
    if before is None or now.type != before.type:
        return []
    try:
        from scoreline.tasks.quality.checks.drift import drift_of_numbers, drift_of_values
    except ModuleNotFoundError:
        return []
    if now.values.total:
        return drift_of_values(before.values, now.values) if before.values.counts else []
    hidden = before.numbers > 0 and before.minimum is None  # the baseline keeps no values of the column
    return [] if hidden else drift_of_numbers(before.histogram, now.histogram, before.std, now.std)


def _least(now: ColumnProfile, before: ColumnProfile) -> int:
    return min(max(now.numbers, now.values.total), max(before.numbers, before.values.total))


def numbers_of(column: ColumnProfile) -> Numbers:
    """Return the numbers of a column that a report shows."""
    return Numbers(
        rows=column.rows,
        null_share=column.null_share,
        infinities=column.positive_infinities + column.negative_infinities,
        mean=column.mean,
        std=column.std,
        minimum=column.minimum,
        quarter=column.quantile(0.25),
        median=column.quantile(0.5),
        three_quarters=column.quantile(0.75),
        maximum=column.maximum,
        distinct=min(column.values.distinct, column.values.total) if column.values.total else None,
        distinct_estimated=column.values.level > 0,
    )


def compared_segments(profile: Profile, reference: Profile | None) -> tuple[Segment, ...]:
    """Return the segments of a profile, those with the most rows first, and all further ones together at the end."""
    same = reference if reference is not None and reference.segment == profile.segment else None
    total, total_before = profile.counted, same.counted if same is not None else 0
    segments = []
    for value, inner in profile.segments.items():
        before = same.segments.get(value) if same is not None else None
        segments.append(_segment(value, inner, before, total, total_before))
    segments.sort(key=lambda segment: -segment.rows)
    if profile.other_segments is not None:
        segments.append(_segment(OTHER_SEGMENTS, profile.other_segments, None, total, 0))
    return tuple(segments)


OTHER_SEGMENTS = "(all others)"


def _segment(value: str, now: Profile, before: Profile | None, total: int, total_before: int) -> Segment:
    return Segment(
        value=value,
        rows=now.counted,
        share=now.counted / total if total else 0.0,
        before=before.counted / total_before if before is not None and total_before else None,
        scores=tuple(_scores(now.columns.values(), before)),
    )


def _scores(columns: Iterable[ColumnProfile], before: Profile | None) -> Iterable[SegmentScore]:
    old = {column.name: column for column in before.columns.values() if column.kind == "score"} if before else {}
    for column in [column for column in columns if column.kind == "score"][:_SCORES_OF_SEGMENTS]:
        past = old.get(column.name)
        top = column.values.top(1)
        yield SegmentScore(
            name=column.name,
            mean=column.mean,
            before=past.mean if past is not None else None,
            top=top[0][0] if top else "",
            top_share=top[0][1] / column.values.total if top else None,
        )
