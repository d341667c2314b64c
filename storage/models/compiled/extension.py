"""Compiles ensembles if the extension was built. This module needs neither the extension nor scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scoreline.storage.models.compiled.ensembles import CompiledEnsembles

VERSION = 2
"""The version of the functions of `_walk` and `_select`. It grows, here and there, when their parameters or the arrays
change."""


def is_available() -> bool:
    """Return whether the extensions were built, from a source of this version."""
    try:
        from scoreline.storage.models.compiled import _select, _walk
    except ImportError:
        return False
    return all(getattr(module, "VERSION", None) == VERSION for module in (_select, _walk))


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
