"""What every format of tables offers: a survey of what is there, and the rows of a span of it, read alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from scoreline.storage.objects.base import ObjectStore

if TYPE_CHECKING:  # whoever only sends jobs has no pyarrow
    import pyarrow as pa

MAX_RECORD_CHARS = 1_024
"""Of a record that cannot be decoded, what is kept to be shown."""


class Listed(Protocol):
    """What tells an object from all others, and from what it was or will be."""

    @property
    def key(self) -> str:
        """Where it is."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def etag(self) -> str:
        """Of its content."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """One object, as it was when it was listed."""

    store: ObjectStore = field(repr=False)
    key: str
    size: int
    """Bytes."""
    etag: str

    @classmethod
    def of(cls, store: ObjectStore, listed: Listed) -> Pinned:
        """Pin an object of a store as it was listed, or planned."""
        return cls(store=store, key=listed.key, size=listed.size, etag=listed.etag)

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return self.store.uri(self.key)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows of an object that can be read without those before and after."""

    start: int
    """Row (Parquet), record batch (Arrow IPC), or byte of the text, uncompressed (CSV, JSON Lines)."""
    stop: int
    """The one after the last."""
    first_row: int
    """Number, within the object, of the first row."""
    rows: int
    size: int
    """Bytes, uncompressed."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What an object holds."""

    schema: pa.Schema
    """All columns. Of text, with the types that a sample suggests (see `scoreline.storage.tables.type_inference`)."""
    spans: tuple[Span, ...]
    """In order; together they hold every row once."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A row that could not be decoded."""

    row: int
    """Number within the object."""
    column: str | None
    """Where one is to blame."""
    message: str
    record: str | None
    """The text of it, up to `MAX_RECORD_CHARS`."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of an object, in order."""

    batch: pa.RecordBatch
    """Those that could be decoded, with the columns that were asked for, in that order."""
    numbers: Any
    """ndarray of int64, shape (batch.num_rows,): the number of each row within the object, from 0."""
    broken: tuple[Broken, ...] = ()


class TableFormat(Protocol):
    """Reads the objects of one format. Thread-safe, but for what it hands out."""

    def survey(self, source: Pinned) -> Survey:
        """Look at a whole object, in constant memory.

        Raises
        ------
        UnreadableInput
            It is not of this format, or damaged; names the object and the place.
        InputChanged
            It is not the one with that ETag any more.
        """
        ...

    def read(self, source: Pinned, span: Span, schema: pa.Schema, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows of a span in order, at most `batch_rows` at once.

        Parameters
        ----------
        span : Span
            One that a survey gave, or several of them that adjoin, as one.
        schema : pyarrow.Schema
            The columns to read. Text is decoded to these types; other formats hand out their own.
        batch_rows : int
            Each row that cannot be decoded counts too.

        Raises
        ------
        UnreadableInput, InputChanged
            As `survey`.
        """
        ...
