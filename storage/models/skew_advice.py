"""Advice for models that another version of scikit-learn has saved. This module does not need scikit-learn."""

from __future__ import annotations

import re

_PYTHONS = {
    (0, 22): ("3.5", "3.8"),
    (0, 23): ("3.6", "3.8"),
    (0, 24): ("3.6", "3.9"),
    (1, 0): ("3.7", "3.9"),
    (1, 1): ("3.8", "3.10"),
    (1, 2): ("3.8", "3.11"),
    (1, 3): ("3.8", "3.11"),
    (1, 4): ("3.9", "3.12"),
    (1, 5): ("3.9", "3.12"),
    (1, 6): ("3.9", "3.13"),
    (1, 7): ("3.10", "3.13"),
    (1, 8): ("3.11", "3.14"),
    (1, 9): ("3.11", "3.14"),
}
"""For each minor version of scikit-learn, the oldest and the newest Python for which PyPI has wheels of all its patch
releases."""
SKEW_SETTING = "set ML_ALLOW_VERSION_SKEW=true to load it at your own risk"


def advise(saved_by: str, installed: str) -> str:
    """Return advice for a model that another version of scikit-learn has saved.

    A release of Scoreline supports one minor version of scikit-learn. Therefore, only other patch releases of this
    version can be installed.

    >>> advise("1.5.2", "1.9.1")
    'fit the model again with scikit-learn 1.9.1, or try `scoreline models convert`'
    >>> advise("1.9.0", "1.9.1")
    'install scikit-learn==1.9.0 where workers run, or fit the model again with 1.9.1'
    """
    if _minor(saved_by) == _minor(installed):
        return f"install scikit-learn=={saved_by} where workers run, or fit the model again with {installed}"
    convert = ", or try `scoreline models convert`" if supported_pythons(saved_by) else ""
    return f"fit the model again with scikit-learn {installed}{convert}"


def supported_pythons(version: str) -> tuple[str, str] | None:
    """Return the oldest and the newest Python that a version of scikit-learn supports; None if they are unknown.

    >>> supported_pythons("1.5.2"), supported_pythons("9.9")
    (('3.9', '3.12'), None)
    """
    return _PYTHONS.get(_minor(version))


def numpy_bound(version: str) -> str:
    """Return the requirement for a NumPy that a version of scikit-learn supports.

    >>> numpy_bound("1.2.2"), numpy_bound("1.5.2")
    ('numpy<2', 'numpy<2.3')
    """
    return "numpy<2" if _minor(version) < (1, 5) else "numpy<2.3" if _minor(version) < (1, 7) else "numpy<3"


def _minor(version: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (-1, -1)
