from typing import Any

import numpy as np
import numpy.typing as npt

VERSION: int

def scale(
    x: npt.NDArray[Any] | list[npt.NDArray[Any]],
    out: npt.NDArray[Any],
    first: npt.NDArray[np.floating[Any]],
    second: npt.NDArray[np.floating[Any]],
    limit: float,
    least: float,
    most: float,
    stretches: bool,
) -> bool: ...
