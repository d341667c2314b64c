"""Opens Parquet files, wherever their bytes come from, and refuses those that Arrow must not look into."""

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
        The footer, if it is known. It is then not read again.
    buffer_bytes : int
        Number of bytes that Arrow buffers of each column; 0 if it reads each chunk at once.
    """
    try:
        return pq.ParquetFile(
            file,
            metadata=metadata,
            pre_buffer=False,  # Arrow would send one request after another
            buffer_size=buffer_bytes,
            page_checksum_verification=True,
            coerce_int96_timestamp_unit="us",  # nanoseconds of 64 bits end in 2262, but INT96 does not
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # for example, if a column name is not UTF-8
        raise explain_parquet(source, error) from error


def refuse_encrypted_columns(source: Pinned, file: pq.ParquetFile, end: bytes) -> None:
    """Raise `UnreadableInput` if columns are encrypted, although the footer is not.

    Such a footer is followed by a signature. Arrow ends the process if anyone looks at the metadata of such a column,
    but raises an error if it reads the column.

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
