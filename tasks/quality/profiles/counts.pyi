from typing import Any

VERSION: int

class Counter:
    """Counts numbers that are added array by array.

    Parameters
    ----------
    limit : int
        Maximum number of buckets of the histogram.
    most_in_row : int
        Maximum number of values whose buckets are counted with 32 bits instead of 64, which takes less memory; at most
        4,294,967,295, so that no count overflows.
    """

    nan: int
    positive_infinities: int
    negative_infinities: int
    overflows: int
    """Number of finite values whose square is infinite."""
    numbers: int
    """Number of finite values."""
    def __init__(self, limit: int, most_in_row: int = 0xFFFFFFFF) -> None: ...
    def add(self, values: Any, rows: Any = None) -> None:
        """Count the values of an ndarray of floats or integers of at most 64 bits, shape (n,).

        Parameters
        ----------
        rows : ndarray of int64, optional
            Positions of the values that are counted; by default, all of them.
        """
    @property
    def level(self) -> int:
        """The level of the histogram."""
    @property
    def count_bits(self) -> int:
        """Number of bits of each count: 32 if they are in an array (a row), 64 if they are in a hash table."""
    @property
    def minimum(self) -> float | None: ...
    @property
    def maximum(self) -> float | None: ...
    @property
    def sum_units(self) -> int:
        """The sum of the finite values as a multiple of 2**-1074."""
    @property
    def square_units(self) -> int:
        """The sum of the squares as a multiple of 2**-1074."""
    def buckets(self) -> tuple[bytearray, bytearray]:
        """Return the buckets of the histogram in any order, and their counts, as arrays of int64."""
    def packed(self) -> tuple[int, int, int, int, bytes]:
        """Return the histogram, which must not be empty, packed (see `number_counts.pack_buckets`)."""
    def sums(self) -> tuple[list[str | int], list[str | int]]:
        """Return the sum and the sum of the squares as `ExactSum.to_json` does."""
