"""Recognize the real format of an object whose name suggests another, so that errors can name the real format."""

from __future__ import annotations

from scoreline.storage.errors import UnreadableInput, one_line
from scoreline.storage.tables.base import Pinned

_COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
    b"BZh": ("bz2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
}
_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"\xff\x06\x00\x00sNaPpY": "compressed with snappy",
    b"Obj\x01": "Avro",
    b"SQLite format 3\x00": "an SQLite database",
    b"ARROW1\x00\x00": "Arrow IPC",
    b"\xff\xff\xff\xff": "a stream of Arrow IPC",
    b"PAR1": "Parquet",
    b"PARE": "encrypted Parquet",
    b"ORC": "ORC",
}
_MARKUP = {b"<!doctype html": "a web page", b"<html": "a web page", b"<?xml": "XML"}
_ENCRYPTED = "is encrypted, and there is no key to decrypt it: write it without encryption"


def check_text(source: Pinned, head: bytes, compression: str | None) -> None:
    """Raise `UnreadableInput` if the first bytes of a text show that the object has another format.

    Parameters
    ----------
    head : bytes
        The first bytes, after decompression.
    compression : str or None
        The compression according to the name of the object, if any.
    """
    for magic, (name, suffix) in _COMPRESSIONS.items():
        if head.startswith(magic) and _is_binary(head):
            if compression is not None:
                raise UnreadableInput(f"{source.uri} is compressed twice: below {compression} it is {name} again")
            raise UnreadableInput(
                f"{source.uri} is compressed with {name}, but its name does not end in {suffix}: rename it, or "
                "decompress it"
            )
    if what := _recognize(head):
        raise UnreadableInput(f"{source.uri} is {what}, and no text: convert it, or leave it out of the input")


def explain_parquet(source: Pinned, error: BaseException) -> UnreadableInput:
    """Return the error for a Parquet object that Arrow cannot open.

    The message says that the object is encrypted, or that a column has a type that cannot be read, or it names the
    format that the object has instead of Parquet.
    """
    text = one_line(error)
    if "crypt" in text:
        return UnreadableInput(f"{source.uri} {_ENCRYPTED}")
    if isinstance(error, NotImplementedError):
        return UnreadableInput(
            f"{source.uri} is Parquet with a column of a type that cannot be read ({text}): write that column with "
            "another type, such as decimal or text, or leave it out"
        )
    return explain_format(source, "a Parquet file", error)


def explain_format(source: Pinned, expected: str, error: BaseException) -> UnreadableInput:
    """Return the error for an object in an unexpected format.

    The message names the real format if the first bytes of the object show it.
    """
    head = source.store.get(source.key, byte_range=(0, min(64, source.size)), if_match=source.etag).data
    what = next((f"compressed with {name}" for magic, (name, _) in _COMPRESSIONS.items() if head.startswith(magic)), "")
    what = what or _recognize(head)
    if what and what not in expected:
        expected += f", it is {what}"
    return UnreadableInput(f"{source.uri} is not {expected}: {one_line(error)}")


def explain_row_group(source: Pinned, number: int, error: BaseException) -> UnreadableInput:
    """Return the error for a row group that Arrow cannot decode."""
    if "crypt" in str(error):
        return UnreadableInput(f"{source.uri} {_ENCRYPTED}")
    return UnreadableInput(f"{source.uri} cannot be decoded in row group {number}: {one_line(error)}")


def _recognize(head: bytes) -> str:
    """Return the format that the first bytes show; the result is empty if they show none.

    The guess may be wrong, because a text may begin with the same bytes by chance.
    """
    lower = head.lstrip().lower()
    found = next((what for magic, what in _MARKUP.items() if lower.startswith(magic)), "")
    return found or next((what for magic, what in _MAGIC.items() if head.startswith(magic) and _is_binary(head)), "")


def _is_binary(head: bytes) -> bool:
    """Return whether the bytes contain a control character that does not occur in text."""
    return (
        any(byte < 0x20 and byte not in b"\t\n\v\f\r\x1b\x1c\x1d\x1e\x1f" for byte in head[:64]) or head[:1] > b"\x7f"
    )
