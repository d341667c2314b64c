"""Records that are too many to be JSON: an object of Parquet in the bucket, and results that are read from there.

Needs pyarrow and pandas in the application.
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
    """Return key, names of the columns, and bytes of the records as Parquet; the index of a DataFrame is no column.

    Parameters
    ----------
    records : DataFrame or Table
        A DataFrame keeps its types.

    Raises
    ------
    PackageMissing
        pyarrow or pandas is not installed.
    InvalidRequest
        Parquet has no form for a value; names its column.
    """
    with require_extra("scoring more than 8 MiB of records"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        if isinstance(records, Table):
            table = records_to_arrow(records)
        else:
            table = pa.Table.from_pandas(records, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the records cannot be written as Parquet: {one_line(error)}") from error
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd")
    data = sink.getvalue()
    return keys.records_bulk(job_id, hashlib.sha256(data).hexdigest()), table.column_names, data


def records_to_arrow(table: Table) -> pa.Table:
    """Return records as Arrow has them; raises `pyarrow.ArrowException` and `OverflowError` where it has not."""
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
