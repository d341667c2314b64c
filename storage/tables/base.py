"""The interface of table formats: survey an object to divide its rows into spans, then read any span on its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from scoreline.storage.objects.base import ObjectStore

if TYPE_CHECKING:  # an application that only submits jobs does not need pyarrow
    import pyarrow as pa

    from scoreline.storage.tables import parquet_footers

ALIGNED_ROWS = 64
"""Rows are divided into batches at multiples of this number. Linear algebra computes rows in blocks, and may round the
remaining rows differently. With these multiples, the rounding of a row does not depend on the size of the batches."""
SMALL_BYTES = 1 << 20
"""Maximum size in bytes of an object that is read whole. Up to this size, a second request takes more time than
fetching bytes that the reader may not need."""
MAX_RAW_CHARS = 1_024
"""Maximum number of characters of a record that are kept for display if the record cannot be decoded."""


def align(rows: int) -> int:
    """Round a number of rows down to a multiple of `ALIGNED_ROWS`. A smaller number is returned unchanged."""
    return rows - rows % ALIGNED_ROWS if rows >= ALIGNED_ROWS else rows


class Listed(Protocol):
    """An object as it was listed: its key, its size and the ETag of its content."""

    @property
    def key(self) -> str:
        """Key of the object."""
        ...

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    @property
    def etag(self) -> str:
        """ETag of the current content."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """An object whose content is pinned: reads fail if the object has changed since it was listed."""

    store: ObjectStore = field(repr=False)
    key: str
    size: int
    """Size in bytes."""
    etag: str

    @classmethod
    def of(cls, store: ObjectStore, listed: Listed) -> Pinned:
        """Pin an object to the content that was listed or planned."""
        return cls(store=store, key=listed.key, size=listed.size, etag=listed.etag)

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return self.store.uri(self.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekPoint:
    """A position in a compressed object at which decompression can begin."""

    position: int
    """Number of bytes of text before the seek point."""
    offset: int
    """Position in the object of the byte that contains the first bit to decompress."""
    bits: int = 0
    """Number of bits of the byte at `offset` that belong to the text before the seek point."""
    window: bytes = b""
    """The last 32 KiB of text before the seek point, compressed with zlib; empty at the start of a compressed
    stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A range of rows of an object. A span can be read without the other spans."""

    start: int
    """Start of the span: the number of a row (Parquet) or record batch (Arrow IPC), or a position in bytes in the
    decompressed text (CSV and JSON Lines)."""
    stop: int
    """End of the span, exclusive, in the same unit as `start`."""
    first_row: int
    """Number of the first row within the object, counted from 0."""
    rows: int
    size: int
    """Uncompressed size in bytes."""
    by_rows: bool = False
    """Whether `start` and `stop` are numbers of rows. If so, any range of rows in the span can be read as a span of its
    own, but all earlier rows of the span must be decoded, too."""
    point: SeekPoint | None = None
    """The last seek point before `start`; None if decompression must begin at the start of the object."""
    wanted: range | None = None
    """Numbers of the rows that are needed; None for all rows. A format may leave out the other rows if that is
    faster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """The rows of a small file, which can be decoded together with those of others (see `parquet_alike`)."""

    footer: parquet_footers.Footer
    size: int
    """Size of the rows in bytes, when they are decoded. A text that is encoded only once is counted once."""
    most: int
    """Maximum size of the rows: if each text is as long as all encoded texts together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The columns of an object, and its division into spans."""

    schema: pa.Schema
    """All columns. In text formats their types are inferred (see `scoreline.storage.tables.type_inference`). A column
    of integers or booleans is nullable only if some row has no value."""
    spans: tuple[Span, ...]
    """Spans in order. Each row is in exactly one span."""
    decode: Callable[[], pa.RecordBatch | None] | None = field(default=None, compare=False, repr=False)
    """Decodes all rows and columns of an object whose bytes are in memory, or returns None if parts should do it. It
    keeps the bytes in memory. It is None for formats that do not decode objects in advance."""
    encoded: Encoded | None = field(default=None, compare=False, repr=False)
    """The rows of the object, if they can be decoded together with those of other objects. They keep the bytes in
    memory, too."""


@dataclass(frozen=True, kw_only=True)
class MalformedRow:
    """A row that cannot be decoded."""

    row: int
    """Number of the row within the object, counted from 0."""
    column: str | None
    """The column that cannot be decoded, or None if the whole row cannot be decoded."""
    message: str
    raw: str | None
    """The first `MAX_RAW_CHARS` characters of the row, or None if the format is not text."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The values in the other columns, as far as they could be read."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Consecutive rows of an object."""

    batch: pa.RecordBatch
    """The rows that could be decoded, with the requested columns in the requested order."""
    numbers: Any
    """Number of each row within the object, counted from 0: ndarray of int64, shape (batch.num_rows,)."""
    malformed: tuple[MalformedRow, ...] = ()
    """The rows that could not be decoded."""


class TableFormat(Protocol):
    """Reads objects in one format. It is thread-safe, but the iterators that it returns are not."""

    def survey(self, source: Pinned, features: Collection[str] = ()) -> Survey:
        """Find the columns and spans of an object. The memory use does not depend on the object's size.

        Parameters
        ----------
        source : Pinned
            The object.
        features : collection of str
            Columns that are known to be features. The survey need not find out how to copy these columns to the
            results.

        Raises
        ------
        UnreadableInput
            The object has another format or is damaged. The message names the object and the position.
        InputChanged
            The object was replaced or deleted.
        """
        ...

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span in order, at most `batch_rows` at a time.

        Parameters
        ----------
        span : Span
            A span of the survey, or adjacent spans combined into one.
        schema : pyarrow.Schema
            The columns to read. Values in text formats are converted to the types of the schema. Columns of other
            formats keep the types that they are stored in.
        batch_rows : int
            Maximum number of rows in a batch, including rows that cannot be decoded.

        Raises
        ------
        UnreadableInput, InputChanged
            The same errors as for `survey`.
        """
        ...
