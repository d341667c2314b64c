"""Reads the table ``promote`` of ``checks.toml``, and reports its faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scoreline.storage.keys import is_name
from scoreline.tasks.quality.checks.check_types import PromoteRule, Promotion
from scoreline.tasks.quality.checks.check_values import (
    METRICS,
    PROMOTE_LIMITS,
    REQUIREMENTS,
    RUN_LIMITS,
    did_you_mean,
    read_limit,
)

_OTHERS = ("aliases", *REQUIREMENTS, *RUN_LIMITS)


class PromoteReader:
    """Reads the table. Keys with faults count as missing.

    Parameters
    ----------
    given : object
        The decoded table.
    fault : callable
        ``fault(path, message)`` reports a fault at a key.
    """

    def __init__(self, given: Any, fault: Callable[[tuple[str, ...], str], None]) -> None:
        self._fault = fault
        if not isinstance(given, dict):
            fault(("promote",), "promote is not a table: write auc = {min = 0.8} below [promote]")
            given = {}
        self._given: dict[str, Any] = given

    def metrics(self) -> tuple[PromoteRule, ...]:
        """Return the limits of metrics."""
        rules = []
        for metric, limits in self._given.items():
            path = ("promote", metric)
            if metric in _OTHERS:
                continue
            if metric not in METRICS:
                advice = did_you_mean(metric, (*METRICS, *_OTHERS))
                self._fault(path, f"unknown metric {metric!r}{advice}")
                continue
            if not isinstance(limits, dict) or not limits:
                self._fault(path, f"{metric} = {limits!r} is not a table such as {{min = 0.8, drop = 0.01}}")
                continue
            read = {}
            for key, value in limits.items():
                found = read_limit(PROMOTE_LIMITS[key], value) if key in PROMOTE_LIMITS else ""
                if isinstance(found, str):
                    unknown = f"unknown key {key!r} of {metric}{did_you_mean(key, tuple(PROMOTE_LIMITS))}"
                    self._fault((*path, key), f"{key} = {value!r} is not {found}" if found else unknown)
                else:
                    read[key] = found
            rules.append(PromoteRule(metric=metric, limits=read))
        return tuple(rules)

    def promotion(self) -> Promotion:
        """Return all other rules."""
        limits = {name: self._limit(name) for name in RUN_LIMITS}
        promotion = Promotion(
            aliases=self._aliases(),
            require_baseline=self._switch("require_baseline"),
            require_challenger_run=self._switch("require_challenger_run"),
            max_flips=limits["max_flips"],
            min_rank_correlation=limits["min_rank_correlation"],
            min_rows=limits["min_rows"],
        )
        if promotion.min_rows is not None and not promotion.needs_run:
            message = "min_rows has no effect alone: it needs max_flips, min_rank_correlation or require_challenger_run"
            self._fault(("promote", "min_rows"), message)
        return promotion

    def _aliases(self) -> tuple[str, ...]:
        given = self._given.get("aliases", ["champion"])
        if not isinstance(given, list) or not given or not all(is_name(name) for name in given):
            self._fault(("promote", "aliases"), f'aliases = {given!r} is not a list of names, such as ["champion"]')
            return ("champion",)
        return tuple(given)

    def _switch(self, name: str) -> bool:
        value = self._given.get(name, False)
        if type(value) is not bool:
            self._fault(("promote", name), f"{name} = {value!r} is neither true nor false")
            return False
        return value

    def _limit(self, name: str) -> float | None:
        if name not in self._given:
            return None
        value = self._given[name]
        found = read_limit(RUN_LIMITS[name], value)
        if not isinstance(found, str) and name == "min_rank_correlation" and not -1 <= found <= 1:
            found = "a number from -1 to 1"
        if isinstance(found, str):
            self._fault(("promote", name), f"{name} = {value!r} is not {found}")
            return None
        return found
