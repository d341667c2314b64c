"""What the page shows of late labels: the metrics of this job, of each model version, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scoreline.tasks.quality.outcomes.estimates import HIGHER_IS_BETTER, Estimate
from scoreline.tasks.quality.outcomes.read_outcomes import Outcomes
from scoreline.tasks.quality.outcomes.run_outcomes import RunOutcomes
from scoreline.tasks.quality.report.drawing import HEIGHT, WIDTH
from scoreline.tasks.quality.report.wording import moment, number

_RUNS = 60
"""Maximum number of runs in the picture: the latest ones."""
_VERSIONS = 20
_EDGE = 6
NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "brier": "Brier score",
    "rmse": "root mean square error",
    "mae": "mean absolute error",
    "r2": "R²",
}


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """The metrics of a run, or of all runs of a version."""

    name: str
    run: RunOutcomes
    metrics: tuple[Estimate | None, ...]
    """In the order of the table's columns."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A metric over time."""

    metric: str
    points: tuple[tuple[float, float, bool], ...]
    """Place of each run, and whether it is this job's."""
    intervals: str
    """Path of the intervals."""
    low: str
    high: str
    first: str
    last: str
    words: str


@dataclass(frozen=True, kw_only=True)
class LaterView:
    """Late labels as the page shows them."""

    outcomes: Outcomes
    columns: tuple[str, ...]
    """Names of the metrics."""
    own: tuple[MetricRow, ...]
    """Those of this job; empty if no label of its rows is known."""
    segments: tuple[MetricRow, ...]
    versions: tuple[MetricRow, ...]
    timeline: Timeline | None


def later_view(found: Outcomes, job_id: str) -> LaterView | None:
    """Return what the page shows; None if no run has labels."""
    runs = [run for run in found.runs if run.whole.labels]
    if not runs:
        return None
    columns = tuple(name for name in HIGHER_IS_BETTER if any(name in run.whole.metrics for run in runs))
    own = [run for run in runs if run.job_id == job_id]
    versions = found.versions()[-_VERSIONS:]
    return LaterView(
        outcomes=found,
        columns=tuple(NAMES[name] for name in columns),
        own=tuple(_row(run.scorer or run.model, run, columns) for run in own),
        segments=tuple(
            MetricRow(
                name=group.segment or "",
                run=RunOutcomes(**vars(run) | {"groups": (group,)}),
                metrics=tuple(group.metrics.get(name) for name in columns),
            )
            for run in own[:1]
            for group in run.groups[1:]
        ),
        versions=tuple(
            _row(run.model + (f", {run.scorer}" if run.scorer else ""), run, columns) for run in reversed(versions)
        ),
        timeline=_timeline(runs, columns[0], job_id) if columns else None,
    )


def _row(name: str, run: RunOutcomes, columns: Sequence[str]) -> MetricRow:
    return MetricRow(name=name, run=run, metrics=tuple(run.whole.metrics.get(column) for column in columns))


def _timeline(runs: Sequence[RunOutcomes], metric: str, job_id: str) -> Timeline | None:
    """Draw a metric of the latest runs of one scorer, with the intervals of 95%."""
    scorer = runs[-1].scorer
    shown = [run for run in runs if run.scorer == scorer and metric in run.whole.metrics][-_RUNS:]
    if len(shown) < 2:
        return None
    found = [run.whole.metrics[metric] for run in shown]
    low, high = min(item.low for item in found), max(item.high for item in found)
    span = (high - low) or 1.0
    across = (WIDTH - 2 * _EDGE) / (len(shown) - 1)

    def place(value: float) -> float:
        return round(HEIGHT - _EDGE - (value - low) / span * (HEIGHT - 2 * _EDGE), 1)

    xs = [round(_EDGE + across * number, 1) for number in range(len(shown))]
    first, last = shown[0], shown[-1]
    return Timeline(
        metric=NAMES[metric],
        points=tuple(
            (x, place(item.value), run.job_id == job_id) for x, item, run in zip(xs, found, shown, strict=True)
        ),
        intervals="".join(f"M{x} {place(item.low)}V{place(item.high)}" for x, item in zip(xs, found, strict=True)),
        low=number(low),
        high=number(high),
        first=moment(first.at),
        last=moment(last.at),
        words=(
            f"Line of points: {NAMES[metric]} of the latest {len(shown)} runs with labels, "
            f"{number(found[0].value)} at first and {number(found[-1].value)} at last; lowest "
            f"{number(min(item.value for item in found))}, highest {number(max(item.value for item in found))}."
        ),
    )
