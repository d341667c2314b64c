"""The contract of table formats: survey an object, and read the rows of a span of it on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from scoreline.storage.objects.base import ObjectStore

if TYPE_CHECKING:  # an application that only submits jobs need not have pyarrow
    import pyarrow as pa

MAX_RAW_CHARS = 1_024
"""Characters of a record that are kept for display if it cannot be decoded."""


class Listed(Protocol):
    """What identifies an object and its current content."""

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


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """An object with the content that it had when it was listed."""

    store: ObjectStore = field(repr=False)
    key: str
    size: int
    """Size in bytes."""
    etag: str

    @classmethod
    def of(cls, store: ObjectStore, listed: Listed) -> Pinned:
        """Pin an object of a store as it was listed or planned."""
        return cls(store=store, key=listed.key, size=listed.size, etag=listed.etag)

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return self.store.uri(self.key)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows of an object that can be read on their own."""

    start: int
    """Number of the first row (Parquet) or record batch (Arrow IPC), or position in bytes of the decompressed text (CSV
    and JSON Lines)."""
    stop: int
    """The number or position after the last one."""
    first_row: int
    """Number of the first row within the object, counted from 0."""
    rows: int
    size: int
    """Uncompressed size in bytes."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The columns of an object, and the spans that it can be divided into."""

    schema: pa.Schema
    """All columns. In text formats their types are inferred (see `scoreline.storage.tables.type_inference`)."""
    spans: tuple[Span, ...]
    """Spans in order; each row is in exactly one of them."""


@dataclass(frozen=True, kw_only=True)
class MalformedRow:
    """A row that cannot be decoded."""

    row: int
    """Number of the row within the object, counted from 0."""
    column: str | None
    """The column that cannot be decoded, or None if the whole row cannot."""
    message: str
    raw: str | None
    """Text of the row, up to `MAX_RAW_CHARS`; None if the format is not text."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Consecutive rows of an object."""

    batch: pa.RecordBatch
    """The rows that could be decoded, with the requested columns in the requested order."""
    numbers: Any
    """ndarray of int64, shape (batch.num_rows,): number of each row within the object, counted from 0."""
    malformed: tuple[MalformedRow, ...] = ()
    """The rows that could not be decoded."""


class TableFormat(Protocol):
    """Reads objects of one format. It is thread-safe, but the iterators that it returns are not."""

    def survey(self, source: Pinned) -> Survey:
        """Find the columns and spans of an object, in constant memory.

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
            The columns to read. Text is converted to these types; other formats return their own types.
        batch_rows : int
            Largest number of rows in a batch, including those that cannot be decoded.

        Raises
        ------
        UnreadableInput, InputChanged
            As in `survey`.
        """
        ...
