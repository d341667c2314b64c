"""What labels that arrived later say about the scores of a run, and of all runs of a model version together.

Works with ``requirements.txt`` alone. Every number has a weight, so that the number of several runs is a weighted mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scoreline.tasks.quality.outcomes.estimates import HIGHER_IS_BETTER, Estimate, estimate, share

DECILES = 10

Kind = Literal["classifier", "regressor"]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Rows with similar predictions, and what happened to them.

    For a classifier, the prediction is the probability of the positive class, or of the most probable of more than two
    classes, and what happened is the share of rows in which it came true. For a regressor, both are numbers.
    """

    rows: float
    """Number of rows. Rows with equal predictions are divided between two deciles, so it may be a fraction."""
    predicted: float
    """Mean of the predictions."""
    observed: float
    """Mean of what happened."""
    low: float
    high: float
    """The interval of 95% of `observed`."""
    start: float | None = None
    stop: float | None = None
    """The limits of the predictions of a calibration table; None for deciles."""

    def to_dict(self) -> dict[str, Any]:
        """Return the bin as JSON has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of a run, or of one segment of the run, and their metrics."""

    segment: str | None = None
    """The value of the segment; None for all rows."""
    rows: int
    """Number of rows with a result."""
    labels: int
    """Number of these rows whose label is known."""
    metrics: Mapping[str, Estimate]
    """The metrics, by the names in `HIGHER_IS_BETTER`. A metric that is not defined for the rows is left out."""
    base: float | None = None
    """Share of the rows with the positive class, or whose most probable class came true; the mean of the target of a
    regressor. None without labels."""
    calibration: Sequence[Bin] = ()
    """Bins of equal width of the probability, without empty ones. Regressors have none."""
    deciles: Sequence[Bin] = ()
    """Tenths of the rows by prediction, the highest predictions first."""

    @property
    def coverage(self) -> Estimate:
        """The share of the rows whose label is known, with Wilson's interval."""
        return share(self.labels, self.rows)

    def lift(self, decile: int) -> float | None:
        """Return how much more often the rows of a decile came true than all rows, or None if that is not defined."""
        return self.deciles[decile].observed / self.base if self.base else None

    def to_dict(self) -> dict[str, Any]:
        """Return the group as JSON has it."""
        found: dict[str, Any] = {} if self.segment is None else {"segment": self.segment}
        found |= {"rows": self.rows, "labels": self.labels}
        found["metrics"] = {name: asdict(item) for name, item in self.metrics.items()}
        if self.base is not None:
            found["base"] = self.base
        for name, bins in (("calibration", self.calibration), ("deciles", self.deciles)):
            if bins:
                found[name] = [item.to_dict() for item in bins]
        return found


@dataclass(frozen=True, kw_only=True)
class RunOutcomes:
    """What the labels say about the scores of one model in one accepted run, or in all runs of a model version."""

    job_id: str
    """The job; empty if all runs of a version are meant."""
    model: str
    """The ``name@version`` that scored every row."""
    scorer: str = ""
    """The model of the bundle, if the bundle has several."""
    kind: Kind
    at: str
    """The slot of the run, or the time of its submission; for a version, that of its latest run."""
    groups: Sequence[Group]
    """All rows first, and then the segments by name."""
    segment: str = ""
    """The column of the segments; empty if there is none."""
    positive: str = ""
    """The class whose probability the metrics are about, if there are two classes."""
    one_in: int = 1
    """The AUC and the deciles are of one in so many rows, which a hash of the key chooses."""
    repeated: int = 0
    """Number of rows whose key another row of the run has, too."""
    runs: int = 1
    """Number of runs."""

    @property
    def whole(self) -> Group:
        """The group of all rows."""
        return self.groups[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON has it."""
        defaults = {"scorer": "", "segment": "", "positive": "", "one_in": 1, "repeated": 0, "runs": 1, "job_id": ""}
        found = {name: value for name, value in vars(self).items() if value != defaults.get(name, self)}
        return found | {"groups": [group.to_dict() for group in self.groups]}


def pooled(runs: Sequence[RunOutcomes]) -> RunOutcomes:
    """Return several runs of one model version as one.

    Counts add up, and so do the bins and deciles of the runs. Metrics are means, weighted by rows; those of the AUC are
    weighted by the pairs of a positive and a negative row of the same run, because the scores of different runs are not
    ranked together.
    """
    last = max(runs, key=lambda run: run.at)
    by_segment: dict[str | None, list[Group]] = {}
    for group in (group for run in runs for group in run.groups):
        by_segment.setdefault(group.segment, []).append(group)
    names = sorted(by_segment, key=lambda name: (name is not None, name or ""))
    return RunOutcomes(
        job_id="",
        model=last.model,
        scorer=last.scorer,
        kind=last.kind,
        at=last.at,
        groups=tuple(_pooled_group(by_segment[name], last.kind) for name in names),
        segment=last.segment,
        positive=last.positive,
        one_in=max(run.one_in for run in runs),
        repeated=sum(run.repeated for run in runs),
        runs=len(runs),
    )


def _pooled_group(groups: Sequence[Group], kind: Kind) -> Group:
    labels = sum(group.labels for group in groups)
    known = [group for group in groups if group.labels and group.base is not None]
    of_known = sum(group.labels for group in known)  # runs without probabilities have no base
    base = sum(group.labels * (group.base or 0.0) for group in known) / of_known if known else None
    return Group(
        segment=groups[0].segment,
        rows=sum(group.rows for group in groups),
        labels=labels,
        metrics={
            name: _pooled_metric(name, found)
            for name in HIGHER_IS_BETTER
            if (found := [group.metrics[name] for group in groups if name in group.metrics])
        },
        base=base,
        calibration=_pooled_bins([bin for group in groups for bin in group.calibration], kind),
        deciles=tuple(
            found
            for number in range(DECILES)
            for found in _pooled_bins([group.deciles[number] for group in groups if group.deciles], kind)
        ),
    )


def _pooled_metric(name: str, found: Sequence[Estimate]) -> Estimate:
    if len(found) == 1:
        return found[0]
    weight = sum(item.weight for item in found)
    power = 2 if name == "rmse" else 1  # the squares of the errors have a mean, their roots have none
    value = sum(item.weight * item.value**power for item in found) / weight
    errors = (item.error * (2 * item.value if power == 2 else 1) for item in found)
    error = math.sqrt(sum((item.weight * one) ** 2 for item, one in zip(found, errors, strict=True))) / weight
    if name == "accuracy":
        return share(value * weight, weight)
    if power == 2:
        value = math.sqrt(value)
        error = error / (2 * value) if value else 0.0
    return estimate(name, value, error, weight)


def _pooled_bins(bins: Iterable[Bin], kind: Kind) -> tuple[Bin, ...]:
    by_start: dict[float, list[Bin]] = {}
    for item in bins:
        by_start.setdefault(item.start if item.start is not None else 0.0, []).append(item)
    found = []
    for _, same in sorted(by_start.items()):
        rows = sum(item.rows for item in same)
        observed = sum(item.rows * item.observed for item in same) / rows
        if kind == "classifier":
            interval = share(observed * rows, rows)
            low, high = interval.low, interval.high
        else:
            half = math.sqrt(sum((item.rows * (item.high - item.low) / 2) ** 2 for item in same)) / rows
            low, high = observed - half, observed + half
        found.append(
            Bin(
                rows=rows,
                predicted=sum(item.rows * item.predicted for item in same) / rows,
                observed=observed,
                low=low,
                high=high,
                start=same[0].start,
                stop=same[0].stop,
            )
        )
    return tuple(found)
