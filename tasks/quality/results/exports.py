"""Writes the rows of an accepted run to one local file: CSV, JSON Lines, Parquet or an Excel workbook.

A text that begins like a formula could run commands in the spreadsheet of a person who opens the file. In CSV, such a
text gets an apostrophe in front, as OWASP advises (https://owasp.org/www-community/attacks/CSV_Injection). In a
workbook, every text is stored as text, and a text that begins like a formula is marked as such, as an apostrophe that
is typed in Excel does. Numbers are not changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from scoreline.storage.errors import InvalidRequest, require_extra
from scoreline.tasks.quality.results.reading import Results
from scoreline.tasks.quality.results.whole_file import whole_file
from scoreline.tasks.rejects.json_values import to_json_value

_FORMULA = "^[=+\\-@\t\r\n＝＋－＠]"  # noqa: RUF001  # spreadsheets also take the wide forms of these characters
_MAX_SHEET_ROWS = 1_048_576
_MAX_SHEET_COLUMNS = 16_384
_MAX_CELL_CHARS = 32_767
"""Limits of a worksheet, according to Microsoft's specification of Excel. The first row has the names of columns."""
_EXACT_INTEGERS = 1 << 53
"""A workbook stores numbers as float64, which represents every integer up to this one."""


def export(results: Results, path: str | os.PathLike[str]) -> int:
    """Write all rows to a file, whose suffix is the format, and return their number.

    The file appears when it is complete. If writing fails, a file of this name stays as it was.

    Raises
    ------
    InvalidRequest
        The suffix is none of `.csv`, `.jsonl`, `.parquet` and `.xlsx`, or the rows do not fit into a worksheet.
    ResultsDamaged
        A file of the results differs from the one that the run wrote.
    """
    target = Path(path)
    write = _WRITERS.get(target.suffix.lower())
    if write is None:
        raise InvalidRequest(f"{target} has none of the suffixes {', '.join(_WRITERS)}: choose one of these formats")
    if target.is_dir():
        raise InvalidRequest(f"{target} is a folder: name a file")
    with whole_file(target) as temporary:
        return write(results, temporary)


def _write_csv(results: Results, path: Path) -> int:
    schema = results.schema
    names = [_harmless(name) for name in schema.names]
    fields = [pa.field(name, _csv_type(kind)) for name, kind in zip(names, schema.types, strict=True)]
    rows = 0
    with pacsv.CSVWriter(str(path), pa.schema(fields)) as writer:
        for batch in results:
            columns = [_csv_column(column) for column in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)))
            rows += batch.num_rows
    return rows


def _csv_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _csv_type(kind.value_type)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return (
        kind
        if is_number or pa.types.is_boolean(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind)
        else pa.string()
    )


def _csv_column(column: pa.Array) -> pa.Array:
    """Return a column that CSV can hold, in which no text begins like a formula."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _csv_type(column.type) == column.type and not pa.types.is_string(column.type):
        return column
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        texts = column.cast(pa.string())
    else:
        texts = pa.array([None if value is None else _text_of(value) for value in column.to_pylist()], pa.string())
    risky = pc.match_substring_regex(texts, _FORMULA)
    return pc.if_else(risky, pc.binary_join_element_wise("'", texts, ""), texts)


def _harmless(text: str) -> str:
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    return text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠") and text != ""  # noqa: RUF001


def _text_of(value: Any) -> str:
    converted = to_json_value(value)
    return converted if isinstance(converted, str) else json.dumps(converted, ensure_ascii=False)


def _values_of(column: pa.Array) -> list[Any]:
    """Return the values of a column. Times before year 1 or after 9999, which Python does not have, become texts."""
    try:
        values: list[Any] = column.to_pylist()
    except OverflowError:
        values = [_value_or_text(value) for value in column]
    return values


def _value_or_text(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except OverflowError:
        return value.cast(pa.string()).as_py()


def _write_jsonl(results: Results, path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in results:
            columns = [_values_of(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                row = dict(zip(batch.schema.names, values, strict=True))
                file.write(json.dumps(to_json_value(row), ensure_ascii=False) + "\n")
            rows += batch.num_rows
    return rows


def _write_parquet(results: Results, path: Path) -> int:
    rows = 0
    with pq.ParquetWriter(path, results.schema, compression="zstd") as writer:
        for table in _in_groups(results):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _in_groups(batches: Iterable[pa.RecordBatch], rows: int = 131_072) -> Iterator[pa.Table]:
    """Yield tables of at least `rows` rows, so that a file does not get a row group for each batch."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) >= rows:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _write_xlsx(results: Results, path: Path) -> int:
    schema = results.schema
    if results.rows + 1 > _MAX_SHEET_ROWS:
        raise InvalidRequest(
            f"job {results.job_id} has {results.rows:,} rows, and a worksheet holds {_MAX_SHEET_ROWS - 1:,} below the "
            "names of the columns: write .csv or .parquet"
        )
    if len(schema.names) > _MAX_SHEET_COLUMNS:
        raise InvalidRequest(
            f"job {results.job_id} has {len(schema.names):,} columns, and a worksheet holds {_MAX_SHEET_COLUMNS:,}: "
            "write .csv or .parquet"
        )
    with require_extra("writing .xlsx"):
        import xlsxwriter
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "tmpdir": str(path.parent),
    }
    rows = 0
    with xlsxwriter.Workbook(str(path), options) as book:
        sheet = book.add_worksheet("results")
        marked = book.add_format({"quote_prefix": True})
        for place, name in enumerate(schema.names):
            _write_cell(sheet, 0, place, name, name, marked)
        for batch in results:
            columns = [_values_of(column) for column in batch.columns]
            for row in zip(*columns, strict=True):
                rows += 1
                for place, value in enumerate(row):
                    if value is not None:
                        _write_cell(sheet, rows, place, value, schema.names[place], marked)
    return rows


def _write_cell(sheet: Any, row: int, place: int, value: Any, name: str, marked: Any) -> None:
    if isinstance(value, bool):
        sheet.write_boolean(row, place, value)
        return
    if isinstance(value, int) and abs(value) <= _EXACT_INTEGERS:
        sheet.write_number(row, place, value)
        return
    if isinstance(value, float) and abs(value) < float("inf"):
        sheet.write_number(row, place, value)
        return
    text = _text_of(value)
    if len(text) > _MAX_CELL_CHARS:
        raise InvalidRequest(
            f"row {row:,} of column {name!r} has a text of {len(text):,} characters, and a cell holds "
            f"{_MAX_CELL_CHARS:,}: write .csv or .parquet"
        )
    if _is_formula(text):
        sheet.write_string(row, place, text, marked)
    else:
        sheet.write_string(row, place, text)


_WRITERS: Mapping[str, Callable[[Results, Path], int]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".xlsx": _write_xlsx,
}
