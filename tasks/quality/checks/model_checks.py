"""Compares a text of checks with the model version that it is published with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scoreline.storage.models.manifest import Manifest, Outputs
from scoreline.tasks.quality.checks.check_types import Checks
from scoreline.tasks.quality.checks.checks_file import FILE, decode, read_checks

_NUMBERED = 100
"""Number of targets or components whose columns are known by their numbers."""
_OF_CLASSES = {"predict_proba": "proba", "predict_log_proba": "log_proba", "decision_function": "decision"}


def check_for_model(data: bytes, manifest: Manifest, where: str = FILE) -> Checks:
    """Return the checks of a file; raises `InvalidRequest` if it has faults or columns that the model does not have.

    Without names of features, or if a model transforms rows, its columns are not known, and are not compared.
    """
    outputs = None if manifest.feature_names is None else output_names(manifest)
    return read_checks(decode(data, where), where, features=manifest.feature_names, outputs=outputs)


def output_names(manifest: Manifest) -> list[str] | None:
    """Return the names that columns of the results may have; None if they are not known.

    The names are those of `scoreline.tasks.scoring.outputs`.
    """
    names: list[str] = []
    for model, offered in manifest.outputs.items():
        if "transform" in offered.default_methods:
            return None
        prefix = "" if len(manifest.outputs) == 1 else f"{model}_"
        names += (f"{prefix}{name}" for name in _names(offered))
    return names


def _names(offered: Outputs) -> Iterator[str]:
    if "predict" in offered.methods:
        yield "prediction"
        yield from (f"prediction_{number}" for number in range(_NUMBERED))
    if "score_samples" in offered.methods:
        yield "score"
    for method, start in _OF_CLASSES.items():
        if method in offered.methods:
            yield start
            yield from (f"{start}_{label}" for label in _labels(offered.classes))


def _labels(classes: tuple[Any, ...] | None) -> Iterator[str]:
    yield from map(str, range(_NUMBERED))
    for number, label in enumerate(classes or ()):
        if isinstance(label, tuple):
            yield from (f"{number}_{inner}" for inner in label)
        else:
            yield str(label)
