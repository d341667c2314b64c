"""Chooses which columns of a row group are decoded in one call, if its columns are decoded one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from scoreline.storage.tables.parquet_chunks import Chunk

_BLOCK_BYTES = 4 << 20
_BLOCK_COLUMNS = 32
"""Maximum number of columns that are decoded in one call. Their total size is at most `_BLOCK_BYTES`, unless a single
column is larger."""


def too_few(missing: int) -> pa.ArrowInvalid:
    """Return the error for a row group that ends early."""
    return pa.ArrowInvalid(f"it has {missing:,} fewer rows than its footer says")


def column_blocks(names: list[str], chunks: Sequence[Chunk]) -> Iterator[list[str]]:
    """Divide columns, in file order, into blocks. The columns of a block are decoded in one call."""
    sizes: dict[str, int] = {}
    for chunk in chunks:
        sizes[chunk.name] = sizes.get(chunk.name, 0) + max(chunk.decoded_bytes, chunk.size)
    block: list[str] = []
    total = 0
    for name in [*sizes, *(name for name in names if name not in sizes)]:
        size = sizes.get(name, 0)
        if block and (total + size > _BLOCK_BYTES or len(block) == _BLOCK_COLUMNS):
            yield block
            block, total = [], 0
        block.append(name)
        total += size
    if block:
        yield block
