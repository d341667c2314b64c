"""Describes a model version for people: what publishing understood, and what a manifest and a baseline contain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scoreline.storage.models.attachments import BASELINE, CHECKS, ENTRY
from scoreline.storage.models.manifest import Manifest, Outputs
from scoreline.storage.wording import cut, plural
from scoreline.tasks.quality.profiles.baseline import Baseline
from scoreline.tasks.quality.profiles.column_profile import ColumnProfile
from scoreline.worker.cli.output import echo, echo_field, print_table

_WIDTH = 80
_MIB = 1 << 20
_MILLION = 1_000_000
_FEW_BYTES = 1 << 10
_SHOWN = 12
"""Maximum number of names in a line. The width of the line allows fewer in most cases."""
_HEADLINES = ("auc", "accuracy", "r2", "mae")
"""The metrics to show if there is room for one, the first one first."""
_METRICS = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "log_loss": "log loss",
    "brier": "Brier",
    "r2": "R2",
    "mae": "MAE",
}
_COLUMNS = {
    "predict": "prediction",
    "predict_proba": "proba",
    "predict_log_proba": "log_proba",
    "decision_function": "decision",
    "score_samples": "score",
}
"""The names of the columns of results, by method (see `scoreline.tasks.scoring.outputs`)."""


def features_of(manifest: Manifest) -> str:
    """Return the number of features, and the names of the first ones."""
    if manifest.feature_names is None:
        count = "unknown" if manifest.n_features is None else f"{manifest.n_features:,}"
        return f"{count}, without names"
    return f"{len(manifest.feature_names):,}: {', '.join(manifest.feature_names[:_SHOWN])}" + (
        ", …" if len(manifest.feature_names) > _SHOWN else ""
    )


def outputs_of(manifest: Manifest) -> str:
    """Return the columns of results that a job with default options gives."""
    names = []
    for name, offered in manifest.outputs.items():
        prefix = "" if len(manifest.outputs) == 1 else f"{name}_"
        names += [f"{prefix}{column}" for column in _columns_of(offered)]
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names):,} columns)" if len(names) > _SHOWN else "")


def baseline_of(manifest: Manifest, baseline: Baseline | None) -> str:
    """Return what is known about the baseline of a version."""
    if baseline is None:
        return "none (--baseline FILE|URI makes one from the training data)"
    text = f"{plural(baseline.profile.rows, 'row')}, {baseline.rejected:,} rejected"
    if empty := [column.name for column in baseline.profile.columns.values() if _is_null(column)]:
        text += f"; only nulls in {', '.join(map(repr, empty[:_SHOWN]))}"
    return f"{text}; {manifest.attachments[BASELINE].size:,} bytes"


def checks_of(manifest: Manifest) -> str:
    """Return which checks a version has."""
    found = manifest.attachments.get(CHECKS)
    return "none (the default checks apply)" if found is None else f"{CHECKS}, {found.size:,} bytes"


def metrics_of(metrics: Mapping[str, Any]) -> str:
    """Return the metrics of one model."""
    shown = [
        f"{label} {metrics[name]:.4g}" for name, label in _METRICS.items() if isinstance(metrics.get(name), int | float)
    ]
    text = f"on {metrics.get('target')!r}, {plural(int(metrics.get('rows', 0)), 'row')}: {', '.join(shown) or 'none'}"
    nulls = int(metrics.get("null_targets", 0))
    return text + (f" (without {plural(nulls, 'row')} whose target is null)" if nulls else "")


def headline(manifest: Manifest) -> str:
    """Return one metric of each model, for a table."""
    texts = []
    for model, metrics in manifest.metrics.items():
        name = next((name for name in _HEADLINES if isinstance(metrics.get(name), int | float)), None)
        if name is not None:
            prefix = "" if len(manifest.metrics) == 1 else f"{model} "
            texts.append(f"{prefix}{_METRICS[name]} {metrics[name]:.3f}")
    return ", ".join(texts)


def version_cells(manifest: Manifest | None) -> tuple[str, str, str, str]:
    """Return the date, metrics, number of features and size of a version, for a table."""
    if manifest is None:
        return "unreadable", "", "", ""
    features = "?" if manifest.n_features is None else f"{manifest.n_features:,}"
    return manifest.created[:10], headline(manifest), features, size_of(manifest.size)


def summary(manifest: Manifest | None) -> str:
    """Return the date, number of features, size and metrics of a version in a line."""
    if manifest is None:
        return "its manifest is unreadable: see models verify"
    features = "" if manifest.n_features is None else plural(manifest.n_features, "feature")
    return ", ".join(filter(None, (manifest.created[:10], features, size_of(manifest.size), headline(manifest))))


def size_of(count: int) -> str:
    """Return a number of bytes, for people.

    >>> size_of(1_500), size_of(30 << 20), size_of(500)
    ('1.5 KiB', '30.0 MiB', '500 B')
    """
    if count < _FEW_BYTES:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < _MIB else f"{count / _MIB:,.1f} MiB"


def time_of(manifest: Manifest) -> str:
    """Return the time of publishing in UTC, to the minute."""
    return datetime.fromisoformat(manifest.created).astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def echo_understanding(manifest: Manifest, baseline: Baseline | None, notes: Sequence[str]) -> None:
    """Print what a new version is, on standard error: features, outputs, baseline, metrics, checks and notes."""
    _echo_line("features", features_of(manifest))
    _echo_line("outputs", outputs_of(manifest))
    echo(f"baseline: {baseline_of(manifest, baseline)}", indent=2, err=True)
    for name, metrics in manifest.metrics.items():
        label = "metrics" if len(manifest.metrics) == 1 else f"metrics of {name!r}"
        echo(f"{label} {metrics_of(metrics)}", indent=2, err=True)
    echo(f"checks: {checks_of(manifest)}", indent=2, err=True)
    for note in notes:
        echo(f"note: {note}", indent=2, err=True)


def echo_manifest(manifest: Manifest, aliases: Sequence[str], baseline: Baseline | None) -> None:
    """Print a version, with its baseline."""
    echo(manifest.ref)
    echo_field("date", f"{time_of(manifest)} UTC")
    echo_field("aliases", ", ".join(aliases) or "none")
    for artifact in manifest.artifacts:
        kind = f" {manifest.outputs[artifact.name].kind}" if artifact.role == "model" else ""
        echo_field("role", f"{artifact.role} {artifact.name!r}:{kind} {artifact.file}, {size_of(artifact.size)}")
    names = manifest.feature_names or ("without names",)
    echo_field("features", ", ".join(["?" if manifest.n_features is None else f"{manifest.n_features:,}", *names]))
    echo_field("outputs", outputs_of(manifest))
    for name, offered in manifest.outputs.items():
        if offered.classes is not None:
            of_model = "" if len(manifest.outputs) == 1 else f"{name}: "
            echo_field("classes", of_model + ", ".join(map(str, offered.classes)))
    echo_field("memory", f"{size_of(manifest.memory_bytes)} when loaded")
    echo_field("packages", ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items())))
    for name, value in manifest.metadata.items():
        if name != ENTRY or not isinstance(value, Mapping):
            echo_field("metadata", f"{name} = {value}")
    echo_field("checks", checks_of(manifest))
    for name, metrics in manifest.metrics.items():
        of_model = "" if len(manifest.metrics) == 1 else f"{name} "
        echo_field("metrics", of_model + metrics_of(metrics))
    echo_field("baseline", baseline_of(manifest, baseline))
    for name, metrics in manifest.metrics.items():
        _print_calibration(name, metrics)
    if baseline is not None:
        print_baseline(baseline)


def print_baseline(baseline: Baseline) -> None:
    """Print a line for each feature and each score of a baseline."""
    for kind in ("feature", "score"):
        columns = [column for column in baseline.profile.columns.values() if column.kind == kind]
        rows = [(column.name, *_numbers(column, baseline)) for column in columns]
        echo("")
        print_table((kind, "mean", "std", "nulls", "range or top value"), rows, cut=[kind, "range or top value"])


def _numbers(column: ColumnProfile, baseline: Baseline) -> Iterator[str]:
    yield _short(column.mean)
    yield _short(column.std)
    share = column.null_share or 0.0
    yield "" if not share else f"{share:.1%}" if share >= 0.001 else "<0.1%"
    if column.name in baseline.hidden and column.kind == "feature":
        yield "(values are left out)"
    elif _is_null(column):
        yield "(only nulls)"
    elif column.values.total:
        top = [f"{value} {count / column.values.total:.0%}" for value, count in column.values.top(1)]
        yield ", ".join([*top, f"{plural(column.values.distinct, 'value')}"])
    elif column.minimum is not None and column.maximum is not None:
        moments = column.type == "time" and abs(column.minimum) > 86_400
        low, high = (_moment(x) if moments else _short(x, 3) for x in (column.minimum, column.maximum))
        yield f"{low} to {high}"
    else:
        yield ""


def _print_calibration(name: str, metrics: Mapping[str, Any]) -> None:
    table = metrics.get("calibration")
    if not isinstance(table, list) or not table:
        return
    echo("")
    echo(f"calibration of {name!r}: how often a predicted probability came true")
    rows = [
        (
            f"{row['from']:.1f} to {row['to']:.1f}",
            f"{row['rows']:,}",
            f"{row['predicted']:.3f}",
            f"{row['observed']:.3f}",
        )
        for row in table
    ]
    print_table(("probability", "rows", "predicted", "observed"), rows)


def _columns_of(offered: Outputs) -> Iterator[str]:
    for method in offered.default_methods:
        stem = _COLUMNS.get(method)
        several = bool(offered.classes) and isinstance((offered.classes or ("",))[0], tuple)
        if stem is None:
            yield "the columns of the transformer"
        elif several:
            yield f"{stem}_… ({len(offered.classes or ())} targets)"
        elif method in ("predict_proba", "predict_log_proba") and offered.classes is not None:
            yield from (f"{stem}_{label}" for label in offered.classes)
        else:
            yield stem


def _is_null(column: ColumnProfile) -> bool:
    return bool(column.rows) and column.nulls + column.nan == column.rows


def _short(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits. Whole numbers below a million keep all digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) and abs(value) < _MILLION else f"{value:.{digits}g}"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):
        return _short(seconds)


def _echo_line(label: str, text: str) -> None:
    """Print a label and a text of 80 characters at most, on standard error. A longer text ends in an ellipsis."""
    echo(cut(f"{label}: {text}", _WIDTH), err=True)
