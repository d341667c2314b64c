from typing import Any

def fill(x: Any, columns: tuple[Any, ...]) -> bool:
    """Copy columns into a matrix, converted to its type as NumPy converts them.

    Return False, and leave arbitrary values in the matrix, if anything is unusual: the rows of the matrix are not
    contiguous, a row has more than 256 bytes, the matrix is neither float64 nor float32 nor int64, or a column is not
    contiguous, has another length, or has a type that the type of the matrix does not include.

    Parameters
    ----------
    x : ndarray of float64, float32 or int64, shape (n_rows, n_columns)
        The matrix. Its rows may be parts of longer rows.
    columns : tuple of ndarray, shape (n_rows,)
        The columns.
    """
