"""Opens Parquet files from any source of bytes, and refuses files with encrypted columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.contents import explain_parquet


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


def refuse_encrypted_columns(source: Pinned, file: pq.ParquetFile, end: bytes) -> None:
    """Raise `UnreadableInput` if columns are encrypted, although the footer is not.

    If only columns are encrypted, the footer is followed by a signature. Arrow raises an error if it reads an encrypted
    column, but crashes if the metadata of the column is accessed.

    Parameters
    ----------
    end : bytes
        The last 8 bytes of the object, which begin with the size of the footer.
    """
    if int.from_bytes(end[:4], "little") == file.metadata.serialized_size:
        return
    try:
        next(file.iter_batches(batch_size=1), None)
    except (pa.ArrowException, OSError, ValueError) as error:
        if "crypt" in str(error):
            raise explain_parquet(source, error) from error
