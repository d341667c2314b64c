from typing import Any

import numpy as np
import numpy.typing as npt

VERSION: int

def find_leaves(
    x: npt.NDArray[Any] | list[npt.NDArray[Any]],
    nodes: npt.NDArray[np.uint8],
    shift: int,
    first: int,
    more: int,
    checked: bool,
    missing_allowed: bool,
    leaves: npt.NDArray[np.uint32],
    address: int,
    value_stride: int,
    values: npt.NDArray[np.float64],
) -> bool: ...
