"""Draws pictures as paths of SVG, and describes them in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scoreline.tasks.quality.profiles.column_profile import Type
from scoreline.tasks.quality.report.facts import Column
from scoreline.tasks.quality.report.pictures import Bins
from scoreline.tasks.quality.report.wording import quantity, share

WIDTH, HEIGHT = 300, 72
"""The size of a histogram in its own units. It is stretched to the width of its card."""
_TOP = 4
_GAP_SHARE = 0.12


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A histogram as paths of SVG, with the texts that belong to it."""

    now: str
    """Path of the bars of the job."""
    before: str
    """Path of the outline of the baseline; empty without one."""
    ticks: tuple[str, str, str]
    """The values at the left, in the middle and at the right."""
    title: str
    """What the horizontal axis shows, if it is not plainly the values of the column."""
    outside: tuple[str, ...]
    """Sentences about values that are not drawn."""
    words: str
    """The picture in words, for those who do not see it."""


def draw(column: Column, bins: Bins, other: str, now: str = "this job") -> Drawing:
    """Draw a histogram.

    Parameters
    ----------
    other, now : str
        How the page calls what the job is compared with, and the job.
    """
    most = max((*bins.now, *(bins.before or ())), default=0.0) or 1.0
    scaled = [
        tuple(round(value / most * (HEIGHT - _TOP), 1) for value in values) for values in (bins.now, bins.before or ())
    ]
    type_: Type = column.type if bins.of == "values" else "number"
    first, last = bins.edges[0], bins.edges[-1]
    if bins.scale == "whole":
        first, last = first + 0.5, last - 0.5
    middle = (first * last) ** 0.5 if bins.scale == "log" else first + (last - first) / 2
    ticks = quantity(first, type_), quantity(middle, type_), quantity(last, type_)
    if len(bins.now) == 1:
        ticks = "", ticks[1], ""
    title = "number of characters" if bins.of == "lengths" else ""
    if bins.scale == "log":
        title = "logarithmic scale"
    return Drawing(
        now=_bars(scaled[0]),
        before=_outline(scaled[1]),
        ticks=ticks,
        title=title,
        outside=tuple(_outside(bins, type_, other, now)),
        words=_words(bins, type_, other, now),
    )


def _bars(heights: Sequence[float]) -> str:
    if len(heights) == 1:  # a bar as wide as the picture looks like none
        return f"M{WIDTH * 0.46:.4g} {HEIGHT}v{-heights[0]:.4g}h{WIDTH * 0.08:.4g}v{heights[0]:.4g}z"
    width = WIDTH / max(1, len(heights))
    gap = width * _GAP_SHARE
    parts = []
    for place, height in enumerate(heights):
        if height:
            shown = max(height, 1.0)
            parts.append(f"M{place * width + gap / 2:.4g} {HEIGHT}v{-shown:.4g}h{width - gap:.4g}v{shown:.4g}z")
    return "".join(parts)


def _outline(heights: Sequence[float]) -> str:
    if not heights:
        return ""
    if len(heights) == 1:
        return f"M{WIDTH * 0.44:.4g} {HEIGHT}V{HEIGHT - heights[0]:.4g}H{WIDTH * 0.56:.4g}V{HEIGHT}"
    width, parts, last = WIDTH / len(heights), [f"M0 {HEIGHT}"], None
    for place, height in enumerate(heights):
        if height != last:
            parts.append(f"V{HEIGHT - height:.4g}")
            last = height
        parts.append(f"H{(place + 1) * width:.4g}")
    return "".join([*parts, f"V{HEIGHT}"])


def _outside(bins: Bins, type_: Type, other: str, now: str) -> list[str]:
    sentences = []
    for end in bins.outside:
        shares = share(end.now)
        if end.before is not None:
            shares += f" of {now}, {share(end.before)} of {_lower(other)}"
        far = "down" if end.side == "below" else "up"
        sentences.append(
            f"Not drawn: values {end.side} {quantity(end.limit, type_)} ({shares}), {far} to "
            f"{quantity(end.farthest, type_)}."
        )
    return sentences


def _lower(other: str) -> str:
    return f"the {other.lower()}" if other in ("Baseline", "First run", "Champion") else other[:1].lower() + other[1:]


def _words(bins: Bins, type_: Type, other: str, now: str) -> str:
    what = "Numbers of characters" if bins.of == "lengths" else "Values"
    parts = [f"Histogram. {what} of {now}: {_peak(bins, bins.now, type_)}."]
    if bins.before is not None:
        parts.append(f"{other}: {_peak(bins, bins.before, type_)}.")
    return " ".join(parts)


def _peak(bins: Bins, shares: Sequence[float], type_: Type) -> str:
    """Return the narrowest range of bins with half of the values, and the fullest bin."""
    total = sum(shares)
    if not total:
        return "none in this range"
    best = (0, len(shares))
    start, inside = 0, 0.0
    for stop, value in enumerate(shares, 1):
        inside += value
        while inside - shares[start] >= total / 2 and start < stop - 1:
            inside -= shares[start]
            start += 1
        if inside >= total / 2 and stop - start < best[1] - best[0]:
            best = (start, stop)
    low, high = bins.edges[best[0]], bins.edges[best[1]]
    if bins.scale == "whole":
        low, high = low + 0.5, high - 0.5
    if low == high:
        return f"half or more are {quantity(low, type_)}"
    return f"half lie between {quantity(low, type_)} and {quantity(high, type_)}"
