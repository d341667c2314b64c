"""Finds the rules for a version that takes the place of another one: those of both versions, the stricter of each.

If only the rules of the new version counted, a version could be published with rules that it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scoreline.storage.errors import ScorelineError, describe
from scoreline.storage.models.attachments import CHECKS
from scoreline.storage.models.manifest import Manifest
from scoreline.storage.models.registry import ModelRegistry
from scoreline.tasks.quality.checks.check_types import Checks, PromoteRule, Promotion
from scoreline.tasks.quality.checks.checks_file import decode, read_checks

_STRICTER: Mapping[str, Callable[[float, float], float]] = {"min": max, "max": min, "drop": min, "rise": min}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for one change of an alias."""

    metrics: tuple[PromoteRule, ...] = ()
    promotion: Promotion = field(default_factory=Promotion)
    applies: bool
    """Whether the alias may only be moved by rules. Otherwise, versions are compared, but nothing is refused."""
    of: str = ""
    """Whose rules these are, in words; empty if no file has rules for the alias."""
    unreadable: tuple[str, ...] = ()
    """Why the rules of a version cannot be read."""


def rules_for(registry: ModelRegistry, alias: str, before: Manifest, after: Manifest) -> Rules:
    """Return the rules for moving an alias from a version to another one.

    A version before without rules keeps the default: the alias ``champion`` is moved by rules.
    """
    unreadable: list[str] = []
    old, new = (_rules_of(registry, manifest, unreadable) for manifest in (before, after))
    in_force = [found for found in (old, new) if found is not None and alias in found.promotion.aliases]
    applies = bool(in_force) or bool(unreadable) or (old is None and alias in Promotion().aliases)
    if not in_force:
        return Rules(applies=applies, unreadable=tuple(unreadable))
    first, last = in_force[0], in_force[-1]
    of = "those of the present version" if last is old else "those of the new version"
    return Rules(
        metrics=_metrics(first, last),
        promotion=_promotion(first.promotion, last.promotion),
        applies=True,
        of="of both versions, the stricter of each" if len(in_force) > 1 else of,
        unreadable=tuple(unreadable),
    )


def _rules_of(registry: ModelRegistry, manifest: Manifest, unreadable: list[str]) -> Checks | None:
    """Return the checks of a version that have rules of promotion; None without them.

    Parameters
    ----------
    unreadable : list of str
        List to which is added why the checks cannot be read: a person must be able to force the alias.
    """
    where = f"checks.toml of {manifest.ref}"
    try:
        data = registry.attachment(manifest, CHECKS)
        found = None if data is None else read_checks(decode(data, where), where)
    except ScorelineError as error:
        if error.transient:
            raise
        unreadable.append(f"the rules in {where} cannot be read: {describe(error)}")
        return None
    return found if found is not None and found.has_promote else None


def _metrics(one: Checks, other: Checks) -> tuple[PromoteRule, ...]:
    limits: dict[str, dict[str, float]] = {}
    for rule in (*one.promote, *other.promote):
        known = limits.setdefault(rule.metric, {})
        for name, value in rule.limits.items():
            known[name] = _STRICTER[name](known.get(name, value), value)
    return tuple(PromoteRule(metric=metric, limits=found) for metric, found in limits.items())


def _promotion(one: Promotion, other: Promotion) -> Promotion:
    return Promotion(
        require_baseline=one.require_baseline or other.require_baseline,
        require_challenger_run=one.require_challenger_run or other.require_challenger_run,
        max_flips=_of_both(min, one.max_flips, other.max_flips),
        min_rank_correlation=_of_both(max, one.min_rank_correlation, other.min_rank_correlation),
        min_rows=_of_both(max, one.min_rows, other.min_rows),
    )


def _of_both(choose: Callable[..., float], one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return choose(known) if known else None
