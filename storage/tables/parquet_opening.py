"""Opens Parquet files from any source of bytes, and refuses files with unsound descriptions of columns."""

from __future__ import annotations

import io
from bisect import bisect_left
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.contents import explain_parquet

_OUTSIDE = "Invalid column metadata"
"""What Arrow says of a column chunk that does not begin and end within the file."""


def open_parquet(
    source: Pinned, file: Any, *, metadata: pq.FileMetaData | None = None, buffer_bytes: int = 0
) -> pq.ParquetFile:
    """Open a file. Raise `UnreadableInput` if it is damaged.

    Parameters
    ----------
    file : file or pyarrow.NativeFile
        The bytes of the object.
    metadata : pyarrow.parquet.FileMetaData, optional
        The footer, if it is known. A known footer is not read again.
    buffer_bytes : int
        Number of bytes that Arrow buffers for each column; 0 if Arrow reads each chunk at once.
    """
    try:
        return pq.ParquetFile(
            file,
            metadata=metadata,
            pre_buffer=False,  # Arrow would send the requests one after another
            buffer_size=buffer_bytes,
            page_checksum_verification=True,
            coerce_int96_timestamp_unit="us",  # INT96 may have dates after 2262, too late for nanoseconds
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # for example, if a column name is not UTF-8
        raise explain_parquet(source, error) from error


class _FirstRead(Exception):
    """Raised when Arrow reads the first byte of the rows."""


class _NoBytes(io.RawIOBase):
    """A file of a given size without its bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def readable(self) -> bool:
        """Return True, so that Arrow takes it."""
        return True

    def seekable(self) -> bool:
        """Return True, so that Arrow can ask for its size."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Return the position. It does not matter otherwise."""
        return self._size + offset if whence == io.SEEK_END else offset

    def tell(self) -> int:
        """Return the size, because Arrow asks only for the position of the end."""
        return self._size

    def readinto(self, _: Any, /) -> int:
        """Raise `_FirstRead`."""
        raise _FirstRead


def refuse_unsound_columns(source: Pinned, metadata: pq.FileMetaData) -> None:
    """Raise `UnreadableInput` if Arrow cannot take the description of a column chunk in a footer.

    The reason may be damage, or encryption of columns in a file whose footer is not encrypted. If Python asks for such
    a description, Arrow throws an exception of C++ that nothing catches, which ends the process. Therefore call this
    function first. Arrow catches the exception if it is about to read the file, and it looks at all column chunks
    before it reads the first byte.
    """
    error = _find_fault(source, metadata, metadata.num_row_groups)
    if error is None:
        return
    if "crypt" in str(error):
        raise explain_parquet(source, error) from error
    group, column = _locate_fault(source, metadata)
    where = f"column {column!r} of row group {group}"
    if _OUTSIDE in str(error):
        what = f"its footer says that {where} is outside of the object, which has {source.size:,} bytes"
    else:
        what = f"its footer does not describe {where}: {one_line(error)}"
    raise UnreadableInput(f"{source.uri} is damaged: {what}. Write it again, or leave it out of the input") from error


def _locate_fault(source: Pinned, metadata: pq.FileMetaData) -> tuple[int, str]:
    """Return the first row group, and its first column, that Arrow cannot take."""
    groups = range(1, metadata.num_row_groups + 1)
    group = bisect_left(groups, True, key=lambda count: _find_fault(source, metadata, count) is not None)
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    counts = range(1, len(names) + 1)

    def fails(count: int) -> bool:
        return _find_fault(source, metadata, group + 1, names[:count]) is not None

    return group, names[min(bisect_left(counts, True, key=fails), len(names) - 1)]


def _find_fault(
    source: Pinned, metadata: pq.FileMetaData, groups: int, columns: list[str] | None = None
) -> Exception | None:
    """Return the error with which Arrow refuses a description among the first row groups; None if there is none."""
    try:
        _begin_reading(pq.ParquetFile(_NoBytes(source.size), metadata=metadata, pre_buffer=True), groups, columns)
    except _FirstRead:  # Arrow has looked at all column chunks
        return None
    except NotImplementedError:  # Arrow cannot decode the type of a column; reading the column explains this
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        return error
    return None


def _begin_reading(file: pq.ParquetFile, groups: int, columns: list[str] | None) -> None:
    """Read the first row of a file, and let go of the file whatever happens.

    Arrow keeps an error of `_NoBytes` as long as the file, and the error keeps all variables of its callers. If the
    file were one of them, neither it nor the rows that a caller has at hand would ever be freed.
    """
    try:
        next(file.iter_batches(1, row_groups=range(groups), columns=columns, use_threads=False), None)
    finally:
        del file
