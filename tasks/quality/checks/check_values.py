"""The checks that ``checks.toml`` knows, their limits, and the default of each limit."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scoreline.tasks.job.durations import EXAMPLES, find_duration

CheckName = Literal["rows", "rejects", "freshness", "vanished", "nulls", "outside", "drift", "mean", "classes"]
LimitKind = Literal["count", "share", "change", "number", "any number", "duration"]


@dataclass(frozen=True)
class Limit:
    """A limit of a check."""

    kind: LimitKind
    default: float | None = None


CHECKS: Mapping[CheckName, Mapping[str, Limit]] = {
    "rows": {"min": Limit("count"), "max": Limit("count"), "fall": Limit("share", 0.3), "rise": Limit("change", 0.5)},
    "rejects": {"max": Limit("share"), "rise": Limit("share", 0.005)},
    "freshness": {"max_age": Limit("duration")},
    "vanished": {},
    "nulls": {"max": Limit("share"), "rise": Limit("share", 0.005)},
    "outside": {"max": Limit("share", 0.001)},
    "drift": {
        "psi": Limit("number", 0.1),
        "js": Limit("number", 0.1),
        "ks": Limit("number", 0.1),
        "wasserstein": Limit("number", 0.1),
        "min_rows": Limit("count", 100),
    },
    "mean": {"min": Limit("any number"), "max": Limit("any number"), "shift": Limit("number", 0.1)},
    "classes": {"change": Limit("share", 0.05)},
}
"""The limits of each check by name. ``docs/reference/checks.md`` says where the defaults come from."""
OF_COLUMNS: tuple[CheckName, ...] = ("nulls", "outside", "drift", "mean", "classes")
"""The checks that a column may set for itself. ``mean`` and ``classes`` apply to scores."""
METRICS = ("accuracy", "auc", "log_loss", "brier", "r2", "mae")
"""The metrics that ``promote`` may name."""
PROMOTE_LIMITS: Mapping[str, Limit] = {
    "min": Limit("any number"),
    "max": Limit("any number"),
    "drop": Limit("number"),
    "rise": Limit("number"),
}
REQUIREMENTS = ("require_baseline", "require_challenger_run")
"""The switches of ``promote``."""
MIN_COMPARED = 100
"""Default of ``min_rows`` of ``promote``. A share of 5% of 100 rows is known to about 4 percentage points."""
RUN_LIMITS: Mapping[str, Limit] = {
    "max_flips": Limit("share"),
    "min_rank_correlation": Limit("any number"),
    "min_rows": Limit("count", MIN_COMPARED),
}
"""The limits of ``promote`` for the comparison of a version with the one that the alias names."""
_PERCENT = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s?%")


def default_limits(name: CheckName) -> dict[str, float]:
    """Return the limits of a check without a file.

    >>> default_limits("rows"), default_limits("freshness")
    ({'fall': 0.3, 'rise': 0.5}, {})
    """
    return {key: limit.default for key, limit in CHECKS[name].items() if limit.default is not None}


def read_limit(limit: Limit, value: Any) -> float | str:
    """Return a value of TOML as a number, or a description of what it should be.

    >>> read_limit(Limit("share"), "2.5%"), read_limit(Limit("share"), 0.5)
    (0.025, 'a percentage such as "5%"')
    >>> read_limit(Limit("duration"), "36h"), read_limit(Limit("count"), -1)
    (129600.0, 'a whole number of at least 0')
    """
    if limit.kind in ("share", "change"):
        found = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            return 'a percentage such as "5%"'
        if limit.kind == "share" and float(found[1]) > 100:
            return "a percentage of at most 100%"
        return float(found[1]) / 100
    if limit.kind == "count":
        return float(value) if type(value) is int and 0 <= value < 2**53 else "a whole number of at least 0"
    if limit.kind == "duration":
        duration = find_duration(value) if isinstance(value, str) else None
        return f"a duration such as {EXAMPLES}" if duration is None else duration.total_seconds()
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) >= 2**53:
        return "a number"
    return "a number of at least 0" if limit.kind == "number" and value < 0 else float(value)


def did_you_mean(given: str, known: Collection[str]) -> str:
    """Return advice about a name that is not known, to be added to a message.

    >>> did_you_mean("freshnes", CHECKS), did_you_mean("zzz", ("warn", "block"))
    ("; did you mean 'freshness'?", '; known are warn, block')
    """
    near = difflib.get_close_matches(given, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = list(known)[:_SHOWN]
    more = ", …" if len(known) > _SHOWN else ""
    return f"; known are {', '.join(shown)}{more}" if shown else ""


_SHOWN = 12
