"""What happened after rows were scored: the metrics of each run of an output on labels that arrived later.

This module has the document ``_outcomes/outcomes.json`` of an output as values; `late_labels` makes it. It works with
``requirements.txt`` alone. The numbers of a group of rows can be pooled: every value has a weight, so that the value of
several jobs is a weighted mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scoreline.storage import keys
from scoreline.storage.errors import DocumentCorrupt, ObjectNotFound
from scoreline.storage.objects.base import ObjectStore
from scoreline.storage.typed_json import MALFORMED, build, decode_object, moment

FORMAT = 1
Z = 1.959963984540054
"""Quantile of the normal distribution for intervals of 95%."""

Kind = Literal["classifier", "regressor"]
Metric = Literal["accuracy", "auc", "log_loss", "brier", "rmse", "mae", "r2"]
HIGHER_IS_BETTER: Mapping[str, bool] = {
    "auc": True,
    "accuracy": True,
    "log_loss": False,
    "brier": False,
    "rmse": False,
    "mae": False,
    "r2": True,
}
"""The metrics in the order in which people read them, and whether more is better."""
_RANGES: Mapping[str, tuple[float, float]] = {"auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "r2": (-math.inf, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number that was computed from a sample of rows, with its interval of 95%."""

    value: float
    low: float
    high: float
    error: float
    """Standard error of the value."""
    weight: float
    """Weight of the value among those of other jobs: its rows, its pairs of rows (AUC), or the spread of its targets
    (R2)."""


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
    """The metrics, by the names in `Metric`. A metric that is not defined for the rows is left out."""
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


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A file with labels that are kept, sorted by the hash of their keys."""

    name: str
    """Name of the object in ``_outcomes/``."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The content of ``_outcomes/outcomes.json``."""

    key: Sequence[str]
    """The columns that identify a row."""
    target: str
    """The column of the labels."""
    updated: str
    """Time of the latest change, in UTC and ISO 8601."""
    labels: int
    """Number of keys whose label is known."""
    files: Sequence[LabelFile] = ()
    """The labels, a later file before the earlier ones where both have a key."""
    runs: Sequence[RunOutcomes] = ()
    """The runs, the oldest first."""

    def versions(self) -> list[RunOutcomes]:
        """Return the runs of each model version as one, in order of the latest run of each."""
        by_version: dict[tuple[str, str], list[RunOutcomes]] = {}
        for run in self.runs:
            by_version.setdefault((run.model, run.scorer), []).append(run)
        return sorted(map(pooled, by_version.values()), key=lambda found: found.at)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scoreline outcomes show --json`` prints, with the versions."""
        return self._head() | {
            "runs": [run.to_dict() for run in self.runs],
            "versions": [version.to_dict() for version in self.versions()],
        }

    @classmethod
    def from_dict(cls, raw: Any) -> Outcomes:
        """Check a decoded document; raises `TypeError` or `ValueError`."""
        if isinstance(raw, dict) and raw.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found = build(cls, raw)
        moment(found.updated, "updated")
        for number, run in enumerate(found.runs):
            moment(run.at, f"runs[{number}].at")
            if not run.groups or run.whole.segment is not None:
                raise ValueError(f"runs[{number}] has no group of all rows")
            for group in run.groups:
                if not 0 <= group.labels <= group.rows:
                    raise ValueError(f"runs[{number}] has more labels than rows")
                if group.deciles and len(group.deciles) != DECILES:
                    raise ValueError(f"runs[{number}] has {len(group.deciles)} deciles")
        return found

    def to_json(self) -> bytes:
        """Encode, with a line for each run."""
        head = json.dumps(self._head(), ensure_ascii=False)
        lines = ",".join(f"\n{json.dumps(run.to_dict(), ensure_ascii=False)}" for run in self.runs)
        return f'{head[:-1]},\n"runs": [{lines}]}}\n'.encode()

    def _head(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "key": list(self.key),
            "target": self.target,
            "updated": self.updated,
            "labels": self.labels,
            "files": [asdict(file) for file in self.files],
        }


DECILES = 10


def read_outcomes(store: ObjectStore, output: str) -> Outcomes | None:
    """Return the outcomes of an output; None if no labels were added.

    Parameters
    ----------
    store : ObjectStore
        The bucket of the output.
    output : str
        The output within its bucket; empty or ending in ``/``.

    Raises
    ------
    DocumentCorrupt
        The object is not what Scoreline writes there.
    """
    return read_with_etag(store, output)[0]


def read_with_etag(store: ObjectStore, output: str) -> tuple[Outcomes | None, str | None]:
    """Return the outcomes of an output and their ETag (see `read_outcomes`)."""
    key = keys.outcomes(output)
    try:
        got = store.get(key)
    except ObjectNotFound:
        return None, None
    try:
        return Outcomes.from_dict(decode_object(got.data)), got.info.etag
    except MALFORMED as error:
        raise DocumentCorrupt(
            f"{store.uri(key)} is not what Scoreline writes there ({type(error).__name__}: {error}): move it "
            "elsewhere, then add the labels again"
        ) from error


def share(count: float, of: float) -> Estimate:
    """Return a share with Wilson's score interval.

    >>> found = share(8, 10)
    >>> found.value, round(found.low, 4), round(found.high, 4)
    (0.8, 0.4902, 0.9433)
    >>> share(0, 0).value, share(0, 0).high
    (0.0, 1.0)
    """
    if of <= 0:
        return Estimate(value=0.0, low=0.0, high=1.0, error=0.0, weight=0.0)
    value = count / of
    middle = (value + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z / (1 + Z * Z / of) * math.sqrt(value * (1 - value) / of + Z * Z / (4 * of * of))
    error = math.sqrt(value * (1 - value) / of)
    return Estimate(value=value, low=max(0.0, middle - half), high=min(1.0, middle + half), error=error, weight=of)


def estimate(name: str, value: float, error: float, weight: float) -> Estimate:
    """Return a metric with the interval that the normal distribution gives, within the range of the metric.

    >>> found = estimate("auc", 0.99, 0.01, 100.0)
    >>> round(found.low, 4), found.high
    (0.9704, 1.0)
    """
    low, high = _RANGES.get(name, (0.0, math.inf))
    return Estimate(
        value=value, low=max(low, value - Z * error), high=min(high, value + Z * error), error=error, weight=weight
    )


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
    base = sum(group.labels * (group.base or 0.0) for group in known) / labels if known else None
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


def change(name: str, before: Estimate, after: Estimate) -> float | None:
    """Return by how much a metric changed, or None if the change may be chance.

    The two estimates are held against each other by the z-test at 5%, as for independent rows.

    >>> before, after = estimate("auc", 0.8, 0.01, 1.0), estimate("auc", 0.7, 0.01, 1.0)
    >>> round(change("auc", before, after), 2), change("auc", before, before)
    (-0.1, None)
    """
    difference = after.value - before.value
    error = math.hypot(before.error, after.error)
    return difference if abs(difference) > Z * error and difference else None


def is_worse(name: str, difference: float) -> bool:
    """Return whether a change of a metric is for the worse.

    >>> is_worse("auc", -0.1), is_worse("rmse", -0.1)
    (True, False)
    """
    return (difference < 0) == HIGHER_IS_BETTER[name]
