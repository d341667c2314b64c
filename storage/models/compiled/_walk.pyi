from typing import Any

import numpy as np
import numpy.typing as npt

VERSION: int

def add_leaves(
    x: npt.NDArray[Any],
    nodes: npt.NDArray[np.uint8],
    categories: npt.NDArray[np.uint32],
    first_category: int,
    used: npt.NDArray[np.int32],
    thresholds: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.int64],
    roots: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int32],
    addresses: npt.NDArray[np.int64],
    value_stride: int,
    width: int,
    shift: int,
    columns: npt.NDArray[np.int32],
    scale: float,
    out: npt.NDArray[np.float64],
    block: int,
) -> None: ...
