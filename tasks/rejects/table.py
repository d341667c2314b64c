"""Rejected rows as a table, each with what is known of its rejection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from scoreline.storage.tables.base import Rows
from scoreline.tasks.scoring.features import Rejection


def reasons(rows: Rows, rejected: Mapping[int, Rejection]) -> Iterator[str]:
    """Say of each row of a batch that has no result why, first of those that cannot be decoded."""
    yield from (f"row {item.row}: {item.message}" for item in rows.malformed)
    yield from (f"row {rows.numbers[row]}: {why}" for row, why in rejected.items())


def rejects_table(rows: Rows, reasons: Mapping[int, Rejection], uri: str) -> pa.Table:
    """Return the rows of a batch that have no result, in input order, each with what is known of its rejection."""
    failed = list(reasons)
    table = pa.Table.from_batches([rows.batch]).take(pa.array(failed, pa.int64()))
    told: list[tuple[int, str, str | None, str, str | None]]
    told = [(int(rows.numbers[row]), why.stage, why.column, why.message, None) for row, why in reasons.items()]
    told += [(item.row, "decode", item.column, item.message, item.raw) for item in rows.malformed]
    nothing = pa.table({field.name: pa.nulls(len(rows.malformed), field.type) for field in table.schema})
    table = pa.concat_tables([table, nothing])
    numbers, stages, columns, messages, records = zip(*told, strict=True)
    notes = {
        "source": pa.array([uri] * len(told)),
        "row": pa.array(numbers, pa.int64()),
        "stage": pa.array(stages),
        "column": pa.array(columns, pa.string()),
        "message": pa.array(messages),
        "record": pa.array(records, pa.string()),
    }
    for note, name in note_columns(table.column_names).items():
        table = table.append_column(name, notes[note])
    return table.sort_by(note_columns(rows.batch.schema.names)["row"])


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """Put rejected rows of several batches together.

    Objects may differ in a feature's type: where no type holds all values, the column becomes text. The rows are there
    to be looked at, and are scored again out of the objects they came from.
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


NOTES = ("source", "row", "stage", "column", "message", "record")
"""Appended to a rejected row: the object it was in, its number there from 0, what it failed at, the column at fault
where it is known, why, and the text of a record that could not be decoded, whose columns are null."""


def note_columns(own: Iterable[str]) -> dict[str, str]:
    """Name the columns that tell of a rejection, beside the row's own columns, which keep their names.

    >>> note_columns(["row", "x"])["row"], note_columns(["x"])["row"]
    ('_row', 'row')
    """
    taken = set(own)
    names = {}
    for note in NOTES:
        free = note
        while free in taken:
            free = f"_{free}"
        names[note] = free
    return names
