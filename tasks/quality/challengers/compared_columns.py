"""What is compared of one column of the results of two model versions: labels, or scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scoreline.storage.typed_json import convert
from scoreline.tasks.quality.challengers.joint_histograms import JointHistogram
from scoreline.tasks.quality.profiles.exact_sums import ExactSum
from scoreline.tasks.quality.profiles.histograms import Histogram

MAX_PAIRS = 400
"""Maximum number of pairs of labels that are counted: those of 20 classes. The first pairs in order are kept."""
BUCKETS = 128
"""Maximum number of buckets in the histogram of a score."""


@dataclass(frozen=True, kw_only=True)
class LabelComparison:
    """The predicted classes of the rows that both versions have scored.

    >>> found = LabelComparison(agreed=2, pairs={("no", "no"): 1, ("no", "yes"): 1, ("yes", "yes"): 1})
    >>> found.rows, found.flips, found.flips_by_class
    (3, 1, {'no': (2, 1), 'yes': (1, 0)})
    """

    agreed: int = 0
    """Number of rows with the same label."""
    pairs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of rows by the champion's and the challenger's label, in ascending order."""
    other_pairs: int = 0
    """Number of rows with further pairs of labels, if there are more than `MAX_PAIRS`."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.pairs.values()) + self.other_pairs

    @property
    def flips(self) -> int:
        """Number of rows whose label differs."""
        return self.rows - self.agreed

    @property
    def agreement(self) -> float | None:
        """Share of rows with the same label; None without rows."""
        return self.agreed / self.rows if self.rows else None

    @property
    def flips_by_class(self) -> dict[str, tuple[int, int]]:
        """Numbers of rows and of flips by the champion's label. Rows of `other_pairs` are left out."""
        found: dict[str, tuple[int, int]] = {}
        for (one, other), count in self.pairs.items():
            rows, flips = found.get(one, (0, 0))
            found[one] = rows + count, flips + count * (one != other)
        return found

    def merge(self, other: LabelComparison) -> LabelComparison:
        """Return the comparison of the rows of both."""
        pairs = dict(self.pairs)
        for pair, count in other.pairs.items():
            pairs[pair] = pairs.get(pair, 0) + count
        agreed, rest = self.agreed + other.agreed, self.other_pairs + other.other_pairs
        return with_few_pairs(LabelComparison(agreed=agreed, pairs=pairs, other_pairs=rest))

    def to_dict(self, derived: bool = True) -> dict[str, Any]:
        """Return a JSON object, with the share of equal labels if `derived`."""
        document: dict[str, Any] = {"agreed": self.agreed}
        if derived:
            document |= {"rows": self.rows, "flips": self.flips, "agreement": self.agreement}
        document["pairs"] = [[*pair, count] for pair, count in self.pairs.items()]
        if self.other_pairs:
            document["other_pairs"] = self.other_pairs
        return {name: value for name, value in document.items() if value is not None}

    @classmethod
    def from_dict(cls, raw: Any) -> LabelComparison:
        """Read what `to_dict` returned; raises one of `MALFORMED`."""
        pairs: dict[tuple[str, str], int] = {}
        for item in convert(raw["pairs"], tuple[Any, ...], "pairs"):
            one, other, count = item
            pair = convert(one, str, "a label"), convert(other, str, "a label")
            if convert(count, int, "a count of labels") < 1 or pair in pairs:
                raise ValueError("a pair of labels has no count, or two")
            pairs[pair] = count
        agreed, rest = (convert(raw.get(name, 0), int, name) for name in ("agreed", "other_pairs"))
        found = cls(agreed=agreed, pairs=dict(sorted(pairs.items())), other_pairs=rest)
        if min(agreed, rest) < 0 or agreed > found.rows or len(pairs) > MAX_PAIRS:
            raise ValueError("the counts of labels do not add up")
        return found


def with_few_pairs(labels: LabelComparison) -> LabelComparison:
    """Return the comparison with the first `MAX_PAIRS` pairs in order; all others are counted together."""
    pairs = sorted(labels.pairs.items())
    rest = sum(count for _, count in pairs[MAX_PAIRS:])
    return LabelComparison(agreed=labels.agreed, pairs=dict(pairs[:MAX_PAIRS]), other_pairs=labels.other_pairs + rest)


@dataclass(frozen=True, kw_only=True)
class ScoreComparison:
    """The numbers that both versions returned for the same rows, where both are finite."""

    pairs: int = 0
    """Number of rows in which both numbers are finite."""
    incomparable: int = 0
    """Number of rows in which one of the numbers is missing, NaN or infinite."""
    champion: Histogram = field(default_factory=lambda: Histogram(limit=BUCKETS))
    challenger: Histogram = field(default_factory=lambda: Histogram(limit=BUCKETS))
    joint: JointHistogram = field(default_factory=JointHistogram)
    """The pairs of numbers, for the rank correlation."""
    champion_sum: ExactSum = field(default_factory=ExactSum)
    challenger_sum: ExactSum = field(default_factory=ExactSum)
    absolute_sum: ExactSum = field(default_factory=ExactSum)
    """Sum of the absolute differences, each rounded to float64 first."""
    largest: float = 0.0
    """Largest absolute difference."""

    @property
    def mean_difference(self) -> float | None:
        """Mean of the challenger's number minus the champion's; None without pairs."""
        return _mean(ExactSum(self.challenger_sum.units - self.champion_sum.units), self.pairs)

    @property
    def mean_absolute_difference(self) -> float | None:
        """Mean distance of the two numbers; None without pairs."""
        return _mean(self.absolute_sum, self.pairs)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation (see `JointHistogram.rank_correlation`)."""
        return self.joint.rank_correlation()

    @property
    def drift(self) -> dict[str, float]:
        """``psi``, ``js`` and ``ks`` of the challenger's numbers against the champion's.

        Empty without pairs, and in a process without NumPy.
        """
        try:
            from scoreline.tasks.quality.checks.drift import drift_of_numbers
        except ModuleNotFoundError:  # who decides about a version need not have the packages of a worker
            return {}
        return {measure.name: measure.value for measure in drift_of_numbers(self.champion, self.challenger, None)}

    def merge(self, other: ScoreComparison) -> ScoreComparison:
        """Return the comparison of the rows of both; raises `ValueError` if only one is of probabilities."""
        return ScoreComparison(
            pairs=self.pairs + other.pairs,
            incomparable=self.incomparable + other.incomparable,
            champion=self.champion.merge(other.champion),
            challenger=self.challenger.merge(other.challenger),
            joint=self.joint.merge(other.joint),
            champion_sum=self.champion_sum + other.champion_sum,
            challenger_sum=self.challenger_sum + other.challenger_sum,
            absolute_sum=self.absolute_sum + other.absolute_sum,
            largest=max(self.largest, other.largest),
        )

    def to_dict(self, derived: bool = True) -> dict[str, Any]:
        """Return a JSON object, with differences, rank correlation and drift if `derived`."""
        document: dict[str, Any] = {"pairs": self.pairs, "incomparable": self.incomparable, "largest": self.largest}
        if derived:
            document |= {
                "mean_difference": self.mean_difference,
                "mean_absolute_difference": self.mean_absolute_difference,
                "rank_correlation": self.rank_correlation,
                "drift": self.drift,
            }
        for name in ("champion", "challenger", "joint", "champion_sum", "challenger_sum", "absolute_sum"):
            document[name] = getattr(self, name).to_json()
        return {name: value for name, value in document.items() if value is not None}

    @classmethod
    def from_dict(cls, raw: Any) -> ScoreComparison:
        """Read what `to_dict` returned; raises one of `MALFORMED`."""
        found = cls(
            pairs=convert(raw["pairs"], int, "pairs"),
            incomparable=convert(raw["incomparable"], int, "incomparable"),
            champion=Histogram.from_json(raw["champion"]),
            challenger=Histogram.from_json(raw["challenger"]),
            joint=JointHistogram.from_json(raw["joint"]),
            champion_sum=ExactSum.from_json(raw["champion_sum"]),
            challenger_sum=ExactSum.from_json(raw["challenger_sum"]),
            absolute_sum=ExactSum.from_json(raw["absolute_sum"]),
            largest=convert(raw["largest"], float, "largest"),
        )
        totals = {found.champion.total, found.challenger.total, found.joint.total}
        if totals != {found.pairs} or found.incomparable < 0 or found.largest < 0:
            raise ValueError("the counts of scores do not add up")
        if {found.champion.limit, found.challenger.limit} != {BUCKETS}:
            raise ValueError("a histogram of scores has another limit")
        return found


@dataclass(frozen=True, kw_only=True)
class SegmentComparison:
    """The rows of one segment that both versions have scored."""

    rows: int = 0
    flips: Mapping[str, int] = field(default_factory=dict)
    """Number of rows whose label differs, by column."""
    pairs: Mapping[str, int] = field(default_factory=dict)
    """Number of rows with finite numbers, by column."""
    differences: Mapping[str, ExactSum] = field(default_factory=dict)
    """Sum of the challenger's numbers minus that of the champion's, by column."""

    def mean_difference(self, column: str) -> float | None:
        """Return the mean of the challenger's number minus the champion's; None without pairs."""
        return _mean(self.differences.get(column, ExactSum()), self.pairs.get(column, 0))

    def merge(self, other: SegmentComparison) -> SegmentComparison:
        """Return the comparison of the rows of both."""
        differences = dict(self.differences)
        for name, total in other.differences.items():
            differences[name] = differences.get(name, ExactSum()) + total
        return SegmentComparison(
            rows=self.rows + other.rows,
            flips=_added(self.flips, other.flips),
            pairs=_added(self.pairs, other.pairs),
            differences=dict(sorted(differences.items())),
        )

    def to_dict(self, derived: bool = True) -> dict[str, Any]:
        """Return a JSON object, with the mean differences if `derived`."""
        document: dict[str, Any] = {"rows": self.rows, "flips": dict(self.flips), "pairs": dict(self.pairs)}
        if derived:
            document["mean_differences"] = {name: self.mean_difference(name) for name in self.pairs}
        document["differences"] = {name: total.to_json() for name, total in self.differences.items()}
        return document

    @classmethod
    def from_dict(cls, raw: Any) -> SegmentComparison:
        """Read what `to_dict` returned; raises one of `MALFORMED`."""
        rows = convert(raw["rows"], int, "rows")
        flips, pairs = (convert(raw[name], Mapping[str, int], name) for name in ("flips", "pairs"))
        if rows < 0 or any(not 0 <= count <= rows for count in (*flips.values(), *pairs.values())):
            raise ValueError("the counts of a segment do not add up")
        differences = convert(raw["differences"], Mapping[str, Any], "differences")
        sums = {name: ExactSum.from_json(item) for name, item in sorted(differences.items())}
        return cls(rows=rows, flips=dict(sorted(flips.items())), pairs=dict(sorted(pairs.items())), differences=sums)


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


def _mean(total: ExactSum, count: int) -> float | None:
    if not count:
        return None
    try:
        mean = float(total.value() / count)
    except OverflowError:
        return None
    return mean if math.isfinite(mean) else None
