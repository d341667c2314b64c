"""Builds the table of rejected rows, which states the source of each row and the reason why it was rejected."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from scoreline.storage.tables.base import MalformedRow, Rows
from scoreline.tasks.scoring.features import Rejection
from scoreline.tasks.scoring.rejected_rows import RejectedRows


def describe_rejected(rows: Rows, rejected: Mapping[int, Rejection]) -> Iterator[str]:
    """Yield a description of each rejected row of a batch. Rows that cannot be decoded come first.

    Parameters
    ----------
    rows : Rows
        The batch as it was read.
    rejected : mapping of int to Rejection
        The rows that could not be scored, by row number within the batch.
    """
    yield from (f"row {item.row}: {item.message}" for item in rows.malformed)
    yield from (f"row {rows.numbers[row]}: {rejection}" for row, rejection in rejected.items())


def rejects_table(rows: Rows, rejected: Mapping[int, Rejection], uri: str) -> pa.Table:
    """Return the rejected rows of a batch, in input order, with the columns of `REJECTION_FIELDS` appended.

    Parameters
    ----------
    rows : Rows
        The batch as it was read.
    rejected : mapping of int to Rejection
        The rows that could not be scored, by row number within the batch. The batch must have at least one rejected
        row; rows that could not be decoded count, too.
    uri : str
        The object that the batch was read from.
    """
    found = RejectedRows.of(rejected)
    table = pa.Table.from_batches([rows.batch.take(pa.array(found.rows))])
    broken = rows.malformed
    if broken:
        table = pa.concat_tables(
            [table, pa.table({item.name: _readable_values(broken, item) for item in table.schema})]
        )
    codes = pa.array(found.codes)

    def texts(of_reasons: Sequence[str | None], of_broken: Iterable[str | None]) -> pa.Array:
        """Return a text for each row, of which many are equal."""
        own = pa.array(of_reasons, pa.string()).take(codes)
        return pa.concat_arrays([own, pa.array(list(of_broken), pa.string())]) if broken else own

    numbers = np.concatenate([rows.numbers[found.rows], np.array([item.row for item in broken], dtype=np.int64)])
    values = {
        "source": pa.repeat(uri, len(table)),
        "row": pa.array(numbers, pa.int64()),
        "stage": texts(found.stages, ("decode" for _ in broken)),
        "column": texts(found.columns, (item.column for item in broken)),
        "message": texts(found.messages, (item.message for item in broken)),
        "record": pa.array([*itertools.repeat(None, len(found)), *(item.raw for item in broken)], pa.string()),
    }
    names = rejection_columns(table.column_names)
    for field, name in names.items():
        table = table.append_column(name, values[field])
    return table.sort_by(names["row"]) if broken else table


def _readable_values(malformed: Sequence[MalformedRow], field: pa.Field) -> pa.Array:
    """Return the values of a column in rows that could not be decoded; null if the value could not be read."""
    try:
        return pa.array([item.values.get(field.name) for item in malformed], field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.nulls(len(malformed), field.type)


def concat_rejects(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate the rejected rows of several batches.

    The type of a feature may differ between objects. If no type fits all values, the column becomes text. Text is
    sufficient, because the table is only for people. If the rows are scored again, they are read from their original
    objects.
    """
    columns = {}
    for name in tables[0].column_names:
        pieces = [table.select([name]) for table in tables]
        try:
            whole = pa.concat_tables(pieces, promote_options="permissive")
        except pa.ArrowException:
            whole = pa.concat_tables([_as_text(piece) for piece in pieces])
        columns[name] = whole.column(0)
    return pa.table(columns)


def _as_text(column: pa.Table) -> pa.Table:
    values = (None if value is None else str(value) for value in column.column(0).to_pylist())
    return pa.table({column.column_names[0]: pa.array(values, pa.string())})


REJECTION_FIELDS = ("source", "row", "stage", "column", "message", "record")
"""Fields that are appended to each rejected row: its object, its number in the object from 0, the stage at which it
failed, the column at fault if known, the reason, and the raw text if the row could not be decoded. The input columns of
an undecodable row are null, except those that could be read."""


def rejection_columns(own: Iterable[str]) -> dict[str, str]:
    """Return the column name of each rejection field; underscores are prefixed to avoid the row's own column names.

    >>> rejection_columns(["row", "x"])["row"], rejection_columns(["x"])["row"]
    ('_row', 'row')
    """
    taken = set(own)
    names = {}
    for field in REJECTION_FIELDS:
        name = field
        while name in taken:
            name = f"_{name}"
        names[field] = name
    return names
