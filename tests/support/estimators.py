"""Estimators with exact predictions that can be slow, fail, wait, or kill their process."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression

SAMPLE_ROWS = 64
TRIAL_ROWS = 8_192


class Paced(RegressorMixin, BaseEstimator):
    """Predicts ``3 x + 1`` after a pause.

    Parameters
    ----------
    seconds : float
        Time that a call takes, except for the few rows that a planner scores as a sample.
    kills_at : float, optional
        A value that makes the process kill itself, as the kernel does when memory runs out.
    refuses_from : float, optional
        This value and any larger one are refused with an error.
    """

    def __init__(self, seconds: float = 0.0, kills_at: float | None = None, refuses_from: float | None = None) -> None:
        self.seconds = seconds
        self.kills_at = kills_at
        self.refuses_from = refuses_from

    def fit(self, x: Any, y: Any = None) -> Self:
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, x: Any) -> Any:
        values = np.asarray(x)[:, 0]
        if self.kills_at is not None and (values == self.kills_at).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.refuses_from is not None and (values >= self.refuses_from).any():
            raise ValueError(f"x is {self.refuses_from} or more")
        deadline = time.monotonic() + (self.seconds if len(values) > SAMPLE_ROWS else 0)
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))
        return 3 * values + 1


class Choosy(Paced):
    """Predicts ``factor x + 1`` after a pause, and refuses missing, infinite and large values.

    Parameters
    ----------
    seconds, refuses_from : float
        As for `Paced`.
    factor : float
        The factor.
    """

    def __init__(self, seconds: float = 0.0, refuses_from: float = 1e6, factor: float = 3.0) -> None:
        super().__init__(seconds, refuses_from=refuses_from)
        self.factor = factor

    def predict(self, x: Any) -> Any:
        values = np.asarray(x, dtype=float)[:, 0]
        if not np.isfinite(values).all():
            raise ValueError("x is missing or infinite")
        return (super().predict(x) - 1) / 3 * self.factor + 1


class Versatile(Paced):
    """Predicts whole numbers if all values are negative, and texts if the first value is above 100."""

    def predict(self, x: Any) -> Any:
        predicted = super().predict(x)
        if (predicted < 0).all():
            return predicted.astype(np.int64)
        return np.asarray([f"{value}" for value in predicted]) if predicted[0] > 300 else predicted


class Talkative(Paced):
    """A model that logs the environment, as some libraries do to help with debugging."""

    def predict(self, x: Any) -> Any:
        logging.getLogger("theirs").warning("connecting with %s", dict(os.environ))
        return super().predict(x)


class Turnstile(Paced):
    """A model whose calls wait, except for those of a planner, until a test lets them pass.

    Parameters
    ----------
    folder : str
        Each call creates the file ``N.begun`` in this folder, where N is the number of the call from 0, and waits for
        the file ``N`` or ``all``.
    lasts : float
        Minimum duration of a call that waits, in seconds.
    """

    def __init__(self, folder: str, lasts: float = 0.0) -> None:
        super().__init__()
        self.folder = folder
        self.lasts = lasts

    def predict(self, x: Any) -> Any:
        if len(x) > TRIAL_ROWS:
            folder = Path(self.folder)
            number = len(list(folder.glob("*.begun")))
            (folder / f"{number}.begun").touch()
            time.sleep(self.lasts)
            while not (folder / str(number)).exists() and not (folder / "all").exists():
                time.sleep(0.01)
        return super().predict(x)


class Staged(Paced):
    """Fails for a reason other than the rows, or waits for a file.

    Parameters
    ----------
    refuses_from : float, optional
        As for `Paced`.
    breaks_from : float
        This value and any larger one make a call fail, as if the memory did not suffice.
    says : str
        Message of that error.
    gate : str
        Path of a file that calls wait for, except for the sample of a planner.
    calls : str
        Path of a file that each call makes a byte longer, except for the sample of a planner.
    sample_rows : int
        Maximum number of rows of a call that counts as the sample of a planner.
    """

    def __init__(
        self,
        refuses_from: float | None = None,
        breaks_from: float = float("inf"),
        says: str = "broken",
        gate: str = "",
        calls: str = "",
        sample_rows: int = SAMPLE_ROWS,
    ) -> None:
        super().__init__(refuses_from=refuses_from)
        self.breaks_from = breaks_from
        self.says = says
        self.gate = gate
        self.calls = calls
        self.sample_rows = sample_rows

    def predict(self, x: Any) -> Any:
        if (np.asarray(x)[:, 0] >= self.breaks_from).any():
            raise MemoryError(self.says)
        if self.calls and len(x) > self.sample_rows:
            with Path(self.calls).open("ab") as file:
                file.write(b".")
        while self.gate and len(x) > self.sample_rows and not Path(self.gate).exists():
            time.sleep(0.01)
        return super().predict(x)


class Centred(LinearRegression):
    """Subtracts the mean of all rows that are scored together."""

    def predict(self, x: Any) -> Any:
        scores = super().predict(x)
        return scores - scores.mean()
