"""Models that fail in one of many ways once they see a large value of "a", so that they pass the planner's sample."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

Trouble = Literal["none", "row", "batch", "rows", "memory", "hang", "swallow", "exit", "interrupt", "types", "system"]
LARGE = 1e6
LOADABLE = {"value": True}
"""Whether an `Unloadable` can be loaded."""


class Troubled(ClassifierMixin, BaseEstimator):
    """Predicts "yes" if the first feature is above a threshold, until it sees a value of at least `LARGE`."""

    def __init__(self, trouble: Trouble = "none", above: float = 0.0) -> None:
        self.trouble = trouble
        self.above = above

    def fit(self, x: Any, y: Any = None) -> Self:
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        self.n_features_in_ = x.shape[1]
        self.classes_ = np.array(["no", "yes"])
        return self

    def predict(self, x: Any) -> Any:
        values = np.asarray(x, float)[:, 0]
        large = (values >= LARGE).any()
        if large and self.trouble != "none":
            self._fail(values)
        if large and self.trouble == "types":
            return np.array([object() for _ in values])
        return np.where(values > self.above, "yes", "no")

    def predict_proba(self, x: Any) -> Any:
        values = np.asarray(x, float)[:, 0]
        share = 1 / (1 + np.exp(-np.clip(values - self.above, -50, 50)))
        return np.column_stack([1 - share, share])

    def _fail(self, values: Any) -> None:
        match self.trouble:
            case "row":
                raise ValueError("too large")
            case "rows":
                raise ValueError("no row at all")
            case "batch" if len(values) > 1:
                raise RuntimeError("too many rows")
            case "memory":
                raise MemoryError("no memory left")
            case "hang":
                while True:
                    pass
            case "swallow":
                for _ in range(2):
                    try:
                        while True:
                            pass
                    except Exception:  # noqa: BLE001  # that is the trouble
                        continue
                while True:
                    pass
            case "exit":
                raise SystemExit(3)
            case "interrupt":
                raise GeneratorExit
            case "system":
                raise OSError(28, "no space left on device")


class Unloadable(Troubled):
    """Cannot be loaded while `LOADABLE` says so."""

    def __setstate__(self, state: Any) -> None:
        if not LOADABLE["value"]:
            raise RuntimeError("a package is missing")
        super().__setstate__(state)
