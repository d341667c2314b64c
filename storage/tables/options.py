"""Options for reading an input. Some defaults depend on the names of the objects."""

from __future__ import annotations

import codecs
import functools
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
"""Formats by the suffix of an object's name, after the suffix for compression is removed. Objects with other names,
such as ``a.txt``, need `ReadOptions.format`."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
"""Compression methods for text formats, by the last suffix of an object's name."""
TYPES = ("string", "int64", "float64", "bool", "timestamp", "timestamp_utc", "date")
"""The types that a user may set for a column of a text format."""
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
"""CSV fields that stand for a missing value in numeric columns, boolean columns and string features, as in pandas. In
other string columns, which are kept unchanged, only an empty unquoted field is a missing value."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options for reading the objects of an input. Some defaults depend on the name of each object.

    Parameters
    ----------
    format : str, optional
        Format of all objects, one of `FORMATS`; by default, the name of each object determines it.
    delimiter : str, optional
        Character between the fields of CSV; by default a tab if the name ends in ``.tsv``, else a comma.
    quote : str
        Quotation mark around the fields of CSV. Inside a quoted field, the mark is written twice. If empty, fields are
        not quoted.
    escape : str, optional
        Character that escapes a quotation mark inside a quoted field. Spark, Hive and MySQL write a backslash. If
        empty, no character escapes quotation marks. By default, no character escapes quotation marks either, but an
        object is refused if a backslash in it may escape a quotation mark.
    decimal : str
        Decimal separator of numbers in CSV.
    thousands : str
        Thousands separator of numbers in CSV. If empty, numbers have no thousands separator.
    columns : tuple of str, optional
        Names of the columns, for CSV without a header.
    encoding : str
        Encoding of CSV: UTF-8, or any single-byte encoding that contains ASCII.
    null_values : tuple of str, optional
        Fields of CSV that stand for a missing value; by default `NULL_VALUES`.
    types : mapping of str to str
        Types for columns of text formats, each one of `TYPES`. All other types are inferred from all values.
    """

    format: Format | None = None
    delimiter: str | None = None
    quote: str = '"'
    escape: str | None = None
    decimal: str = "."
    thousands: str = ""
    columns: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    null_values: tuple[str, ...] | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> ReadOptions:
        """Return the options unchanged if all of them are valid; otherwise raise `InvalidRequest`."""
        if self.format is not None and self.format not in FORMATS:
            raise InvalidRequest(f"format {self.format!r} is not one of {', '.join(FORMATS)}")
        characters = ("delimiter", "quote", "escape", "decimal", "thousands")
        for name, value in ((name, getattr(self, name)) for name in characters):
            if value is not None and not (isinstance(value, str) and len(value) <= 1 and value.isascii()):
                raise InvalidRequest(f"{name} {value!r} is not a single ASCII character")
        if self.delimiter is not None and self.delimiter in ("", "\0", "\n", "\r", self.quote):
            raise InvalidRequest(f"delimiter {self.delimiter!r} cannot separate fields: use another character")
        if self.quote in ("\0", "\n", "\r") or (self.delimiter is None and self.quote in (",", "\t")):
            raise InvalidRequest(
                f"quote {self.quote!r} cannot quote fields: use one that neither ends lines nor separates fields"
            )
        if self.escape and self.escape in ("\0", "\n", "\r", self.quote, self.delimiter or ","):
            raise InvalidRequest(f"escape {self.escape!r} cannot escape quotation marks: use another character")
        if not self.decimal or self.decimal.isalnum() or self.decimal in ("+", "-", self.thousands):
            raise InvalidRequest(f"decimal {self.decimal!r} cannot stand before decimals: use a comma or a point")
        if self.thousands.isalnum() or self.thousands in ("+", "-"):
            raise InvalidRequest(f"thousands {self.thousands!r} cannot stand between digits: use another character")
        for name, many in (("columns", self.columns), ("null_values", self.null_values)):
            if many is not None and not all(isinstance(item, str) for item in many):
                raise InvalidRequest(f"{name} {many!r} must be a list of strings")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise InvalidRequest(f"columns {self.columns!r} must not name a column twice")
        for column, kind in self.types.items():
            if kind not in TYPES:
                raise InvalidRequest(f"types: the type {kind!r} of {column!r} is not one of {', '.join(TYPES)}")
        _check_encoding(self.encoding)
        return self


READ_OPTIONS = tuple(item.name for item in fields(ReadOptions))


def read_options(given: Mapping[str, Any]) -> ReadOptions:
    """Build options from values in JSON, in TOML or from a caller. Raise `InvalidRequest` if an option is not valid."""
    options = dict(given)
    for name in ("columns", "null_values"):
        if options.get(name) is not None:
            if isinstance(options[name], str) or not isinstance(options[name], Iterable):
                raise InvalidRequest(f"{name} {options[name]!r} must be a list of strings")
            options[name] = tuple(options[name])
    if not isinstance(options.get("types", {}), Mapping):
        raise InvalidRequest(f"types {options['types']!r} must be a mapping of columns to types")
    return ReadOptions(**options)


def _check_encoding(encoding: str) -> None:
    try:
        name = codecs.lookup(encoding).name
        ascii_bytes = bytes(range(128))
        plain = ascii_bytes.decode(name) == ascii_bytes.decode("ascii")
        single = len(bytes(range(256)).decode(name, "replace")) == 256
    except (LookupError, UnicodeError, TypeError):
        raise InvalidRequest(f"encoding {encoding!r} is unknown: use a name such as 'latin-1'") from None
    if name not in ("utf-8", "utf-8-sig") and not (plain and single):
        raise InvalidRequest(
            f"encoding {encoding!r} is neither UTF-8 nor a single-byte encoding with ASCII: convert the input to UTF-8"
        )


def format_of(key: str, options: ReadOptions) -> tuple[Format | None, str | None]:
    """Return the format and the compression of an object, based on its name and the options.

    The format is None if it is unknown. The compression is None if the object is not compressed.

    >>> format_of("in/2026.CSV.gz", ReadOptions()), format_of("in/part-1", ReadOptions(format="jsonl"))
    (('csv', 'gzip'), ('jsonl', None))
    """
    named, compression = _named(key)
    return options.format or named, compression


@functools.lru_cache(maxsize=256)
def _named(key: str) -> tuple[Format | None, str | None]:
    """Return the format and the compression by the name alone. An object is asked for several times in a row."""
    name = key.lower()
    compression = None
    for suffix, kind in COMPRESSIONS.items():
        if name.endswith(suffix):
            name, compression = name.removesuffix(suffix), kind
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None), compression
