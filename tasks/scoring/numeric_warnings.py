"""A warning never rejects a row, whatever the process does with warnings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def as_in_a_fresh_process() -> Iterator[None]:
    """Treat warnings and floating-point faults as Python and numpy do by default: nothing is raised.

    An overflow in one row warns. In a process that turns warnings into errors (``PYTHONWARNINGS=error``, a test suite)
    or where a module that some model imported has called ``np.seterr(all="raise")``, it would raise, and the same row
    would be rejected in one process and scored in another. What an estimator sets for itself, inside its own methods,
    stays in force.

    Warning filters belong to the whole process and changing them is not thread-safe, so they are left alone unless one
    of them raises.
    """
    with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
        if all(action != "error" for action, *_ in warnings.filters):
            yield
            return
        with warnings.catch_warnings():
            warnings.filters[:] = [item for item in warnings.filters if item[0] != "error"]  # type: ignore[index]
            yield
