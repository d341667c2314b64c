import numpy as np
import numpy.typing as npt

VERSION: int

def divides_as(key: int, threshold: float) -> bool: ...
def mark_features(
    left: npt.NDArray[np.int64],
    feature: npt.NDArray[np.int64],
    splits: npt.NDArray[np.int64],
    numeric: npt.NDArray[np.uint8],
    categorical: npt.NDArray[np.uint8],
    missing: int,
) -> int: ...
def lay_out(
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    feature: npt.NDArray[np.int64],
    threshold: npt.NDArray[np.float64],
    missing_left: npt.NDArray[np.uint8],
    splits: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    n_splits: int,
    columns: npt.NDArray[np.int32],
    ranked: bool,
    thresholds: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.int64],
    shift: int,
    nodes: npt.NDArray[np.uint8],
    work: npt.NDArray[np.uint8],
) -> tuple[int, int, int]: ...
def boxes(
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    feature: npt.NDArray[np.int64],
    threshold: npt.NDArray[np.float64],
    leaves: npt.NDArray[np.int64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
) -> None: ...
