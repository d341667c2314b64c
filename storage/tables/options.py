"""How an input is to be read, where its name does not say it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from scoreline.storage.errors import InvalidRequest

Format = Literal["parquet", "csv", "jsonl", "arrow"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "jsonl", "arrow")

SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
}
"""Formats by the end of an object's name, without that of the compression; `.txt` and others need to be told."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Of text, by the very end of an object's name."""
TYPES = ("string", "int64", "float64", "bool")
"""What a column of text may be told to be."""
NULL_VALUES = (
    "",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
)
"""Of CSV: fields that stand for no value among numbers and truth values, and in features of text, as pandas reads them.
In other columns of text, which are carried over as they are, it is the empty field without quotation marks alone."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How the objects of an input are read; what is not said here, their names say.

    Parameters
    ----------
    format : str, optional
        One of `FORMATS`, for all objects; by default each one's name tells.
    delimiter : str, optional
        Of CSV, one character; a tab where the name ends in ``.tsv``, else a comma.
    quote : str
        Of CSV, one character; within a quoted field it is written twice. Empty: there are none.
    columns : tuple of str, optional
        Of CSV, the names of the columns where the objects have no header.
    encoding : str
        Of CSV: UTF-8, or any encoding of one byte a character that contains ASCII.
    null_values : tuple of str, optional
        Of CSV, in the place of `NULL_VALUES`.
    types : mapping of str to str
        Of text, one of `TYPES` by column, in the place of what a sample suggests.
    """

    format: Format | None = None
    delimiter: str | None = None
    quote: str = '"'
    columns: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    null_values: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> ReadOptions:
        """Return the options where all of them are well-formed, else raise `InvalidRequest`."""
        if self.format is not None and self.format not in FORMATS:
            raise InvalidRequest(f"format {self.format!r} is none of {', '.join(FORMATS)}")
        for name, value in (("delimiter", self.delimiter), ("quote", self.quote)):
            if value is not None and not (isinstance(value, str) and len(value) <= 1 and value.isascii()):
                raise InvalidRequest(f"{name} {value!r} is not one ASCII character")
        if self.delimiter is not None and self.delimiter in ("", "\0", "\n", "\r", self.quote):
            raise InvalidRequest(f"delimiter {self.delimiter!r} cannot divide fields")
        if self.quote in ("\0", "\n", "\r") or (self.delimiter is None and self.quote in (",", "\t")):
            raise InvalidRequest(
                f"{self.quote!r} is no quotation mark: it ends lines, or divides fields, or is no text"
            )
        for name, many in (("columns", self.columns), ("null_values", self.null_values)):
            if many is not None and not all(isinstance(item, str) for item in many):
                raise InvalidRequest(f"{name} {many!r} are not all texts")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise InvalidRequest("columns names one twice")
        for column, kind in self.types.items():
            if kind not in TYPES:
                raise InvalidRequest(f"types: {column!r} cannot be told to be {kind!r}, only {', '.join(TYPES)}")
        _check_encoding(self.encoding)
        return self


READ_OPTIONS = tuple(item.name for item in fields(ReadOptions))


def read_options(given: Mapping[str, Any]) -> ReadOptions:
    """Make options of what JSON, TOML or a caller has; raises `InvalidRequest`."""
    options = dict(given)
    for name in ("columns", "null_values"):
        if options.get(name) is not None:
            if isinstance(options[name], str) or not isinstance(options[name], Iterable):
                raise InvalidRequest(f"{name} {options[name]!r} is not a list of texts")
            options[name] = tuple(options[name])
    if not isinstance(options.get("types", {}), Mapping):
        raise InvalidRequest(f"types {options['types']!r} is not a mapping of columns to types")
    return ReadOptions(**options)


def _check_encoding(encoding: str) -> None:
    try:
        name = codecs.lookup(encoding).name
        ascii_bytes = bytes(range(128))
        plain = ascii_bytes.decode(name) == ascii_bytes.decode("ascii")
        single = len(bytes(range(256)).decode(name, "replace")) == 256
    except (LookupError, UnicodeError, TypeError):
        raise InvalidRequest(f"encoding {encoding!r} is not known here") from None
    if name not in ("utf-8", "utf-8-sig") and not (plain and single):
        raise InvalidRequest(
            f"encoding {encoding!r} is neither UTF-8 nor one byte a character with ASCII among them: convert the input"
        )


def format_of(key: str, options: ReadOptions) -> tuple[Format | None, str | None]:
    """Format and compression of an object, as its name or the options say; None where neither does.

    >>> format_of("in/2026.CSV.gz", ReadOptions()), format_of("in/part-1", ReadOptions(format="jsonl"))
    (('csv', 'gzip'), ('jsonl', None))
    """
    name = key.lower()
    compression = None
    for suffix, kind in COMPRESSIONS.items():
        if name.endswith(suffix):
            name, compression = name.removesuffix(suffix), kind
    found = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    return options.format or found, compression
