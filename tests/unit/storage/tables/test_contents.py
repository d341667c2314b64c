"""An object whose format does not match its name is refused, and the error names the real format."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet.encryption as pe
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables import parquet
from scoreline.storage.tables.arrow import ArrowFormat
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.options import ReadOptions
from scoreline.storage.tables.parquet import ParquetFormat
from scoreline.storage.tables.small_objects import hold
from tests.support import corpus
from tests.support.text_tables import look

Put = Callable[..., Pinned]
CSV, JSONL = b"id,x\n" + b"1,2\n" * 99, b'{"id": 1, "x": 2}\n' * 99


def zipped(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("in.csv", data)
    return sink.getvalue()


PACKED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "gzip": (gzip.compress, "is compressed with gzip, but its name does not end in .gz: rename it"),
    "zstd": (
        lambda d: pa.compress(d, "zstd", asbytes=True),
        "is compressed with zstd, but its name does not end in .zst",
    ),
    "bz2": (bz2.compress, "is compressed with bz2, but its name does not end in .bz2"),
    "xz": (lzma.compress, "is compressed with xz, but its name does not end in .xz"),
    "zip": (zipped, "is a zip archive or an Excel workbook, and no text"),
    "parquet": (lambda _: corpus.parquet(), "is Parquet, and no text"),
    "arrow": (lambda _: corpus.arrow(pa.table({"x": [1]})), "is Arrow IPC, and no text"),
    "page": (lambda _: b"<!DOCTYPE html>\n<html>\n<body>,</body></html>\n", "is a web page, and no text"),
    "xml": (lambda _: b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>\n', "is XML, and no text"),
}


@pytest.mark.parametrize(("pack", "message"), PACKED.values(), ids=PACKED)
@pytest.mark.parametrize(("key", "text"), [("in.csv", CSV), ("in.jsonl", JSONL)])
def test_a_binary_object_named_as_text_is_refused_with_its_format(
    put: Put, key: str, text: bytes, pack: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(UnreadableInput) as refused:
        look(put(pack(text), key))
    assert f"s3://bucket/{key} {message}" in str(refused.value)


def test_an_encoding_of_single_bytes_does_not_hide_what_the_object_is(put: Put) -> None:
    with pytest.raises(UnreadableInput, match="is compressed with gzip"):
        look(put(gzip.compress(CSV), "in.csv"), ReadOptions(encoding="latin-1"))


def test_a_text_that_is_compressed_twice_is_named(put: Put) -> None:
    with pytest.raises(UnreadableInput, match="is compressed twice: below gzip it is gzip again"):
        look(put(gzip.compress(gzip.compress(CSV)), "in.csv.gz"))


@pytest.mark.parametrize("name", ["PAR1", "ORC", "BZh", "Obj", "PK", "html"])
def test_a_header_may_begin_like_another_format(put: Put, name: str) -> None:
    _, survey = look(put(f"{name},x\n1,2\n".encode(), "in.csv"))
    assert survey.schema.names == [name, "x"]


def encrypted(*, plaintext_footer: bool) -> bytes:
    factory = pe.CryptoFactory(lambda _: corpus._Keys())
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["x"]}, plaintext_footer=plaintext_footer)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    return corpus.parquet(encryption_properties=properties)


def wide_integers() -> bytes:
    sink = io.BytesIO()
    pl.DataFrame({"x": [1.0], "big": pl.Series([1], dtype=pl.Int128)}).write_parquet(sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encrypted(plaintext_footer=False), "in.parquet is encrypted, and there is no key to decrypt it"),
        (encrypted(plaintext_footer=True), "in.parquet is encrypted, and there is no key to decrypt it"),
        (wide_integers(), "in.parquet is Parquet with a column of a type that cannot be read (Integers with more"),
        (gzip.compress(corpus.parquet()), "in.parquet is not a Parquet file, it is compressed with gzip: "),
        (zipped(CSV), "in.parquet is not a Parquet file, it is a zip archive or an Excel workbook: "),
        (corpus.parquet()[:-30], "in.parquet is not a Parquet file: "),
        (b"PAR1", "in.parquet is not a Parquet file: "),
        (CSV, "in.parquet is not a Parquet file: "),
    ],
    ids=["encrypted", "encrypted columns", "int128", "gzip", "zip", "cut short", "four bytes", "csv"],
)
def test_parquet_that_cannot_be_read_is_named(put: Put, data: bytes, message: str) -> None:
    source = put(data, "in.parquet")
    with pytest.raises(UnreadableInput) as refused:
        parquet.read_table(source)
    assert message in str(refused.value)


def with_short_histogram(rows: pa.Table, **how: Any) -> bytes:
    """Return a file whose first column has a histogram of definition levels that lacks a level.

    An access to the metadata of this column from Python would end the process.
    """
    data = corpus.parquet(rows, **how)
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    place = footer.index(b"\x19\x26")  # the next field is a list of two integers
    damaged = footer[: place + 1] + b"\x16" + footer[place + 2 : place + 3] + footer[place + 4 :]
    return data[: -8 - len(footer)] + damaged + len(damaged).to_bytes(4, "little") + b"PAR1"


def with_another_type(rows: pa.Table, **how: Any) -> bytes:
    """Return a file whose first column chunk has no known type. Its statistics would end the process."""
    data = corpus.parquet(rows, **how)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:footer] + data[footer:].replace(b"\x1c\x15\x04", b"\x1c\x15\x14", 1)


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("damaged", "says"),
    [(with_short_histogram, "istogram size mismatch"), (with_another_type, "")],
    ids=["histogram", "type"],
)
def test_a_footer_that_would_end_the_process_is_an_error_of_the_object(
    put: Put, damaged: Callable[..., bytes], says: str, groups: int, is_held: bool
) -> None:
    rows = pa.table({"x": pa.array([1, None, 3, None, 5, 6])})
    source = put(damaged(rows, row_group_size=6 // groups), "in.parquet")
    formats = ParquetFormat()
    formats.survey(hold(put(corpus.parquet(rows), "before.parquet")))

    def read_all() -> None:
        found = formats.survey(hold(source) if is_held else source)
        if found.decode is not None:
            found.decode()
        list(formats.read(hold(source), found.spans[0], found.schema, 10))

    with pytest.raises(UnreadableInput, match=rf"in\.parquet.*{says}"):
        read_all()


def test_a_name_of_a_column_that_is_not_utf_8_is_an_error_of_the_object(put: Put) -> None:
    with pytest.raises(UnreadableInput, match=r"in\.arrow is not Arrow IPC: "):
        ArrowFormat().survey(put(corpus.arrow(pa.table({"plugh": [1]})).replace(b"plugh", b"pl\xd7gh"), "in.arrow"))


@pytest.mark.parametrize(
    ("data", "what"),
    [(corpus.parquet(), "Parquet"), (gzip.compress(CSV), "compressed with gzip"), (CSV, None)],
    ids=["parquet", "gzip", "csv"],
)
def test_an_object_that_is_not_arrow_is_refused_with_its_format(put: Put, data: bytes, what: str | None) -> None:
    with pytest.raises(UnreadableInput, match=f"is not Arrow IPC, it is {what}: " if what else "is not Arrow IPC: "):
        ArrowFormat().survey(put(data, "in.arrow"))
