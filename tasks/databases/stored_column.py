"""One column of stored rows: how its values are sent, how the server compares them, and how it returns its own.

A column is an array of numbers. A column of texts is the array of their lengths, and all texts one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Format

from scoreline.tasks.databases import binary

_LARGE = {"text": pa.large_string(), "varchar": pa.large_string(), "bytea": pa.large_binary()}
_CASTS = {"varchar": "text"}
_LENGTH = "int4"
"""The type of the length of a text, and of a place in an array."""


@dataclass(frozen=True)
class Sent:
    """A value in the binary form of its type."""

    data: Buffer


class SentDumper(Dumper):
    """Hands a value to the driver as it is."""

    format = Format.BINARY

    def dump(self, obj: Sent) -> Buffer:
        """Return the bytes."""
        return obj.data


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of a column in the form in which this process compares them."""

    values: pa.Array
    """Numbers as their bits. A missing value is 0 or an empty text."""
    missing: NDArray[np.bool_]

    def take(self, places: NDArray[np.int64]) -> Values:
        """Return the values at some places."""
        return Values(values=self.values.take(pa.array(places)), missing=self.missing[places])

    def same(self, other: Values) -> NDArray[np.bool_]:
        """Return for each place whether another column has the same value there."""
        equal: NDArray[np.bool_] = pc.equal(self.values, other.values).to_numpy(zero_copy_only=False)
        same: NDArray[np.bool_] = self.missing == other.missing
        return equal & same


@dataclass(frozen=True, kw_only=True)
class StoredColumn:
    """A column of a table."""

    number: int
    name: str
    kind: str
    """The name of its type."""

    @property
    def cast(self) -> sql.SQL:
        """The type in which the server reads and writes values."""
        return sql.SQL(_CASTS.get(self.kind, self.kind))

    @property
    def _is_fixed(self) -> bool:
        return binary.is_fixed(self.kind)

    @property
    def _numbers(self) -> str:
        """The type of the array."""
        return self.kind if self._is_fixed else _LENGTH

    def values(self, column: pa.Array) -> Values:
        """Return values of results."""
        missing: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
        if self._is_fixed:
            return Values(values=pa.array(_bits(binary.numbers(column, self.kind))), missing=missing)
        column = column.cast(_LARGE[self.kind])
        if column.null_count:
            column = column.fill_null(b"" if self.kind == "bytea" else "")
        return Values(values=column, missing=missing)

    @property
    def keys(self) -> sql.Placeholder:
        """The array of the keys, if this column is the key."""
        return self._placeholder("values" if self._is_fixed else "keys")

    def sent(self, column: pa.Array, *, is_key: bool) -> dict[str, Sent]:
        """Return the parameters of a statement with values of results."""
        if self._is_fixed:
            return {f"values{self.number}": Sent(binary.array(column, self.kind))}
        found = {
            f"values{self.number}": Sent(binary.array(pc.binary_length(column), _LENGTH)),
            f"texts{self.number}": Sent(memoryview(binary.joined(column))),
        }
        if is_key:
            found[f"keys{self.number}"] = Sent(binary.array(column, self.kind))
        return found

    def compared(self, *, with_sent: bool) -> sql.Composed:
        """Return what is selected of the table: the stored values, and whether they are the values that were sent.

        Parameters
        ----------
        with_sent : bool
            Whether values were sent.
        """
        column = sql.SQL("{}::{}").format(quoted(self.name), self.cast)
        item = column if self._is_fixed else sql.SQL("octet_length({})").format(column)
        values = sql.SQL("coalesce(array_agg({}), '{{}}')").format(item)
        same = sql.SQL("{} = {}::{}[]").format(values, self._placeholder("values"), sql.SQL(self._numbers))
        found = [values + sql.SQL(" AS ") + self._result("values")]
        if not self._is_fixed:
            texts = sql.SQL("coalesce(string_agg({}, ''), '')").format(column)
            by_bytes = sql.SQL("" if self.kind == "bytea" else ' COLLATE "C"')
            same += sql.SQL(" AND {} = {}::{}{}").format(texts, self._placeholder("texts"), self.cast, by_bytes)
            found.append(texts + sql.SQL(" AS ") + self._result("texts"))
        found.append((same if with_sent else sql.SQL("false")) + sql.SQL(" AS ") + self._result("same"))
        return sql.SQL(", ").join(found)

    def wanted(self) -> sql.Composed:
        """Return what is selected of that: values, and the places of missing ones; NULL if they were sent like that."""
        values, kind = self._result("values"), sql.SQL(self._numbers)
        wanted: list[sql.Composable] = [
            sql.SQL("array_replace({}, NULL, '0'::{})").format(values, kind),
            sql.SQL("array_positions({}, NULL)").format(values),
        ]
        if not self._is_fixed:
            wanted.append(self._result("texts"))
        return sql.SQL(", ").join(
            sql.SQL("CASE WHEN {} THEN NULL ELSE {} END").format(self._result("same"), part) for part in wanted
        )

    def received(self, fields: Iterator[bytes | None]) -> Values | None:
        """Return the stored values; None if they are the values that were sent."""
        data, places = next(fields), next(fields)
        texts = None if self._is_fixed else next(fields)
        if data is None or places is None:
            return None
        numbers = binary.read_array(data, self._numbers)
        missing = np.zeros(len(numbers), np.bool_)
        missing[binary.read_array(places, _LENGTH).astype(np.int64) - 1] = True
        if texts is None:
            return Values(values=pa.array(_bits(numbers)), missing=missing)
        offsets = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(numbers, out=offsets[1:])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
        return Values(values=pa.Array.from_buffers(_LARGE[self.kind], len(numbers), buffers), missing=missing)

    def _placeholder(self, part: str) -> sql.Placeholder:
        return sql.Placeholder(f"{part}{self.number}", PyFormat.BINARY)

    def _result(self, part: str) -> sql.Identifier:
        return sql.Identifier(f"{part}{self.number}")


def quoted(*names: str) -> sql.Identifier:
    """Return a name for a statement with parameters, in which the driver reads %% as %."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def _bits(numbers: NDArray[np.generic]) -> NDArray[np.generic]:
    return numbers.view(f"i{numbers.dtype.itemsize}")
