"""Prevents warnings from rejecting rows, regardless of how the process treats warnings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def default_warnings() -> Iterator[None]:
    """Handle warnings and floating-point errors as Python and NumPy do by default, without raising exceptions.

    By default, an overflow in a row is only a warning. The warning becomes an exception if the process turns warnings
    into errors (``PYTHONWARNINGS=error``, a test suite), or if a module that a model imports has called
    ``np.seterr(all="raise")``. Without this function, the same row would be rejected in one process and scored in
    another. Settings that an estimator makes in its own methods remain in force.

    Warning filters belong to the whole process, and changing them is not thread-safe. The filters are therefore changed
    only if one of them turns warnings into errors.
    """
    with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
        if all(action != "error" for action, *_ in warnings.filters):
            yield
            return
        with warnings.catch_warnings():
            warnings.filters[:] = [item for item in warnings.filters if item[0] != "error"]  # type: ignore[index]
            yield
