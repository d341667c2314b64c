"""How long results are kept: for a number of days, or for a number of runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.wording import plural
from scoreline.tasks.job.durations import find_duration

_DAY = timedelta(days=1)
_MOST_DAYS = 99_999
_RUNS = re.compile(r"[1-9]\d{0,6}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ResultsKeep:
    """How long the results of a job are kept. Either `days` or `runs` is set."""

    days: int | None = None
    """Days for which a job is kept after its end."""
    runs: int | None = None
    """Number of complete runs of a schedule that are kept; without a schedule, number of complete jobs of an output."""

    def __str__(self) -> str:
        return plural(self.days, "day") if self.days is not None else plural(self.runs or 0, "run")

    @classmethod
    def parse(cls, value: Any) -> ResultsKeep:
        """Return how long results are kept; raises `InvalidRequest`.

        >>> ResultsKeep.parse("90d"), ResultsKeep.parse(30)
        (ResultsKeep(days=90, runs=None), ResultsKeep(days=None, runs=30))
        >>> ResultsKeep.parse("30") == ResultsKeep.parse(30)
        True
        """
        text = str(value) if type(value) in (int, str) else ""
        kept = find_duration(text)
        if kept is not None and not kept % _DAY and 1 <= kept.days <= _MOST_DAYS:
            return cls(days=kept.days)
        if _RUNS.fullmatch(text):
            return cls(runs=int(text))
        raise InvalidRequest(f"{value!r} is neither a number of days such as '90d' nor a number of runs such as 30")
