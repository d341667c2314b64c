"""Reads the page headers of a column chunk, and creates a page of nulls that can replace skipped pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_VALUES_FIELDS = {_DATA_PAGE: 5, _DATA_PAGE_V2: 8}
"""For each kind of data page, the field of the page header that contains the header of that kind. The first field of
this inner header is the number of values."""
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The header of a page."""

    header_bytes: int
    body_bytes: int
    values: int | None
    """Number of values, including nulls; None for a page without rows, such as a dictionary."""
    is_dictionary: bool

    @property
    def size(self) -> int:
        """Number of bytes of the page, including its header."""
        return self.header_bytes + self.body_bytes


def read_header(data: bytes) -> Page:
    """Decode the page header at the beginning of the data. It is encoded in Thrift's compact protocol.

    Raises
    ------
    ValueError
        The bytes do not begin with the header of a page, or end within it.
    """
    thrift = _Thrift(data)
    try:
        fields = thrift.read_struct()
    except IndexError:
        raise ValueError("the header of a page is incomplete") from None
    kind, size = fields.get(1), fields.get(3)
    if not isinstance(kind, int) or not isinstance(size, int) or size < 0:
        raise ValueError("there is no header of a page")
    values = None
    if kind in _VALUES_FIELDS:
        own = fields.get(_VALUES_FIELDS[kind])
        values = own.get(1) if isinstance(own, dict) else None
        if not isinstance(values, int) or values < 0:
            raise ValueError("the header of a page lacks the number of its values")
    return Page(header_bytes=thrift.position, body_bytes=size, values=values, is_dictionary=kind == _DICTIONARY_PAGE)


def page_of_nulls(values: int) -> bytes:
    """Return a data page that contains only nulls, for a nullable column that is not nested.

    Arrow decodes such a page very fast, whatever the number of values, and needs no codec.
    """
    levels = _varint(values << 1) + b"\0"  # a single run of definition level 0, which means null
    nulls = rows = values
    own = (nulls, rows, 0, len(levels), 0)  # 0 is the plain encoding; the last 0 is the size of repetition levels
    inner = _i32(1, values) + b"".join(_i32(1, number) for number in own) + bytes([0x10 | _FALSE, 0])
    outer = _i32(1, _DATA_PAGE_V2) + _i32(1, len(levels)) + _i32(1, len(levels)) + bytes([0x50 | _STRUCT])
    return outer + inner + b"\0" + levels


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _i32(step: int, number: int) -> bytes:
    """Encode an i32 field. `step` is the difference from the number of the previous field."""
    return bytes([step << 4 | _I32]) + _varint(number << 1)


class _Thrift:
    """A decoder of Thrift's compact protocol. It returns integers and structs, and skips other values."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def read_struct(self, depth: int = 0) -> dict[int, Any]:
        return dict(self._fields(depth))

    def _fields(self, depth: int) -> Iterator[tuple[int, Any]]:
        number = 0
        while (first := self._byte()) != 0:
            number = number + (first >> 4) if first >> 4 else self._zigzag()
            kind = first & 0xF
            yield number, None if kind in (_TRUE, _FALSE) else self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("the header of a page is nested too deeply")
        match kind:
            case 1 | 2 | 3:  # a byte, or a boolean in a list
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return self._skip(8)
            case 8:
                return self._skip(self._varint())
            case 9 | 10:
                first = self._byte()
                count = self._varint() if first >> 4 == 0xF else first >> 4
                if count > len(self._data) - self.position:  # each element has at least a byte
                    raise IndexError
                for _ in range(count):
                    self._value(first & 0xF, depth + 1)
                return None
            case 12:
                return self.read_struct(depth + 1)
        raise ValueError("the header of a page has an unknown type")

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("the header of a page has a number that is too large")
        return number | byte << shift

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self._data):
            raise IndexError
