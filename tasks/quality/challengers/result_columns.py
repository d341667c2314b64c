"""Names the columns of the results that a model version gives, from its manifest alone."""

from __future__ import annotations

from collections.abc import Iterator

from scoreline.storage.models.manifest import Manifest, Outputs

_STEMS = {
    "predict_proba": "proba",
    "predict_log_proba": "log_proba",
    "decision_function": "decision",
    "score_samples": "score",
    "transform": "transform",
    "predict": "prediction",
}


def result_columns(manifest: Manifest) -> tuple[str, ...]:
    """Return the columns that a job with default options gives (see `scoreline.tasks.scoring.outputs`).

    Where their number is not in the manifest, one name stands for all columns of a method.
    """
    names: list[str] = []
    for model, offered in manifest.outputs.items():
        prefix = "" if len(manifest.outputs) == 1 else f"{model}_"
        names += (f"{prefix}{name}" for name in _names(offered))
    return tuple(names)


def _names(offered: Outputs) -> Iterator[str]:
    classes = offered.classes
    several = bool(classes) and isinstance((classes or (None,))[0], tuple)
    for method in offered.default_methods:
        stem = _STEMS[method]
        if method in ("predict", "score_samples", "transform") or not classes:
            yield from (f"{stem}_{number}" for number in range(len(classes or ()))) if several else (stem,)
        elif several:
            for number, labels in enumerate(classes):
                yield from (f"{stem}_{number}_{label}" for label in labels)
        elif method == "decision_function" and len(classes) == 2:
            yield stem
        else:
            yield from (f"{stem}_{label}" for label in classes)
