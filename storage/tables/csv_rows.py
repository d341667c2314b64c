"""Combine the columns of a block of CSV into rows, and separate the malformed rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables.base import MalformedRow, Pinned, Rows
from scoreline.storage.tables.convert import batch_without_columns
from scoreline.storage.tables.text import Block


def to_rows(
    source: Pinned,
    block: Block,
    schema: pa.Schema,
    columns: Sequence[pa.Array],
    ragged: Sequence[Any],
    invalid: Mapping[int, tuple[str | None, str]],
    encoding: str,
) -> Rows:
    """Combine the columns of a block, and separate the malformed rows.

    Parameters
    ----------
    ragged : sequence
        Arrow's descriptions of the records with too many or too few fields. The columns do not contain the ragged
        records.
    invalid : mapping of int to (str or None, str)
        Column and message for each value that could not be converted, by row of the columns.
    """
    count = len(block.records)
    malformed: dict[int, tuple[str | None, str]] = {
        row.number - 1: (None, _describe_ragged(row, block.lines(row.number - 1))) for row in ragged
    }
    good = np.delete(np.arange(count, dtype=np.int64), sorted(malformed))
    if columns and len(columns[0]) != len(good):
        raise UnreadableInput(
            f"{source.uri} has {len(columns[0]) + len(ragged)} rows from row {block.first_row}, byte {block.start:,}, "
            f"but {count} were counted"
        )
    batch = (
        pa.RecordBatch.from_arrays(list(columns), names=schema.names) if columns else batch_without_columns(len(good))
    )
    readable: dict[int, dict[str, Any]] = {}
    if invalid:
        rows = list(invalid)
        readable = dict(zip(good[rows].tolist(), batch.take(pa.array(rows)).to_pylist(), strict=True))
        malformed |= {int(good[row]): reason for row, reason in invalid.items()}
        valid = np.ones(len(good), dtype=bool)
        valid[list(invalid)] = False
        batch, good = batch.filter(pa.array(valid)), good[valid]
    return Rows(
        batch=batch,
        numbers=block.first_row + good,
        malformed=tuple(
            MalformedRow(
                row=block.first_row + row,
                column=column,
                message=message,
                raw=block.text(row, encoding),
                values=readable.get(row, {}),
            )
            for row, (column, message) in sorted(malformed.items())
        ),
    )


def _describe_ragged(row: Any, lines: int) -> str:
    message = f"{row.actual_columns} fields, but the header has {row.expected_columns}"
    return f"{message}; the row spans {lines:,} lines: check its quotation marks" if lines > 1 else message
