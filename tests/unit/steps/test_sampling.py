"""Planning samples the first rows of some parts, and the same number of rows if these are read in two pieces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scoreline.storage.tables.base import Rows
from scoreline.tasks.job.plan import BATCH_ROWS, Part, Slice
from scoreline.tasks.steps import sampling

ROWS = 5 * BATCH_ROWS


def tried(batch_rows: int) -> list[range]:
    """Return, batch by batch, the rows of a part that the planner samples if no row can be scored."""

    def read_slice(piece: Slice, columns: object, options: object, size: int) -> Any:
        wanted = range(piece.scope[0], sum(piece.scope))
        for start in range(wanted.start, wanted.stop, size):
            numbers = np.arange(start, min(start + size, wanted.stop))
            yield Rows(batch=pa.record_batch({"x": numbers}), numbers=numbers)

    piece = Slice(bucket="b", key="a", etag="e", size=1, start=0, stop=ROWS, first_row=0, rows=ROWS)
    span = SimpleNamespace(by_rows=True)
    engine: Any = SimpleNamespace(
        batch_size=lambda columns: SimpleNamespace(rows_to_read=batch_rows), read_slice=read_slice
    )
    made: Any = SimpleNamespace(
        columns=None,
        parts=(Part(slices=(piece,)),),
        surveyed=[SimpleNamespace(file=SimpleNamespace(bucket="b", key="a", spans=[span]))],
    )
    job: Any = SimpleNamespace(spec=SimpleNamespace(read=None))
    found = [rows.numbers for rows in sampling._first_batches(engine, job, made)]
    return [range(int(numbers[0]), int(numbers[-1]) + 1) for numbers in found]


@pytest.mark.parametrize("batch_rows", [BATCH_ROWS, BATCH_ROWS // 2, BATCH_ROWS // 8])
def test_of_a_part_as_many_rows_are_tried_as_a_batch_has(batch_rows: int) -> None:
    starts = range(0, BATCH_ROWS, batch_rows)
    assert tried(batch_rows) == [range(start, start + batch_rows) for start in starts]
