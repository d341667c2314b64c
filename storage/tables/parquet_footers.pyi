from collections.abc import Sequence

class Footer:
    """The footer of a small Parquet file whose rows are in a single row group."""

    data: bytes
    """The file."""
    layout: bytes
    """All of the footer besides the rows: the schema, the metadata, the program that wrote the file, and the
    types of the column chunks."""
    rows: int
    """Number of rows, at least 1."""
    size: int
    """Uncompressed size of the row group in bytes."""
    ends_with_columns: bool
    """Whether the last column ends where the footer begins."""
    columns: int
    """Number of column chunks. Nested columns have several."""

    def nulls(self, column: int) -> int:
        """Return the number of nulls of a column chunk; -1 if the file does not say it."""

    def bytes_of(self, column: int) -> int:
        """Return the uncompressed size of a column chunk, as encoded."""

def read_footer(data: bytes) -> Footer | None:
    """Read the footer of a file.

    Return None if anything is unusual: the file is damaged or encrypted, it has no row group or several, or its columns
    are not where the footer says. Arrow reads such files, or explains what is wrong with them.
    """

def join(footers: Sequence[Footer]) -> bytes | None:
    """Return a file that has the rows of several files, in order, each in a row group of its own.

    Return None if the files do not have the same layout, or if the pages of a column do not have exactly as many values
    as the file has rows. Columns with lists never do.
    """
