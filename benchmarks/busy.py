"""A model that takes a known time for each row. Workers import it from here."""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin


class Busy(RegressorMixin, BaseEstimator):
    """A model that keeps a processor busy for `row_s` seconds a row."""

    def __init__(self, row_s: float) -> None:
        self.row_s = row_s

    def fit(self, x: Any, y: Any = None) -> Self:
        """Remember the columns."""
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: Any) -> Any:
        """Return zeros."""
        end = time.perf_counter() + len(x) * self.row_s
        while time.perf_counter() < end:
            pass
        return np.zeros(len(x))


class Asleep(Busy):
    """A model that takes `row_s` seconds a row without keeping a processor busy."""

    def predict(self, x: Any) -> Any:
        """Return zeros."""
        time.sleep(len(x) * self.row_s)
        return np.zeros(len(x))


class Burning(Busy):
    """A model that uses `row_s` seconds of a processor for each row, however many other programs use it."""

    def predict(self, x: Any) -> Any:
        """Return zeros."""
        end = time.thread_time() + len(x) * self.row_s
        while time.thread_time() < end:
            pass
        return np.zeros(len(x))
