from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

class DelimitedScanner:
    """Scans delimited text.

    Parameters
    ----------
    delimiter, quote, point : int
        Characters of ASCII. A `quote` of -1 means that fields are not quoted.
    kinds : bytes
        What is known of each column (see `known_rows`). Without columns, no record is recognized.
    nulls : sequence of bytes
        Fields that stand for a missing value.
    unlike : sequence of bytes
        Words in small letters that are no texts: those for missing values, and those that are numbers.
    """

    def __init__(
        self,
        delimiter: int,
        quote: int,
        point: int = 46,
        kinds: bytes = b"",
        nulls: Sequence[bytes] = (),
        unlike: Sequence[bytes] = (),
    ) -> None: ...
    def scan(self, data: bytes, last: bool) -> tuple[bytes, bytes, int, bytes]:
        """Find the records of a block that begins with a record (see `RecordFinder.find`).

        Returns
        -------
        starts, ends : bytes
            Positions of the records, as int64.
        rest : int
            Position after the last complete record.
        others : bytes
            Numbers of the records that may tell something new, as int64.
        """

    def decode(
        self, data: bytes, values: npt.NDArray[np.int64], valid: npt.NDArray[np.uint8], nulls: npt.NDArray[np.int64]
    ) -> bool:
        """Read the integers and floats of all records of a block.

        Parameters
        ----------
        values : ndarray of int64, shape (columns, rows)
            Receives the values of the columns that are not skipped. A float64 is written as its bits.
        valid : ndarray of uint8, shape (columns, at least rows / 8)
            Bits of ones. The bits of missing values are cleared.
        nulls : ndarray of int64, shape (columns,)
            Zeros. The numbers of missing values are added.

        Returns
        -------
        bool
            Whether there are as many records as expected, and all of their values are written plainly. If not, the
            arrays may contain anything.
        """

class JsonScanner:
    """Scans JSON Lines.

    Parameters
    ----------
    keys : sequence of bytes
        Keys of an object, each with its quotation marks, in the order in which they are expected.
    kinds : bytes
        What is known of the value of each key (see `known_rows`). Without keys, no line is recognized.
    optional : bytes
        For each key, 1 if it may be missing, else 0. The first key may not.
    """

    def __init__(self, keys: Sequence[bytes] = (), kinds: bytes = b"", optional: bytes = b"") -> None: ...
    def scan(self, data: bytes, last: bool) -> tuple[bytes, bytes, int, bytes]:
        """Find the lines of a block that begins with a line (see `DelimitedScanner.scan`)."""

    def decode(
        self, data: bytes, values: npt.NDArray[np.int64], valid: npt.NDArray[np.uint8], nulls: npt.NDArray[np.int64]
    ) -> bool:
        """Read the integers and floats of all lines of a block (see `DelimitedScanner.decode`)."""
