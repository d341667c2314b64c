from typing import Any

import numpy as np
import numpy.typing as npt

VERSION: int

def use_wide_vectors(wanted: bool) -> bool: ...
def add_small(
    x: npt.NDArray[Any],
    splits: npt.NDArray[np.uint8],
    categories: npt.NDArray[np.uint32],
    first_category: int,
    used: npt.NDArray[np.int32],
    thresholds: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.int64],
    roots: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int32],
    addresses: npt.NDArray[np.int64],
    value_stride: int,
    width: int,
    columns: npt.NDArray[np.int32],
    scale: float,
    out: npt.NDArray[np.float64],
) -> None: ...
