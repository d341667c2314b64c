"""Checks of single columns: each compares the profile of a column with that of the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scoreline.tasks.job.findings import Finding, Level
from scoreline.tasks.quality.checks.check_types import Check
from scoreline.tasks.quality.checks.check_values import CheckName
from scoreline.tasks.quality.checks.drift import drift_of_numbers, drift_of_values, noise_of_mean
from scoreline.tasks.quality.checks.measures import Measure, exceeded
from scoreline.tasks.quality.profiles.histograms import bucket_of
from scoreline.tasks.quality.profiles.number_counts import arrays_of
from scoreline.tasks.quality.profiles.profile import ColumnProfile

MAX_CLASSES = 50
"""Maximum number of different predictions that count as classes."""
_CHANCE = 1e-6
"""A finding must be less likely than this if nothing has changed."""
_Z = 4.75
_NAMED = 3
_MEASURES = {
    "psi": "population stability index",
    "js": "Jensen-Shannon distance",
    "ks": "Kolmogorov-Smirnov statistic",
    "wasserstein": "Wasserstein distance in standard deviations",
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A column of a job beside that of the baseline."""

    now: ColumnProfile
    before: ColumnProfile | None
    baseline_name: str

    @property
    def name(self) -> str:
        """The column as messages show it."""
        return f"{self.now.name!r}"

    def found(self, check: CheckName, rule: Check, message: str, value: float | str, limit: float | str) -> Finding:
        """Return a finding about the column."""
        level: Level = "block" if rule.level == "block" else "warn"
        rounded = round(value, 6) if isinstance(value, float) else value
        return Finding(check=check, level=level, message=message, column=self.now.name, value=rounded, limit=limit)


def check_nulls(pair: Compared, rule: Check) -> Iterator[Finding]:
    """Compare the share of nulls and NaN."""
    share, most, rise = pair.now.null_share, rule.limit("max"), rule.limit("rise")
    if share is None:
        return
    said = f"{percent(share)} of {pair.name} is null or NaN"
    if most is not None and share > most:
        yield pair.found("nulls", rule, f"{said}; at most {percent(most)} is allowed.", share, most)
        return
    before = pair.before
    if rise is None or before is None or before.null_share is None:
        return
    allowed = before.null_share + max(rise, before.null_share / 10)
    if share > allowed and share - before.null_share > share_noise(
        (pair.now.nulls + pair.now.nan, pair.now.rows), (before.nulls + before.nan, before.rows)
    ):
        message = f"{said}, but {percent(before.null_share)} in {pair.baseline_name}."
        yield pair.found("nulls", rule, message, share, round(allowed, 6))


def check_outside(pair: Compared, rule: Check) -> Iterator[Finding]:
    """Count the values outside of the range or the categories of the baseline."""
    now, before, most = pair.now, pair.before, rule.limit("max")
    if before is None or most is None or before.type != now.type:
        return
    if before.values.total and now.values.total:
        yield from _new_values(pair, before, rule, most)
    if before.minimum is None or before.maximum is None or not before.numbers:
        return
    level = now.histogram.level
    lowest, highest = bucket_of(before.minimum, level), bucket_of(before.maximum, level)
    buckets, counts = arrays_of(now.histogram.counts)
    below = int(counts[: buckets.searchsorted(lowest)].sum())
    above = int(counts[buckets.searchsorted(highest, "right") :].sum())
    below += 0 if before.negative_infinities else now.negative_infinities
    above += 0 if before.positive_infinities else now.positive_infinities
    total = now.numbers + now.negative_infinities + now.positive_infinities
    share = (below + above) / total if total else 0.0
    if share > most and _outside_by_chance(below + above, total, before.numbers) < _CHANCE:
        sides = [f"{percent(count / total)} {where}" for count, where in ((below, "below"), (above, "above")) if count]
        message = (
            f"{percent(share)} of the values of {pair.name} lie outside of the range of {pair.baseline_name}, "
            f"{number(before.minimum)} to {number(before.maximum)}: {' and '.join(sides)} it."
        )
        yield pair.found("outside", rule, message, share, most)


def _outside_by_chance(outside: int, total: int, before: int) -> float:
    """Return the probability that so many of `total` values, or more, lie outside of the range of `before` values.

    If all come from one distribution, the order of all values is random. The number outside is then distributed as
    negative binomial, since it counts the values beyond the two extremes of the baseline.
    """
    share = total / (total + before)
    return float(share**outside * (1 + outside * (1 - share)))


def _new_by_chance(new: int, total: int, before: int, rare: int) -> float:
    """Return a bound of the probability that so many of `total` values, or more, do not occur among `before` values.

    As many values are still unseen as occur once (Good, 1953). If all come from one distribution, the order of all
    values is random: the number of those that do not occur before the next value that occurs in the baseline is
    distributed geometrically, and that of `rare` + 1 such values as negative binomial. The bound is Chernoff's.
    """
    share, draws = total / (total + before), new + rare
    found = new / draws if draws else 0.0
    if found <= share:
        return 1.0
    exponent = new * math.log(found / share)
    if rare:
        exponent += rare * math.log((1 - found) / (1 - share))
    return math.exp(-exponent)


def _new_values(pair: Compared, before: ColumnProfile, rule: Check, most: float) -> Iterator[Finding]:
    if not before.values.is_exact:  # it is not known which values the baseline has
        return
    new = {
        value: count
        for value, count in pair.now.values.top(len(pair.now.values.counts))
        if value not in before.values.counts
    }
    rare = sum(1 for count in before.values.counts.values() if count == 1)
    share = sum(new.values()) / pair.now.values.total
    chance = _new_by_chance(sum(new.values()), pair.now.values.total, before.values.total, rare)
    if share > most and chance < _CHANCE:
        named = ", ".join(f"{_short(value)} ({count:,})" for value, count in list(new.items())[:_NAMED])
        more = f" and {len(new) - _NAMED:,} more" if len(new) > _NAMED else ""
        message = f"{percent(share)} of the values of {pair.name} do not occur in {pair.baseline_name}: {named}{more}."
        yield pair.found("outside", rule, message, share, most)


def check_drift(pair: Compared, rule: Check) -> Iterator[Finding]:
    """Measure the drift of a column. Columns with few values are left out."""
    now, before = pair.now, pair.before
    if before is None or "empty" in (now.type, before.type):
        return
    if now.type != before.type:
        message = f"{pair.name} holds {_KINDS[now.type]}, but {_KINDS[before.type]} in {pair.baseline_name}."
        yield pair.found("drift", rule, message, now.type, before.type)
        return
    least = rule.limit("min_rows") or 0
    numbers = min(now.numbers, before.numbers) >= max(least, 1)
    texts = min(now.values.total, before.values.total) >= max(least, 1)
    measures = drift_of_numbers(before.histogram, now.histogram, before.std, now.std) if numbers else []
    measures += drift_of_values(before.values, now.values) if texts else []
    too_far = exceeded(measures, rule.limits)
    if too_far:
        measure, limit = too_far[0]
        said = ", ".join(_said(item, of) for item, of in too_far)
        message = f"{pair.name} has drifted from {pair.baseline_name}: {said}{_moved(now, before)}."
        yield pair.found("drift", rule, message, measure.value, limit)


def check_mean(pair: Compared, rule: Check) -> Iterator[Finding]:
    """Compare the mean of a column of numbers."""
    now, before = pair.now, pair.before
    mean, least, most, shift = now.mean, rule.limit("min"), rule.limit("max"), rule.limit("shift")
    if mean is None:
        return
    said = f"The mean of {pair.name} is {number(mean)}"
    if least is not None and mean < least:
        yield pair.found("mean", rule, f"{said}; at least {number(least)} is expected.", mean, least)
    elif most is not None and mean > most:
        yield pair.found("mean", rule, f"{said}; at most {number(most)} is expected.", mean, most)
    elif shift is not None and before is not None and before.mean is not None and before.std:
        moved = abs(mean - before.mean) / before.std
        if moved >= shift and moved > noise_of_mean(before.numbers, before.std, now.numbers, now.std or 0.0):
            message = (
                f"{said}, but {number(before.mean)} in {pair.baseline_name}: {number(moved)} standard deviations away; "
                f"less than {number(shift)} is expected."
            )
            yield pair.found("mean", rule, message, moved, shift)


def check_classes(pair: Compared, rule: Check) -> Iterator[Finding]:
    """Compare the shares of the predicted classes."""
    change, before = rule.limit("change"), pair.before
    classes = _classes(pair.now)
    old = _classes(before) if before is not None else None
    if change is None or not classes or not old:
        return
    n, m = sum(classes.values()), sum(old.values())
    moved = {name: classes.get(name, 0) / n - old.get(name, 0) / m for name in {*classes, *old}}
    far = [
        name
        for name, by in sorted(moved.items(), key=lambda item: (-abs(item[1]), item[0]))
        if abs(by) >= change and abs(by) > share_noise((classes.get(name, 0), n), (old.get(name, 0), m))
    ]
    if far:
        said = ", ".join(
            f"{percent(classes.get(name, 0) / n)} are {_short(name)} instead of {percent(old.get(name, 0) / m)}"
            for name in far[:_NAMED]
        )
        more = f", and {len(far) - _NAMED:,} other classes have moved" if len(far) > _NAMED else ""
        message = f"The shares of {pair.name} differ from {pair.baseline_name}: {said}{more}."
        yield pair.found("classes", rule, message, abs(moved[far[0]]), change)


def _classes(column: ColumnProfile) -> dict[str, int] | None:
    """Return the counts of the values of a score that has few values; None if it has many."""
    if column.values.total:
        return dict(column.values.counts) if column.values.distinct <= MAX_CLASSES else None
    histogram = column.histogram
    if not histogram.is_exact or len(histogram.counts) > MAX_CLASSES:
        return None
    values = {bucket: histogram.edges(bucket)[0 if bucket >= 0 else 1] for bucket in histogram.counts}
    if any(value != round(value) for value in values.values()):
        return None
    return {str(int(values[bucket])): count for bucket, count in histogram.counts.items()}


def share_noise(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Return the difference of two shares that chance exceeds about once in a million times.

    Parameters
    ----------
    one, other : tuple of int
        The count and the number of rows of each.
    """
    pooled = (one[0] + other[0] + 1) / (one[1] + other[1] + 2)
    return _Z * math.sqrt(pooled * (1 - pooled) * (1 / max(1, one[1]) + 1 / max(1, other[1])))


def percent(share: float) -> str:
    """Return a share as a percentage, with enough digits to tell it from 0 and 100.

    >>> percent(0.5), percent(0.0312), percent(0.00041), percent(0), percent(0.99999)
    ('50%', '3.1%', '0.041%', '0%', '99.999%')
    """
    small = min(abs(share), abs(1 - share)) * 100
    digits = 1 if small == 0 or small >= 1 else min(6, 1 - math.floor(math.log10(small)))
    text = f"{share * 100:,.{digits}f}"
    return f"{text.rstrip('0').rstrip('.')}%"


def number(value: float) -> str:
    """Return a number as messages show it.

    >>> number(3.14159), number(1234567.8), number(0.00001234), number(120.0)
    ('3.142', '1,234,568', '1.234e-05', '120')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


_KINDS = {
    "number": "numbers",
    "text": "text",
    "boolean": "booleans",
    "time": "times",
    "other": "values of another type",
    "mixed": "values of several types",
}


def _said(measure: Measure, limit: float) -> str:
    return f"its {_MEASURES[measure.name]} is {number(measure.value)} (limit {number(limit)})"


def _moved(now: ColumnProfile, before: ColumnProfile) -> str:
    """Return what has moved most, for the end of a sentence."""
    if now.values.total:
        named = {value for value, _ in (*now.values.top(_TOP), *before.values.top(_TOP))}
        shares = {
            value: (
                now.values.counts.get(value, 0) / now.values.total,
                before.values.counts.get(value, 0) / before.values.total,
            )
            for value in named
        }
        value = max(sorted(shares), key=lambda name: abs(shares[name][0] - shares[name][1]))
        share, old = shares[value]
        return f". {percent(share)} of its values are {_short(value)} instead of {percent(old)}"
    if now.type == "time" or now.mean is None or before.mean is None:
        return ""
    return f". Its mean is {number(now.mean)} instead of {number(before.mean)}"


_TOP = 50


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else f"{value[:39]}…")
