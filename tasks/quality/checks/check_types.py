"""The checks of a job as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from scoreline.storage.tables.row_rules import RowRule
from scoreline.tasks.quality.checks.check_values import CHECKS, MIN_COMPARED, CheckName, default_limits

CheckLevel = Literal["off", "warn", "block"]
LEVELS: tuple[CheckLevel, ...] = get_args(CheckLevel)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of a whole job or of a column."""

    level: CheckLevel = "warn"
    limits: Mapping[str, float] = field(default_factory=dict)
    """The limits by name. Shares are numbers from 0 to 1, and durations are seconds."""

    def limit(self, name: str) -> float | None:
        """Return a limit; None if it is not checked."""
        return self.limits.get(name)


@dataclass(frozen=True, kw_only=True)
class PromoteRule:
    """A limit for a metric of a version that becomes the champion (see `challengers.promotion`)."""

    metric: str
    limits: Mapping[str, float]
    """``min`` and ``max`` of the metric itself, and ``drop`` and ``rise`` against the metric of the champion."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What else is expected of a version that becomes the champion."""

    aliases: tuple[str, ...] = ("champion",)
    """The aliases to which the rules apply."""
    require_baseline: bool = False
    """Whether the version needs a baseline."""
    require_challenger_run: bool = False
    """Whether a job must have compared the version with the one that the alias names."""
    max_flips: float | None = None
    """Largest share of rows whose label differs in that comparison."""
    min_rank_correlation: float | None = None
    """Smallest rank correlation of the scores in that comparison."""

    min_rows: float | None = None
    """Number of rows below which the comparison decides nothing; None for the default."""

    @property
    def least_rows(self) -> float:
        """Number of rows that must have been compared.

        Whether a version can score at all, which `require_challenger_run` asks alone, one row may show.
        """
        if self.min_rows is not None:
            return self.min_rows
        decides = self.max_flips is not None or self.min_rank_correlation is not None
        return MIN_COMPARED if decides else 0

    @property
    def needs_run(self) -> bool:
        """Whether a comparison is needed."""
        limits = (self.max_flips, self.min_rank_correlation)
        return self.require_challenger_run or any(limit is not None for limit in limits)


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks of a job."""

    table: Mapping[CheckName, Check] = field(
        default_factory=lambda: {name: Check(limits=default_limits(name)) for name in CHECKS}
    )
    """The checks by name, for all columns that `columns` does not mention."""
    columns: Mapping[str, Mapping[CheckName, Check]] = field(default_factory=dict)
    """The checks of single columns that differ from those of `table`, by column."""
    rules: tuple[RowRule, ...] = ()
    """The rules that each row must meet."""
    kept: tuple[str, ...] = ()
    """Columns that the results keep, and that are neither features nor scores of the model."""
    promote: tuple[PromoteRule, ...] = ()
    """Limits of the metrics of a version that becomes the champion."""
    promotion: Promotion = field(default_factory=Promotion)
    has_promote: bool = False
    """Whether the text has rules for a version that becomes the champion."""

    def of(self, name: CheckName, column: str = "") -> Check:
        """Return a check, as it applies to a column."""
        return self.columns.get(column, {}).get(name) or self.table[name]

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that have rules or checks of their own."""
        return tuple(dict.fromkeys((*(rule.column for rule in self.rules), *self.kept, *self.columns)))

    @classmethod
    def off(cls) -> Checks:
        """Return checks that check nothing."""
        return cls(table={name: Check(level="off") for name in CHECKS})
