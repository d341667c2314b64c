"""A measure of drift, with the value that chance exceeds, and the measures that exceed their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of drift (see `scoreline.tasks.quality.checks.drift`)."""

    name: str
    value: float
    noise: float
    """The value that chance exceeds once in a million times."""


def exceeded(measures: Sequence[Measure], limits: Mapping[str, float]) -> list[tuple[Measure, float]]:
    """Return the measures that exceed both their limit and their noise, each with its limit."""
    return [
        (measure, limits[measure.name])
        for measure in measures
        if measure.name in limits and measure.value >= limits[measure.name] and measure.value > measure.noise
    ]
