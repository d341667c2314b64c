"""Converts records that are too large for JSON to a Parquet object for the bucket.

An application that passes records of this size needs pyarrow and pandas.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

from scoreline.storage import keys
from scoreline.storage.errors import InvalidRequest, one_line, require_extra
from scoreline.tasks.records.table import Table

if TYPE_CHECKING:
    import pyarrow as pa


_GROUP_ROWS = 131_072


def as_parquet(job_id: str, records: Any) -> tuple[str, list[str], bytes]:
    """Return the key, the column names and the bytes of the records as Parquet. The index of a DataFrame is dropped.

    Parameters
    ----------
    records : DataFrame or Table
        The records. The columns of a DataFrame keep their types.

    Raises
    ------
    PackageMissing
        pyarrow or pandas is not installed.
    InvalidRequest
        Parquet cannot represent a value; the message names its column.
    """
    with require_extra("scoring more than 8 MiB of records"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        from scoreline.storage.tables.views import without_views
    try:
        if isinstance(records, Table):
            table = records_to_arrow(records)
        else:
            table = pa.Table.from_pandas(records, preserve_index=False).replace_schema_metadata(None)
            table = without_views(table)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the records cannot be written as Parquet: {one_line(error)}") from error
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd")
    data = sink.getvalue()
    return keys.records_bulk(job_id, hashlib.sha256(data).hexdigest()), table.column_names, data


def records_to_arrow(table: Table) -> pa.Table:
    """Return records as an Arrow table; raises `pyarrow.ArrowException` or `OverflowError` if a value does not fit."""
    import pyarrow as pa

    types = {
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "string": pa.string(),
        "date32": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamp_utc": pa.timestamp("us", tz="UTC"),
    }
    return pa.table({name: pa.array(table.columns[name], types[kind]) for name, kind in table.types.items()})
