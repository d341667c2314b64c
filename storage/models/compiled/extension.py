"""Compiles ensembles if the extension was built. This module needs neither the extension nor scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scoreline.storage.models.compiled.ensembles import CompiledEnsembles

VERSION = 1
"""The version of the functions of `_walk`. Increase it here and in `_walk` if their parameters or the nodes change."""


def is_available() -> bool:
    """Return whether the extension was built, and its source has the same `VERSION`."""
    try:
        from scoreline.storage.models.compiled import _walk
    except ImportError:
        return False
    return getattr(_walk, "VERSION", None) == VERSION


def compile_ensembles(models: Iterable[tuple[str, Any]]) -> CompiledEnsembles:
    """Compile the ensembles of trees within fitted models.

    Only ensembles whose results equal those of scikit-learn to the last bit are compiled. Without the extension, no
    ensemble is compiled.

    Parameters
    ----------
    models : iterable of (str, Any)
        The models, each with a name for the description.
    """
    if not is_available():
        return CompiledEnsembles()
    from scoreline.storage.models.compiled.compiling import compile_all  # `compiling` needs the extension

    return compile_all(models)
