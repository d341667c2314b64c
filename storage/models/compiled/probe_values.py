"""Makes rows on which a compiled scaler is compared with scikit-learn, from its own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scoreline.storage.models.compiled.scalers import Scaling

_MAX_CELLS = 100_000
"""Maximum number of values of a comparison: fewer than a matrix of kept memory has."""
_MIN_ROWS = 20
_SEED = 20_261_130


def probe_values(scaling: Scaling, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return rows whose values are near the numbers of a scaler, far from them, and as small and large as it accepts.

    Some values are missing. If there are few features, the numbers of the features are repeated more than twice.
    """
    random = np.random.default_rng(_SEED)
    first, second = (one.astype(float) for one in scaling.formula.numbers)
    n_features = len(first)
    n_rows = max(_MIN_ROWS, min(2 * len(scaling.repeated[0]) // n_features + 3, _MAX_CELLS // n_features))
    shape = n_rows, n_features
    with np.errstate(all="ignore"):
        center = -second / first if scaling.formula.stretches else first
        width = 1 / first if scaling.formula.stretches else second
        rows = center + width * random.normal(size=shape) * random.choice([1e-3, 1.0, 1e3], shape)
        far = np.ldexp(random.uniform(-1, 1, shape), random.integers(-1_074, 1_023, shape))
        bounds = np.finfo(kind)
        small = np.array([0.0, -0.0, 1.0, -1.0, bounds.tiny, bounds.smallest_subnormal, np.nan, -np.nan])
        rows = np.where(random.random(shape) < 0.15, far, rows)
        rows = np.where(random.random(shape) < 0.15, random.choice(small, shape), rows)
        largest = np.nextafter(kind.type(scaling.limit), kind.type(0))
        return np.clip(rows, -largest, largest).astype(kind)


def containers(rows: npt.NDArray[Any], names: Any) -> Iterator[Any]:
    """Yield rows in each form in which a job passes them: by row and by column."""
    for one in (rows, np.asfortranarray(rows)):
        yield one if names is None else pd.DataFrame(one, columns=names, copy=False)
