"""An object whose format does not match its name is refused, and the error names the real format."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pyarrow.parquet.encryption as pe
import pytest

from scoreline.storage.errors import UnreadableInput
from scoreline.storage.tables import parquet
from scoreline.storage.tables.arrow import ArrowFormat
from scoreline.storage.tables.base import Pinned
from scoreline.storage.tables.options import ReadOptions
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


@pytest.mark.parametrize(
    ("data", "what"),
    [(corpus.parquet(), "Parquet"), (gzip.compress(CSV), "compressed with gzip"), (CSV, None)],
    ids=["parquet", "gzip", "csv"],
)
def test_an_object_that_is_not_arrow_is_refused_with_its_format(put: Put, data: bytes, what: str | None) -> None:
    with pytest.raises(UnreadableInput, match=f"is not Arrow IPC, it is {what}: " if what else "is not Arrow IPC: "):
        ArrowFormat().survey(put(data, "in.arrow"))
