"""Each type of PostgreSQL is read losslessly, or refused by the name of the column."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.databases.source import decoding, receiving
from scoreline.tasks.databases.source.reading import read_rows
from tests.support.postgres import Database
from tests.support.sources import Sources, sources

TYPES = """
CREATE TYPE citext;  -- as its extension does, which the server of the tests does not have
CREATE FUNCTION citextin(cstring) RETURNS citext AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION citextout(citext) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE citext (INPUT = citextin, OUTPUT = citextout, LIKE = text, CATEGORY = 'S');
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN share AS numeric(5, 4) CHECK (VALUE <= 1);
"""
INFINITE = [float("inf"), float("-inf")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[Sources]:
    name = postgres.create()
    with sources(tmp_path_factory.mktemp("types"), Database(postgres, name)) as found:
        with found.database.connect() as connection:
            connection.execute(TYPES.encode())
            connection.execute(f"ALTER DATABASE {name} SET extra_float_digits = -3".encode())
            connection.execute(f"ALTER DATABASE {name} SET datestyle = 'German'".encode())
            connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'".encode())
        yield found
    postgres.drop(name)


@pytest.fixture(scope="module")
def many(source: Sources) -> pa.Table:
    """Create a table with many types, and return its rows as they are read in one block."""
    source.database.run("CREATE TABLE many AS " + MANY)
    return read(source, "SELECT * FROM many")


@pytest.fixture(params=["binary", "csv"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read in the format, if the types allow it."""
    if request.param == "csv":
        monkeypatch.setattr(decoding, "binary_rows", None)
    elif decoding.binary_rows is None:
        pytest.skip("the extension is not compiled")
    return str(request.param)


def read(source: Sources, sql: str) -> pa.Table:
    rows = read_rows(source.settings.source_address(None), sql, {}, timeout_s=60, what="query q")
    return pa.concat_tables(table for _, table in rows)


@pytest.mark.parametrize(
    ("sql", "kind", "value"),
    [
        ("true", pa.bool_(), True),
        ("-7::int2", pa.int16(), -7),
        ("2147483647::int4", pa.int32(), 2147483647),
        ("(-9223372036854775808)::int8", pa.int64(), -(1 << 63)),
        ("0.1::float4", pa.float32(), pytest.approx(0.1, rel=1e-7)),
        ("0.1::float8 + 0.2::float8", pa.float64(), 0.1 + 0.2),
        ("'-Infinity'::float8", pa.float64(), INFINITE[1]),
        ("'Infinity'::float4", pa.float32(), INFINITE[0]),
        ("12345678901234567890.12::numeric(38,2)", pa.decimal128(38, 2), Decimal("12345678901234567890.12")),
        ("0.25::share", pa.decimal128(5, 4), Decimal("0.2500")),
        ("'2026-11-29'::date", pa.date32(), date(2026, 11, 29)),
        ("'0001-01-01'::date", pa.date32(), date(1, 1, 1)),
        ("'23:59:59.000001'::time", pa.time64("us"), time(23, 59, 59, 1)),
        ("'2026-11-29 01:02:03.000004'::timestamp", pa.timestamp("us"), datetime(2026, 11, 29, 1, 2, 3, 4)),
        (
            "'2026-11-29 01:02:03.5+05:30'::timestamptz",
            pa.timestamp("us", "UTC"),
            datetime(2026, 11, 28, 19, 32, 3, 500000, tzinfo=UTC),
        ),
        ("'1 year 2 mons -3 days 04:05:06.7'::interval", pa.string(), "P1Y2M-3DT4H5M6.7S"),
        (r"'\x00ff0a22'::bytea", pa.binary(), b"\x00\xff\n\x22"),
        ("''::bytea", pa.binary(), b""),
        ("''::text", pa.string(), ""),
        ("'NULL'::text", pa.string(), "NULL"),
        ("E'a,\"b\"\\nc\\\\.'::text", pa.string(), 'a,"b"\nc\\.'),
        ("'x  '::char(3)", pa.string(), "x  "),
        ("'Grüße'::citext", pa.string(), "Grüße"),
        ("'ok'::mood", pa.string(), "ok"),
        (
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
            pa.string(),
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        ("'{\"a\":  1}'::json", pa.string(), '{"a":  1}'),
        ("'{\"b\": [1, null]}'::jsonb", pa.string(), '{"b": [1, null]}'),
        ("ARRAY[1, NULL, 3]", pa.string(), "{1,NULL,3}"),
        ("ARRAY['a b', 'c,d']", pa.string(), '{"a b","c,d"}'),
        ("ARRAY['ok'::mood]", pa.string(), "{ok}"),
        ("'10.0.0.1/8'::inet", pa.string(), "10.0.0.1/8"),
        ("'01:02:03+04'::timetz", pa.string(), "01:02:03+04"),
        ("NULL::text", pa.string(), None),
        ("NULL::numeric(4,1)", pa.decimal128(4, 1), None),
        ("NULL::bytea", pa.binary(), None),
    ],
)
@pytest.mark.usefixtures("form")
def test_a_value_is_read_as_it_is(source: Sources, sql: str, kind: pa.DataType, value: Any) -> None:
    for query in (f"SELECT {sql} AS c", f"SELECT {sql} AS c, 1 AS d"):  # CSV of a single column has its own rules
        column = read(source, query)["c"]
        assert column.type == kind
        assert column.to_pylist() == [value]


@pytest.mark.usefixtures("form")
def test_nan_is_a_number_and_null_is_none(source: Sources) -> None:
    values = read(source, "SELECT v AS c FROM (VALUES ('NaN'::float8), (NULL)) t(v)")["c"]
    assert values.null_count == 1
    assert str(values[0]) == "nan"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("1.5::numeric", "column 'c' is numeric without a number of digits"),
        ("1::numeric(50,2)", "column 'c' is numeric(50,2), and decimals have up to 38 digits"),
        ("100::numeric(2,-3)", "column 'c' is numeric(2,-3)"),
        ("'NaN'::numeric(5,2)", "column 'c' (numeric(5,2)) has a value that is no number, such as NaN"),
        ("'infinity'::timestamptz", "column 'c' (timestamp with time zone) has a value that no calendar has"),
        ("'-infinity'::date", "column 'c' (date) has a value that no calendar has"),
        ("'0044-03-15 BC'::date", "column 'c' (date) has a value that no calendar has"),
        ("'10000-01-01'::timestamp", "column 'c' (timestamp without time zone) has a value"),
        ("'24:00'::time", "column 'c' (time without time zone) has a value"),
        ("ROW(1, 2)::pair", "column 'c' is pair, which cannot be read without loss"),
        ("ROW(1, 2)", "column 'c' is record, which cannot be read without loss"),
        ("1::money", "column 'c' is money, which cannot be read without loss"),
        ("int4range(1, 2)", "column 'c' is int4range, which cannot be read without loss"),
        ("1, 2 AS c", "has the column 'c' twice"),
    ],
)
@pytest.mark.usefixtures("form")
def test_what_would_lose_something_is_refused_by_the_name_of_its_column(source: Sources, sql: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(source, f"SELECT {sql} AS c" if " AS c" not in sql else f"SELECT 1 AS c, {sql}")
    assert said in str(refused.value)


MANY = """
SELECT CASE WHEN g % 3 > 0 THEN g % 2 = 0 END AS a, (g % 30000)::int2 AS b, g * 7 AS c, g::int8 << 33 AS d,
    g::oid AS e, (random() - 0.5)::float4 AS f, CASE WHEN g % 5 > 0 THEN exp((random() - 0.5) * 1000) END AS g,
    '1600-02-29'::date + g AS h, '00:00'::time + g * interval '1.234567 s' AS i,
    '1890-01-01'::timestamp + g * interval '1 day 1.000001 s' AS j, now() - g * interval '9.000007 s' AS k,
    ((random() - 0.5) * power(10, g % 12))::numeric(14, 3) AS l, (random() * g)::numeric(8, 0) AS m,
    power(0.1, 1 + g % 9)::numeric(9, 9) AS n, (g * 1000)::numeric(12, 5) AS o,
    CASE WHEN g % 4 > 0 THEN repeat('ä', g % 50) END AS p, decode(md5(g::text), 'hex') AS q,
    jsonb_build_object('g', g) AS r, md5(g::text)::uuid AS s, (ARRAY['ok', 'bad'])[g % 3]::mood AS t,
    (g * 1e30)::numeric(38, 4) AS u
FROM generate_series(1, 3001) g
"""


@pytest.mark.parametrize("left_out", [(), ("binary_rows",), ("copy_block",), ("binary_rows", "copy_block")])
def test_rows_are_the_same_with_and_without_extensions(
    source: Sources, many: pa.Table, monkeypatch: pytest.MonkeyPatch, left_out: tuple[str, ...]
) -> None:
    monkeypatch.setattr(receiving, "BLOCK_BYTES", 50_000)
    for name in left_out:
        monkeypatch.setattr(decoding if name == "binary_rows" else receiving, name, None)
    if "copy_block" not in left_out:  # then only the extension receives
        monkeypatch.delattr(receiving, "_PlainReceiver")
    found = read(source, "SELECT * FROM many")
    found.validate(full=True)
    assert found.schema == many.schema
    for name in many.schema.names:
        assert found[name].equals(many[name]), name
    assert (found.num_rows, found["p"].null_count) == (3001, 750)


def test_a_query_without_columns_is_refused(source: Sources) -> None:
    with pytest.raises(InvalidRequest, match="query q returns no rows: write a SELECT"):
        read(source, "DELETE FROM customers")
    with pytest.raises(InvalidRequest, match="write them as :name"):
        read(source, "SELECT $1::int AS c")


def test_a_decimal_may_be_a_feature(source: Sources) -> None:
    source.database.run(
        "CREATE TABLE typed AS SELECT g::bigint AS id, (g / 2.0)::numeric(6,2) AS x FROM generate_series(1, 3) g"
    )
    done = source.run("decimals", table="public.typed")
    assert done.state == "succeeded", done.error
    assert source.scored("decimals") == {1: 2.0, 2: 3.0, 3: 4.0}
