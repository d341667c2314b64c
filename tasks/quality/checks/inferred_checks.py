"""Writes a first ``checks.toml`` from a baseline."""

from __future__ import annotations

import json

from scoreline.tasks.quality.profiles.profile import Profile


def infer_checks(ref: str, baseline: Profile) -> str:
    """Return a first text of checks for a model version, from its baseline.

    Row rules are written as comments, because the range of the training data is seldom the range of what is possible.
    """
    lines = [
        f"# Checks of {ref}, made from its baseline",
        f"# ({baseline.rows:,} rows). docs/reference/checks.md describes each check.",
        'level = "warn"  # "block" keeps results from readers until a person accepts them',
        "",
        "[rows]",
        'fall = "30%"  # against the last accepted run',
        'rise = "50%"',
        "",
        "[rejects]",
        'rise = "0.5%"',
        "",
        "[drift]",
        "psi = 0.1",
        "wasserstein = 0.1",
    ]
    for column in baseline.columns.values():
        lines += ["", f"[columns.{_key(column.name)}]"]
        if column.kind == "score":
            if column.mean is not None and column.type == "number":
                lines.append(f"# The mean is {column.mean:.4g} in the baseline.")
            lines.append("mean = {shift = 0.1}" if column.type == "number" else 'classes = {change = "5%"}')
            continue
        if column.kind == "kept":
            lines.append("kept = true")
        if not column.nulls and not column.nan:
            lines.append("# not_null = true  # as in the baseline")
        else:
            lines.append(f'nulls = {{rise = "0.5%"}}  # {column.null_share or 0:.1%} in the baseline')
        if column.type == "number" and column.minimum is not None and column.maximum is not None:
            lines.append(f"# min = {_toml(column.minimum)}")
            lines.append(f"# max = {_toml(column.maximum)}")
        elif column.type in ("text", "boolean") and column.values.is_exact and column.values.distinct <= _MAX_LISTED:
            values = [json.dumps(value) if column.type == "text" else value for value in sorted(column.values.counts)]
            lines.append(f"# in = [{', '.join(values)}]")
    return "\n".join(lines) + "\n"


_MAX_LISTED = 30


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name)


def _toml(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
