from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION: int

def build(columns: dict[Any, Any], other_text: type[str]) -> tuple[bytearray, bytearray]: ...
def count(
    documents: list[Any],
    lower: bool,
    terms: npt.NDArray[np.uint8],
    slots: npt.NDArray[np.uint8],
    stop_terms: npt.NDArray[np.uint8],
    stop_slots: npt.NDArray[np.uint8],
    min_n: int,
    max_n: int,
    n_features: int,
    alternate_sign: bool,
    analyze: Callable[[Any], list[str]],
    vocabulary: dict[str, Any] | None,
    other_text: type[str],
    decodes_ascii: bool,
    max_bytes: int,
    max_counts: int,
) -> tuple[bytearray, bytearray, bytearray] | None: ...
