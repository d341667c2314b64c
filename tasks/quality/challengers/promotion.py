"""Compares a version with the one that an alias names, and decides whether the alias may be moved to it.

Works with `requirements.txt` alone, as moving an alias does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scoreline.storage.errors import (
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
    ModelUntrusted,
    PromotionRefused,
)
from scoreline.storage.models.aliases import Alias
from scoreline.storage.models.attachments import BASELINE, CHECKS
from scoreline.storage.models.manifest import Manifest, PinnedModel
from scoreline.storage.models.registry import ModelRegistry
from scoreline.storage.wording import listed, plural
from scoreline.tasks.quality.challengers.comparison import Comparison
from scoreline.tasks.quality.challengers.promotion_rules import rules_for
from scoreline.tasks.quality.challengers.result_columns import result_columns
from scoreline.tasks.quality.checks.check_types import PromoteRule, Promotion
from scoreline.tasks.quality.checks.check_values import METRICS

MAX_REASON = 500
"""Maximum number of characters of the reason for a change of an alias."""

type FindRun = Callable[[str, str], Comparison | None]
"""Returns the newest comparison of two versions, ``name@version`` of the champion and of the challenger."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """How a version differs from the one that an alias names, and what forbids to move the alias."""

    before: str
    """The version that the alias names."""
    after: str
    lines: tuple[tuple[str, str], ...] = ()
    """What is compared, in words: a name and a text."""
    obstacles: tuple[str, ...] = ()
    """Why the alias must not be moved; empty if it may be."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """An alias that was moved."""

    alias: Alias
    assessment: Assessment | None = None
    """None if the alias is new, or named the version before."""


def promote(
    registry: ModelRegistry,
    name: str,
    alias: str,
    version: str,
    find_run: FindRun,
    *,
    force: bool = False,
    reason: str = "",
) -> Moved:
    """Set an alias to a version, unless this would change results or break a rule of ``promote``.

    The version is compared with the one that the alias names at the moment of the change. A new alias is not compared.

    Parameters
    ----------
    force : bool
        Whether to set the alias in any case. Then a reason is needed.
    reason : str
        Why the alias is set, for its history and the audit.

    Raises
    ------
    PromotionRefused
        The alias may not be moved; the message has every reason.
    InvalidRequest
        The alias is forced without a reason, or the reason is too long.
    ModelNotFound
        There is no such version.
    """
    reason = reason.strip()
    if force and not reason:
        raise InvalidRequest("--force needs --reason TEXT: say why, for those who read the history of the alias later")
    if len(reason) > MAX_REASON:
        raise InvalidRequest(f"the reason has {len(reason):,} characters; it may have at most {MAX_REASON}")
    found: list[Assessment | None] = [None]

    def check(current: Alias | None, pinned: PinnedModel) -> None:
        found[0] = None
        if current is None or current.version == pinned.version:
            return
        assessment = found[0] = assess(registry, alias, current, pinned, find_run)
        if assessment.obstacles and not force:
            faults = "; ".join(assessment.obstacles)
            raise PromotionRefused(
                f"{name}@{alias} still names {current.version}, because {pinned.version} may not take its place: "
                f"{faults}. To move the alias anyway: scoreline models alias {name} {alias} {pinned.version} --force "
                "--reason TEXT"
            )

    moved = registry.alias(name, alias, version, check=check, reason=reason, forced=force)
    return Moved(alias=moved, assessment=found[0])


def assess(registry: ModelRegistry, alias: str, current: Alias, pinned: PinnedModel, find_run: FindRun) -> Assessment:
    """Compare a version with the one that an alias names."""
    after = registry.manifest(pinned)
    now = current.current
    try:
        before = registry.manifest(
            PinnedModel(name=pinned.name, version=now.version, manifest_sha256=now.manifest_sha256)
        )
    except (ModelNotFound, ModelCorrupt, ModelUntrusted) as error:  # to replace it must be possible
        return Assessment(before=now.version, after=pinned.version, lines=(("before", f"cannot be read: {error}"),))
    rules = rules_for(registry, alias, before, after)
    obstacles = [*rules.unreadable]
    lines = [
        ("features", _difference(_features(before), _features(after), "feature{s}", obstacles)),
        ("columns", _difference(result_columns(before), result_columns(after), "column{s} of results", obstacles)),
        ("methods", _methods(before, after)),
        ("metrics", _metrics(before, after)),
        ("checks", _checks(before, after)),
        ("rules", rules.of),
    ]
    for model in before.outputs.keys() & after.outputs.keys():
        kinds = before.outputs[model].kind, after.outputs[model].kind
        if kinds[0] != kinds[1]:
            obstacles.append(f"{model!r} is a {kinds[1]}, and was a {kinds[0]}")
    for rule in rules.metrics:
        obstacles += _broken(rule, before, after)
    if rules.promotion.require_baseline and BASELINE not in after.attachments:
        obstacles.append("it has no baseline (require_baseline): publish it with --baseline")
    run = find_run(before.ref, after.ref) if rules.applies and rules.promotion.needs_run else None
    if run is not None:
        lines.append(("challenger", _run(run)))
    if rules.promotion.needs_run:
        obstacles += _broken_by_run(rules.promotion, run, before, after)
    return Assessment(
        before=before.version,
        after=after.version,
        lines=tuple((name, text) for name, text in lines if text),
        obstacles=tuple(obstacles) if rules.applies else (),
    )


def _features(manifest: Manifest) -> tuple[str, ...]:
    if manifest.feature_names is not None:
        return manifest.feature_names
    return (f"{manifest.n_features or 'unknown'} without names",)


def _difference(before: Sequence[str], after: Sequence[str], what: str, obstacles: list[str]) -> str:
    """Return the difference of two lists of names in words. A difference is an obstacle, unless it is the order."""
    dropped = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    texts = [f"{verb} {listed(names)}" for verb, names in (("drops", dropped), ("adds", added)) if names]
    if not texts:
        order = "" if list(before) == list(after) else ", in another order"
        return f"the same {len(after):,}{order}"
    for verb, names in (("drops", dropped), ("adds", added)):
        if names:
            obstacles.append(f"it {verb} the {what.format(s='s' * (len(names) > 1))} {listed(names)}")
    return "; ".join(texts)


def _methods(before: Manifest, after: Manifest) -> str:
    old, new = _methods_of(before), _methods_of(after)
    return new if old == new else f"{old} -> {new}"


def _methods_of(manifest: Manifest) -> str:
    return ", ".join(dict.fromkeys(method for item in manifest.outputs.values() for method in item.default_methods))


def _metrics(before: Manifest, after: Manifest) -> str:
    """Return the metrics of both, such as ``auc 0.861 -> 0.874``."""
    texts = []
    models = list(dict.fromkeys((*before.metrics, *after.metrics)))
    for model in models:
        old, new = _numbers(before, model), _numbers(after, model)
        prefix = f"{model} " if len(models) > 1 else ""
        for metric in dict.fromkeys((*old, *new)):
            values = [f"{item[metric]:.4g}" if metric in item else "unknown" for item in (old, new)]
            texts.append(f"{prefix}{metric} {values[0]} -> {values[1]}")
    return ", ".join(texts)


def _numbers(manifest: Manifest, model: str) -> dict[str, float]:
    found: Any = manifest.metrics.get(model, {})
    if not isinstance(found, dict):
        return {}
    return {
        name: value
        for name, value in found.items()
        if name in METRICS and type(value) in (int, float) and math.isfinite(value)
    }


def _checks(before: Manifest, after: Manifest) -> str:
    old, new = before.attachments.get(CHECKS), after.attachments.get(CHECKS)
    if old == new:
        return "none" if new is None else "the same"
    return "none -> checks.toml" if old is None else "checks.toml -> none" if new is None else "another checks.toml"


def _broken(rule: PromoteRule, before: Manifest, after: Manifest) -> Iterator[str]:
    """Yield how a version breaks a rule about a metric. Of several models, each that has the metric must meet it."""
    metric = rule.metric
    known = {model: _numbers(after, model)[metric] for model in after.metrics if metric in _numbers(after, model)}
    lost = [model for model in before.metrics if metric in _numbers(before, model) and model not in known]
    if not known or lost:
        of = f" of {listed(lost)}" if known else ""
        yield f"its {metric}{of} is not known: publish it with --baseline and --target"
    for model, value in known.items():
        name = metric if len(known) == 1 else f"{metric} of {model!r}"
        old = _numbers(before, model).get(metric)
        limits = rule.limits
        if value < limits.get("min", value):
            yield f"its {name} is {value:.4g}, below min = {limits['min']:g}"
        if value > limits.get("max", value):
            yield f"its {name} is {value:.4g}, above max = {limits['max']:g}"
        if old is None:
            continue
        if old - value > limits.get("drop", float("inf")):
            yield f"its {name} falls from {old:.4g} to {value:.4g}, by more than drop = {limits['drop']:g}"
        if value - old > limits.get("rise", float("inf")):
            yield f"its {name} rises from {old:.4g} to {value:.4g}, by more than rise = {limits['rise']:g}"


def _run(run: Comparison) -> str:
    agreed = "" if run.agreement is None else f", {run.agreement:.2%} of the labels agree"
    return f"{plural(run.rows, 'row')} compared{agreed}"


def _broken_by_run(wanted: Promotion, run: Comparison | None, before: Manifest, after: Manifest) -> Iterator[str]:
    """Yield how a version breaks a rule about its comparison with the one before."""
    advice = f"`scoreline submit {before.ref} URI --challenger {after.ref}`"
    if run is None or not (run.rows or run.failed_parts):
        yield f"no job has compared it with {before.version}: score recent input with {advice}"
        return
    if run.failed_parts:
        why = next((failure.reason for failure in run.failures if not failure.rows), "")
        parts = plural(run.parts + run.failed_parts, "part")
        yield f"as a challenger, it failed in {run.failed_parts} of {parts}: {why}"
    if not run.rows:
        return
    if (compared := run.rows + run.champion_only) < wanted.least_rows:
        yield (
            f"only {plural(compared, 'row')} {'was' if compared == 1 else 'were'} compared, fewer than min_rows = "
            f"{wanted.least_rows:,.0f}: score more rows with {advice}"
        )
        return
    if wanted.max_flips is not None:
        if run.agreement is None:
            yield "it has no labels that could be compared (max_flips)"
        else:
            flips = 1 - run.agreement * run.rows / (run.rows + run.champion_only)
            alone = f" ({plural(run.champion_only, 'row')} without a score counted)" if run.champion_only else ""
            if flips > wanted.max_flips:
                yield f"{flips:.2%} of the labels flip{alone}, more than max_flips = {wanted.max_flips:.4g} allows"
    if wanted.min_rank_correlation is not None:
        found = [score.rank_correlation for score in run.scores.values() if score.pairs >= wanted.least_rows]
        known = [value for value in found if value is not None]
        if few := [name for name, score in run.scores.items() if score.pairs < wanted.least_rows]:
            yield (
                f"too few rows have {listed(few)} of both versions (min_rank_correlation), fewer than min_rows = "
                f"{wanted.least_rows:,.0f}"
            )
        elif not known:
            yield "it has no scores that could be compared (min_rank_correlation)"
        elif min(known) < wanted.min_rank_correlation:
            yield (
                f"the rank correlation of the scores is {min(known):.4g}, below min_rank_correlation = "
                f"{wanted.min_rank_correlation:g}"
            )
