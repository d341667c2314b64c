"""Compiles models if the extensions were built. This module can be imported without them and without scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators

VERSION = 7
"""The version of the functions of `_pack`, `_walk`, `_single` and `_select`. Increase it here and there if their
parameters or the arrays change."""
WORDS_VERSION = 2
"""The version of the functions of `_words`. Increase it here and there if their parameters or the slots change."""

SCALE_VERSION = 1
"""The version of the functions of `_scale`. Increase it here and there if their parameters change."""


def is_available() -> bool:
    """Return whether the extensions were built, from sources of these versions."""
    try:
        from scoreline.storage.models.compiled import _pack, _scale, _select, _single, _walk, _words
    except ImportError:
        return False
    versions = {_pack: VERSION, _select: VERSION, _single: VERSION, _walk: VERSION}
    versions |= {_words: WORDS_VERSION, _scale: SCALE_VERSION}
    return all(getattr(module, "VERSION", None) == version for module, version in versions.items())


def compile_estimators(models: Iterable[tuple[str, Any]]) -> CompiledEstimators:
    """Compile the ensembles of trees, the text vectorizers and the scalers within fitted models.

    Only those whose results equal those of scikit-learn to the last bit are compiled. Without the extensions, nothing
    is compiled.

    Parameters
    ----------
    models : iterable of (str, Any)
        The models, each with a name for the description.
    """
    if not is_available():
        return CompiledEstimators()
    from scoreline.storage.models.compiled.compiling import compile_all  # `compiling` needs the extension

    return compile_all(models)
