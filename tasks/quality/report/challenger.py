"""What the page shows of the comparison of a job's model with its challenger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scoreline.storage.wording import plural
from scoreline.tasks.quality.challengers.comparison import (
    Comparison,
    LabelComparison,
    ScoreComparison,
    SegmentComparison,
)
from scoreline.tasks.quality.report.columns import OTHER_SEGMENTS
from scoreline.tasks.quality.report.drawing import Drawing, draw
from scoreline.tasks.quality.report.facts import Column, Numbers
from scoreline.tasks.quality.report.pictures import picture_of_histograms
from scoreline.tasks.quality.report.wording import number, share

_CLASSES = 20
_SCORES = 12


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The rows of a class of the champion, and those to which the challenger gives another class."""

    label: str
    rows: int
    flips: int


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """A column of classes."""

    name: str
    labels: LabelComparison
    classes: tuple[Flips, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreView:
    """A column of numbers."""

    name: str
    score: ScoreComparison
    drawing: Drawing | None


@dataclass(frozen=True, kw_only=True)
class SegmentView:
    """A segment."""

    value: str
    rows: int
    flips: int | None
    difference: float | None


@dataclass(frozen=True, kw_only=True)
class ChallengerView:
    """The comparison as the page shows it."""

    comparison: Comparison
    sentences: tuple[str, ...]
    labels: tuple[LabelView, ...]
    scores: tuple[ScoreView, ...]
    more_scores: int
    segments: tuple[SegmentView, ...]
    of_label: str
    """The column of classes whose flips the segments show; empty without one."""
    of_score: str
    """The column of numbers whose differences the segments show; empty without one."""


def challenger_view(found: Comparison) -> ChallengerView:
    """Return what the page shows."""
    of_label, of_score = next(iter(found.labels), ""), next(iter(found.scores), "")
    segments = [_segment(value, item, of_label, of_score) for value, item in found.segments.items()]
    if found.other_segments is not None:
        segments.append(_segment(OTHER_SEGMENTS, found.other_segments, of_label, of_score))
    return ChallengerView(
        comparison=found,
        sentences=tuple(sentences_of(found)),
        labels=tuple(_label(name, item) for name, item in found.labels.items()),
        scores=tuple(_score(name, item) for name, item in list(found.scores.items())[:_SCORES]),
        more_scores=max(0, len(found.scores) - _SCORES),
        segments=tuple(segments),
        of_label=of_label,
        of_score=of_score,
    )


def sentences_of(found: Comparison) -> Iterator[str]:
    """Yield in sentences how the challenger compares with the model of the job."""
    yield f"{found.challenger} scored {plural(found.rows, 'row')} that {found.champion} scored, too."
    if found.agreement is not None:
        yield f"Both give the same class to {share(found.agreement)} of them."
    champion, challenger = found.champion_seconds_per_row, found.challenger_seconds_per_row
    if champion and challenger:
        ratio = challenger / champion
        if 0.9 <= ratio <= 1.1:
            yield "Both take about the same time for a row."
        else:
            yield (
                f"The challenger takes {ratio:.1f} times as long for a row."
                if ratio > 1
                else (f"The challenger takes {share(ratio)} of the champion's time for a row.")
            )
    for count, who in (found.champion_only, found.champion), (found.challenger_only, found.challenger):
        if count:
            yield f"{plural(count, 'row')} could only be scored by {who}."
    if found.failed_parts:
        first = found.failures[0].reason if found.failures else ""
        yield (
            f"The challenger did not score {plural(found.failed_parts, 'part')} of the job"
            f"{f', the first because of this: {first}' if first else ''}."
        )
    for names, who in (found.only_of_champion, found.champion), (found.only_of_challenger, found.challenger):
        if names:
            yield f"Only {who} has the {'column' if len(names) == 1 else 'columns'} {', '.join(names)}."


def columns_of(found: Comparison) -> list[tuple[str, str]]:
    """Return each compared column with how similar both versions are there, in a few words."""
    shown = [(name, f"the same class for {share(item.agreement)} of the rows") for name, item in found.labels.items()]
    for name, item in found.scores.items():
        parts = (
            ("rank correlation", item.rank_correlation),
            ("mean difference", item.mean_difference),
            ("largest distance", item.largest),
        )
        shown.append((name, ", ".join(f"{what} {number(value)}" for what, value in parts)))
    return shown


def _label(name: str, item: LabelComparison) -> LabelView:
    classes: Mapping[str, tuple[int, int]] = item.flips_by_class
    most = sorted(classes.items(), key=lambda pair: (-pair[1][1], -pair[1][0], pair[0]))[:_CLASSES]
    flips = tuple(Flips(label=label, rows=rows, flips=flips) for label, (rows, flips) in most)
    return LabelView(name=name, labels=item, classes=flips)


def _score(name: str, item: ScoreComparison) -> ScoreView:
    picture = picture_of_histograms(item.challenger, item.champion)
    column = Column(key=name, kind="score", type="number", change="unknown", now=Numbers(rows=item.pairs))
    drawing = None if picture is None else draw(column, picture, "Champion", now="the challenger")
    return ScoreView(name=name, score=item, drawing=drawing)


def _segment(value: str, item: SegmentComparison, of_label: str, of_score: str) -> SegmentView:
    return SegmentView(
        value=value,
        rows=item.rows,
        flips=item.flips.get(of_label, 0) if of_label else None,
        difference=item.mean_difference(of_score) if of_score else None,
    )
