from collections.abc import Sequence

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
