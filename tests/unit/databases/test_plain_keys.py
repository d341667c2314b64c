"""Rows are looked up by keys of which equal ones are written in the same way, and by no others."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from scoreline.tasks.databases import stored_rows
from scoreline.tasks.databases.stored_rows import StoredRows
from scoreline.tasks.databases.tables import Mapped, Table


@pytest.mark.parametrize(
    ("kind", "source", "vague", "plain"),
    [
        ("int4", pa.int32(), (), True),
        ("text", pa.string(), (), True),
        ("text", pa.dictionary(pa.int32(), pa.string()), (), True),
        ("text", pa.string(), ("name",), False),  # its collation takes other texts for equal
        ("citext", pa.string(), (), False),
        ("float8", pa.float64(), (), False),  # 0.0 and -0.0 are one key
        ("numeric", pa.int64(), (), False),
    ],
)
def test_a_key_is_plain_if_equal_values_have_the_same_bytes(
    kind: str, source: pa.DataType, vague: tuple[str, ...], plain: bool
) -> None:
    table = Table(oid=1, schema="public", name="t", types={"name": kind, "n": "int8"}, vague=frozenset(vague))
    columns = Mapped(pairs=(("name", "from"), ("n", "n")), key=("name",))
    stored = StoredRows(table=table, columns=columns, utf8=True)
    schema = pa.schema({"from": source, "n": pa.int64()})
    assert (stored.has_plain_key(schema), stored.can_compare(schema)) == (plain, plain)


def test_texts_of_a_server_with_another_encoding_are_not_compared() -> None:
    table = Table(oid=1, schema="public", name="t", types={"id": "int8", "word": "text"})
    columns = Mapped(pairs=(("id", "id"), ("word", "word")), key=("id",))
    schema = pa.schema({"id": pa.int64(), "word": pa.string()})
    assert [StoredRows(table=table, columns=columns, utf8=utf8).can_compare(schema) for utf8 in (True, False)] == [
        True,
        False,
    ]


def test_several_columns_are_no_plain_key() -> None:
    table = Table(oid=1, schema="public", name="t", types={"a": "int8", "b": "int8"})
    columns = Mapped(pairs=(("a", "a"), ("b", "b")), key=("a", "b"))
    schema = pa.schema({"a": pa.int64(), "b": pa.int64()})
    assert not StoredRows(table=table, columns=columns, utf8=True).can_compare(schema)


def test_rows_whose_stored_texts_may_fill_the_memory_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "_TEXT_BYTES", 50)
    table = Table(oid=1, schema="public", name="t", types={"id": "int8", "a": "text", "b": "text"})
    columns = Mapped(pairs=(("id", "id"), ("a", "a"), ("b", "b")), key=("id",))
    batch = pa.record_batch({"id": range(10), "a": ["abc"] * 10, "b": ["abc"] * 10})
    connection: Any = None  # is not used
    assert StoredRows(table=table, columns=columns, utf8=True).differing(connection, batch).all()
