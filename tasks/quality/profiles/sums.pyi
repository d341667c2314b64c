VERSION: int

def check_packed(data: bytes, at: int, level: int, size: int, first: int, distance_bytes: int, count_bytes: int) -> int:
    """Check the arrays of a packed histogram, and return where they end.

    Parameters
    ----------
    data : bytes
        What contains the arrays: the distance of each bucket but the first to the one before it, then the counts.
    at : int
        Where the arrays begin.
    level : int
        Level of the buckets, on which it depends how far from 0 they can be.
    size : int
        Number of buckets.
    first : int
        The first bucket.
    distance_bytes, count_bytes : int
        Number of bytes of each distance and of each count: 1, 2, 4 or 8.

    Raises
    ------
    ValueError
        The arrays are cut off, or no histogram has such buckets or counts.
    """

class HistogramSum:
    """Adds up histograms.

    Parameters
    ----------
    limit : int
        Maximum number of buckets.
    """

    limit: int
    level: int
    size: int
    """Number of buckets of the sum."""
    def __init__(self, limit: int) -> None: ...
    def add_packed(
        self, data: bytes, at: int, level: int, size: int, first: int, distance_bytes: int, count_bytes: int
    ) -> None:
        """Add a packed histogram that `check_packed` has checked. The sum of others has no meaning."""
    def add_sum(self, other: HistogramSum) -> None:
        """Add the histograms that another sum has added."""
    def arrays(self) -> tuple[bytes, bytes]:
        """Return the buckets of the sum in ascending order, and their counts, as arrays of int64."""
