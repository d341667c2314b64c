"""Broken and unusual inputs, each with its expected counts of scored and rejected rows, or words of the error."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One input of a job with the model ``x -> 2 x + 1``, which refuses missing values."""

    name: str
    objects: Mapping[str, Callable[[], bytes] | bytes]
    """Contents by key below the input's folder."""
    scored: int | None = None
    """Number of rows that are scored; None if the job fails without a result."""
    rejected: int = 0
    says: str = ""
    """Text that is in the job's error, or in the message of its first rejected row."""
    options: Mapping[str, Any] = field(default_factory=dict)
    of: str | None = None
    """The input below the folder, if it is not the whole folder."""
    model: str = "corpus"
    """The name of the model. Jobs of a model are compared with its earlier results, and cut by its pace, so a very wide
    input under the same name would make all later jobs slow."""


def parquet(columns: Mapping[str, Any] | pa.Table | None = None, **how: Any) -> bytes:
    table = (
        columns if isinstance(columns, pa.Table) else pa.table(dict(columns or {"id": [1, 2, 3], "x": [0.5, 1.0, 1.5]}))
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, **how)
    return sink.getvalue()


def arrow(table: pa.Table, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def damaged(data: bytes, at: float = 0.3, count: int = 24) -> bytes:
    place = int(len(data) * at)
    return data[:place] + bytes(255 - byte for byte in data[place : place + count]) + data[place + count :]


class _Keys(pe.KmsClient):
    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return wrapped_key


def encrypted() -> bytes:
    factory = pe.CryptoFactory(lambda _: _Keys())
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["x"]}, plaintext_footer=False)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    return parquet(encryption_properties=properties)


def deep(levels: int) -> Any:
    value: Any = [1]
    for _ in range(levels):
        value = [value]
    return value


def wide() -> bytes:
    return parquet({f"c{number}": [1.0, 2.0] for number in range(9_998)} | {"id": [1, 2], "x": [0.5, 1.0]})


SOUND = b"id,x\n1,0.5\n2,1.0\n3,1.5\n"
WIDE_NAMES = {"id": [1], "x": [0.5], "a.b": [1], "a b": [2], "größe": [3], "🙂": ["smile"], "": [4], "select": [5]}

CASES: tuple[Case, ...] = (
    # Parquet
    Case("parquet, sound", {"a.parquet": parquet}, 3),
    Case("parquet of no bytes", {"a.parquet": b"", "b.parquet": parquet}, 3),
    Case("nothing but objects of no bytes", {"a.parquet": b"", "b.csv": b""}, 0),
    Case(
        "parquet without rows",
        {"a.parquet": lambda: parquet({"id": pa.array([], pa.int64()), "x": pa.array([], pa.float64())})},
        0,
    ),
    Case("parquet cut short", {"a.parquet": lambda: parquet()[:-30]}, says="a.parquet is not a Parquet file"),
    Case("parquet of four bytes", {"a.parquet": b"PAR1"}, says="a.parquet is not a Parquet file"),
    Case(
        "wrong magic",
        {"a.parquet": lambda: b"XXXX" + parquet()[4:-4] + b"XXXX"},
        says="a.parquet is not a Parquet file",
    ),
    Case(
        "wrong footer length",
        {"a.parquet": lambda: parquet()[:-8] + b"\xff\xff\xff\x7fPAR1"},
        says="a.parquet is not a Parquet file",
    ),
    Case("footer of noise", {"a.parquet": lambda: damaged(parquet(), 0.75, 60)}, says="a.parquet"),
    Case(
        "damaged pages",
        {
            "a.parquet": lambda: damaged(
                parquet(
                    {"id": np.arange(9_000), "x": np.random.default_rng(0).normal(size=9_000)}, write_page_checksum=True
                ),
                0.5,
            )
        },
        says="a.parquet cannot be decoded in row group 0: could not verify page integrity",
    ),
    Case("csv named as parquet", {"a.parquet": SOUND}, says="a.parquet is not a Parquet file"),
    Case("encrypted parquet", {"a.parquet": encrypted}, says="a.parquet"),
    Case(
        "parquet in gzip",
        {"a.parquet.gz": lambda: gzip.compress(parquet())},
        says="a.parquet.gz is parquet compressed with gzip: decompress it",
    ),
    Case(
        "column missing in the second object",
        {"a.parquet": parquet, "b.parquet": lambda: parquet({"id": [1]})},
        says="b.parquet lacks 'x'; it has 'id'",
    ),
    Case(
        "kept column of two types",
        {"a.parquet": parquet, "b.parquet": lambda: parquet({"id": ["one"], "x": [1.0]})},
        says="b.parquet has 'id' as string",
    ),
    Case(
        "feature of two types",
        {"a.parquet": parquet, "b.parquet": lambda: parquet({"id": [9], "x": pa.array([7], pa.int16())})},
        4,
    ),
    Case(
        "feature that is text", {"a.parquet": lambda: parquet({"id": [1], "x": ["much"]})}, says="none of 1 row tried"
    ),
    Case("numbers as texts", {"a.parquet": lambda: parquet({"id": [1, 2], "x": ["0.5", "1.5"]})}, 2),
    Case(
        "the feature twice",
        {"a.parquet": lambda: parquet(pa.Table.from_arrays([pa.array([1.0])] * 2, names=["x", "x"]))},
        says="a.parquet has the column 'x' twice",
    ),
    Case(
        "another column twice",
        {"a.parquet": lambda: parquet(pa.Table.from_arrays([pa.array([1.0])] * 3, names=["x", "y", "y"]))},
        says="a.parquet has the column 'y' twice",
    ),
    Case("strange names of columns", {"a.parquet": lambda: parquet(WIDE_NAMES)}, 1),
    Case(
        "a column called prediction",
        {"a.parquet": lambda: parquet({"x": [1.0], "prediction": [7]})},
        says="'prediction' has the name of an output: leave it out with --keep",
    ),
    Case(
        "columns named as ours",
        {"a.parquet": lambda: parquet({"x": [1.0, None], "source": ["s", "s"], "row": [7, 8], "message": ["m", "m"]})},
        1,
        1,
        "'x' is null or NaN",
    ),
    Case("10,000 columns", {"a.parquet": wide}, 2, model="corpus-wide"),
    Case(
        "nested columns are left out",
        {"a.parquet": lambda: parquet({"x": [1.0], "tags": [["a", "b"]], "place": [{"lat": 1.0}]})},
        1,
    ),
    Case(
        "nested columns are kept where they are named",
        {"a.parquet": lambda: parquet({"x": [1.0], "tags": [["a", "b"]]})},
        1,
        options={"keep": "tags"},
    ),
    Case("deep nesting", {"a.parquet": lambda: parquet({"x": [1.0], "deep": [deep(40)]})}, 1),
    Case(
        "a feature that is nested",
        {"a.parquet": lambda: parquet({"x": [[1.0]]})},
        says="the feature 'x' is list<element: double>",
    ),
    Case("nulls", {"a.parquet": lambda: parquet({"id": [1, 2, 3], "x": [0.5, None, 1.5]})}, 2, 1, "'x' is null or NaN"),
    Case(
        "infinite values",
        {"a.parquet": lambda: parquet({"id": [1, 2, 3], "x": [0.5, float("inf"), float("-inf")]})},
        1,
        2,
        "'x' is infinite",
    ),
    Case(
        "nothing but nulls",
        {"a.parquet": lambda: parquet({"id": [1, 2], "x": pa.nulls(2)})},
        says="trained on. The first reason: 'x' is null or NaN",
    ),
    Case("decimals", {"a.parquet": lambda: parquet({"x": pa.array([1, 2]).cast(pa.decimal128(21, 2))})}, 2),
    Case(
        "decimals of more digits than a float has",
        {"a.parquet": lambda: parquet({"x": pa.array(["1.5", "12345678901234567890.12"]).cast(pa.decimal128(30, 2))})},
        1,
        1,
        "more digits than float64 holds",
    ),
    Case("truth values as a feature", {"a.parquet": lambda: parquet({"x": [True, False]})}, 2),
    Case(
        "times as a feature",
        {"a.parquet": lambda: parquet({"x": pa.array([1, 2], pa.timestamp("us"))})},
        says="rows tried",
    ),
    Case(
        "brotli, plain encoding, old version",
        {"a.parquet": lambda: parquet(compression="brotli", use_dictionary=False, version="1.0")},
        3,
    ),
    Case(
        "byte stream split, data page 2",
        {
            "a.parquet": lambda: parquet(
                {"x": [1.0, 2.0]},
                use_dictionary=False,
                column_encoding={"x": "BYTE_STREAM_SPLIT"},
                data_page_version="2.0",
            )
        },
        2,
    ),
    Case(
        "texts that are no UTF-8",
        {
            "a.parquet": lambda: parquet(
                pa.table(
                    {
                        "x": [1.0, 2.0],
                        "name": pa.Array.from_buffers(
                            pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xffa")]
                        ),
                    }
                )
            )
        },
        1,
        1,
        "'name' is not UTF-8",
    ),
    # Keys
    Case("strange keys", {"a b.csv": SOUND, "ü🙂.csv": SOUND, "x%2Fy+z&q=1.csv": SOUND, "[1].csv": SOUND}, 12),
    Case("one key with brackets", {"[1].csv": SOUND, "1.csv": SOUND}, 3, of="[1].csv"),
    Case("hidden objects", {"a.csv": SOUND, "_tmp/b.csv": SOUND, ".c.csv": b"junk", "d/.e/f.csv": b"junk"}, 3),
    Case("a name that says nothing", {"README": b"hello"}, says="README has none of the suffixes .parquet"),
    Case("a name that says nothing, with the format given", {"part-0001": SOUND}, 3, options={"format": "csv"}),
    # CSV
    Case("csv, sound", {"a.csv": SOUND}, 3),
    Case("csv with a byte order mark", {"a.csv": b"\xef\xbb\xbf" + SOUND}, 3),
    Case("csv in UTF-16", {"a.csv": SOUND.decode().encode("utf-16")}, says="a.csv is UTF-16: convert it to UTF-8"),
    Case("csv with a header alone", {"a.csv": b"id,x\n"}, 0),
    Case("csv with returns alone", {"a.csv": SOUND.replace(b"\n", b"\r")}, 3),
    Case("csv without a last line end", {"a.csv": SOUND[:-1]}, 3),
    Case("csv with empty lines", {"a.csv": SOUND.replace(b"\n", b"\n\n\r\n")}, 3),
    Case("ragged csv", {"a.csv": SOUND + b"4,2.0,more\n5\n6,2.5\n"}, 4, 2, "3 fields, but the header has 2"),
    Case(
        "csv with another delimiter",
        {"a.csv": SOUND.replace(b",", b";")},
        says="a.csv lacks 'x'; it has 'id;x': is the delimiter ';'? Say so with --delimiter",
    ),
    Case(
        "csv with another delimiter that is given", {"a.csv": SOUND.replace(b",", b";")}, 3, options={"delimiter": ";"}
    ),
    Case("csv without a header", {"a.csv": SOUND[5:]}, says="a.csv lacks 'x'; it has '1', '0.5'"),
    Case("csv without a header, named", {"a.csv": SOUND[5:]}, 3, options={"columns": ["id", "x"]}),
    Case("the feature twice in a header", {"a.csv": b"x,x\n1,2\n"}, says="a.csv has the column 'x' twice"),
    Case(
        "a quotation mark that is not closed",
        {"a.csv": SOUND + b'4,"2.0\n5,2.5\n'},
        says="a.csv: row 3, which begins at byte 23, has a quotation mark that is not closed",
    ),
    Case("quotation marks in the middle of fields", {"a.csv": b'id,x,size\n1,0.5,5" pipe\n2,1.0,3" by 4"\n'}, 2),
    Case("line ends in quotes", {"a.csv": b'id,x,note\n1,0.5,"a\r\nb"\n2,1.0,"c\n\nd"\n'}, 2),
    Case(
        "csv that is no UTF-8 in a kept column",
        {"a.csv": b"id,x,name\n1,0.5,caf\xe9\n2,1.0,tea\n"},
        1,
        1,
        "'name' is not UTF-8",
    ),
    Case(
        "csv in latin-1, with the encoding given",
        {"a.csv": b"id,x,name\n1,0.5,caf\xe9\n2,1.0,tea\n"},
        2,
        options={"encoding": "latin-1"},
    ),
    Case(
        "zero bytes in csv",
        {"a.csv": b"id,x,name\n1,0.5,a\0b\n2,\0,c\n"},
        1,
        1,
        "'x' is '\\x00', which is not a number",
    ),
    Case(
        "words among numbers",
        {"a.csv": SOUND + b"4,n/a?\n5,1_000\n6,0x10\n"},
        3,
        3,
        "'x' is 'n/a?', which is not a number",
    ),
    Case("missing values as people write them", {"a.csv": SOUND + b"4,NA\n5,\n6,null\n"}, 3, 3, "'x' is null or NaN"),
    Case(
        "an id that is a word after numbers",
        {"a.csv": b"id,x\n" + b"1,0.5\n" * 3_000 + b"two,0.5\n"},
        3_001,
    ),
    Case("ids with zeros in front stay as they are", {"a.csv": b"id,x\n007,0.5\n"}, 1),
    Case(
        "one line of 200 MB",
        {"a.csv": lambda: SOUND + b"4," + b"9" * (200 * MIB) + b"\n"},
        says="a.csv: row 3, which begins at byte 23, is longer than 16 MiB",
    ),
    Case("one line of 3 MB", {"a.csv": lambda: b"id,x,note\n1,0.5," + b"n" * (3 * MIB) + b"\n2,1.0,short\n"}, 2),
    Case(
        "gzip cut short", {"a.csv.gz": lambda: gzip.compress(SOUND * 99)[:-12]}, says="a.csv.gz cannot be decompressed"
    ),
    Case("gzip that is none", {"a.csv.gz": SOUND}, says="a.csv.gz cannot be decompressed: Not a gzipped file"),
    Case("gzip in two members", {"a.csv.gz": lambda: gzip.compress(SOUND) + gzip.compress(b"4,2.0\n")}, 4),
    Case(
        "gzip damaged",
        {"a.csv.gz": lambda: damaged(gzip.compress(SOUND * 999), 0.6, 9)},
        says="a.csv.gz cannot be decompressed",
    ),
    Case(
        "zstd cut short",
        {"a.csv.zst": lambda: pa.compress(SOUND * 999, codec="zstd", asbytes=True)[:-9]},
        says="a.csv.zst cannot be decompressed",
    ),
    Case(
        "ragged rows that are no UTF-8 either",
        {"a.csv": SOUND + b"\xff,2,more\n5,2.5\n"},
        4,
        1,
        "3 fields, but the header has 2",
    ),
    Case("parquet named as csv", {"a.csv": parquet}, says="a.csv"),
    Case("noise named as csv", {"a.csv": lambda: np.random.default_rng(0).bytes(99_999)}, says="a.csv"),
    # JSON Lines
    Case("json lines, sound", {"a.jsonl": lines({"id": 1, "x": 0.5}, {"x": 1, "id": 2})}, 2),
    Case(
        "json lines with broken lines",
        {"a.jsonl": lines({"id": 1, "x": 0.5}) + b'{"id": 2, "x"\n[3]\n{"id": 4, "x": 1}\n'},
        2,
        2,
        "the line is not JSON",
    ),
    Case(
        "a text where numbers are",
        {"a.jsonl": lines({"x": 1}, {"x": "n/a"}, {"x": 2})},
        2,
        1,
        "'x' is a string 'n/a', but the column is read as int64",
    ),
    Case("a key that is missing", {"a.jsonl": lines({"id": 1, "x": 1}, {"id": 2})}, 1, 1, "'x' is null or NaN"),
    Case("a json array", {"a.jsonl": b'[{"id": 1, "x": 2}]'}, says="a.jsonl is one JSON array"),
    Case(
        "json over several lines",
        {"a.jsonl": json.dumps({"id": 1, "x": 2}, indent=1).encode()},
        says="a.jsonl is not JSON Lines, which has one object per line: row 0",
    ),
    Case(
        "numbers that JSON does not have",
        {"a.jsonl": b'{"x": 1}\n{"x": NaN}\n{"x": 1e999}\n'},
        1,
        2,
        "'x' is null or NaN",
    ),
    Case(
        "json nested a thousand deep",
        {"a.jsonl": b'{"x": 1}\n{"x": 2, "deep": ' + b"[" * 5_000 + b"]" * 5_000 + b"}\n"},
        2,
    ),
    Case("half a surrogate", {"a.jsonl": b'{"x": 1, "n": "a"}\n{"x": 2, "n": "\\ud800"}\n'}, 1, 1),
    # Arrow
    Case("arrow, sound", {"a.arrow": lambda: arrow(pa.table({"id": [1, 2], "x": [0.5, 1.0]}))}, 2),
    Case("an arrow stream", {"a.arrows": lambda: arrow(pa.table({"x": [0.5, 1.0]}), stream=True)}, 2),
    Case(
        "arrow cut short",
        {"a.arrow": lambda: arrow(pa.table({"x": [0.5, 1.0]}))[:-40]},
        says="a.arrow is not Arrow IPC",
    ),
    Case("arrow of noise", {"a.arrow": b"ARROW1\0\0" + b"\7" * 99}, says="a.arrow is not Arrow IPC"),
    Case(
        "arrow with a damaged batch",
        {"a.arrow": lambda: damaged(arrow(pa.table({"x": [0.5] * 99, "name": ["n"] * 99})), 0.75, 40)},
        says="a.arrow",
    ),
)
