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
from scoreline.tasks.steps.sampling import SAMPLE_ROWS, TRIAL_ROWS

ROWS = 5 * BATCH_ROWS


def tried(batch_rows: int, *, rows: int = ROWS, head: int = sampling.TRIAL_ROWS, by_rows: bool = True) -> list[range]:
    """Return, batch by batch, the rows of a part that the planner samples if no row can be scored."""

    def read_slice(piece: Slice, columns: object, options: object, size: int) -> Any:
        wanted = range(piece.scope[0], sum(piece.scope))
        assert len(wanted), "an empty slice is read"
        assert by_rows or (piece.start, piece.stop) == (0, rows), "the object cannot be divided"
        for start in range(wanted.start, wanted.stop, size):
            numbers = np.arange(start, min(start + size, wanted.stop))
            yield Rows(batch=pa.record_batch({"x": numbers}), numbers=numbers)

    piece = Slice(bucket="b", key="a", etag="e", size=1, start=0, stop=rows, first_row=0, rows=rows)
    span = SimpleNamespace(by_rows=by_rows)
    engine: Any = SimpleNamespace(
        batch_size=lambda columns: SimpleNamespace(rows_to_read=batch_rows), read_slice=read_slice
    )
    made: Any = SimpleNamespace(
        columns=None,
        parts=(Part(slices=(piece,)),),
        surveyed=[SimpleNamespace(file=SimpleNamespace(bucket="b", key="a", spans=[span]))],
    )
    job: Any = SimpleNamespace(spec=SimpleNamespace(read=None))
    found = [batch.numbers for batch in sampling._first_batches(engine, job, made, head)]
    return [range(int(numbers[0]), int(numbers[-1]) + 1) for numbers in found]


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("batch_rows", [BATCH_ROWS, BATCH_ROWS // 2, BATCH_ROWS // 8, BATCH_ROWS // 32])
def test_few_rows_of_a_part_are_tried_first_and_then_as_many_as_a_batch_has(batch_rows: int, by_rows: bool) -> None:
    batches = tried(batch_rows, by_rows=by_rows)
    assert batches[0] == range(min(batch_rows, sampling.TRIAL_ROWS))
    assert [row for batch in batches for row in batch] == list(range(BATCH_ROWS))
    assert max(map(len, batches)) <= batch_rows


def test_a_part_with_fewer_rows_is_tried_whole() -> None:
    assert tried(BATCH_ROWS, rows=100) == [range(100)]
    assert [row for batch in tried(BATCH_ROWS, rows=10_000) for row in batch] == list(range(10_000))


def test_the_first_batch_can_be_as_large_as_those_of_the_parts() -> None:
    assert tried(BATCH_ROWS, head=BATCH_ROWS) == [range(BATCH_ROWS)]


@pytest.mark.parametrize(("only_changed", "first"), [(False, sampling.TRIAL_ROWS), (True, BATCH_ROWS)])
def test_scores_that_may_be_carried_over_are_tried_in_a_batch_as_large_as_those_of_the_parts(
    monkeypatch: pytest.MonkeyPatch, only_changed: bool, first: int
) -> None:
    heads: list[int] = []

    def first_batches(engine: object, job: object, made: object, head: int) -> list[Rows]:
        heads.append(head)
        return []

    monkeypatch.setattr(sampling, "_first_batches", first_batches)
    job: Any = SimpleNamespace(spec=SimpleNamespace(only_changed=only_changed))
    assert not [*sampling._samples(None, job, None)]  # type: ignore[arg-type]
    assert heads == [first]


@pytest.mark.parametrize("position", [0, SAMPLE_ROWS, TRIAL_ROWS // 2])
def test_kept_columns_are_measured_wherever_in_the_first_rows_the_sample_is(position: int) -> None:
    # Given rows with a column of 8 bytes that is the same in all rows, and scores of 8 bytes
    rows = pa.record_batch({"kept": np.zeros(TRIAL_ROWS)})
    sample = rows.slice(position, SAMPLE_ROWS)
    scored = pa.table({"kept": sample["kept"], "prediction": np.zeros(SAMPLE_ROWS)})
    made: Any = SimpleNamespace(
        columns=SimpleNamespace(keep=("kept",)), scored=SimpleNamespace(table=scored), ahead=rows.slice(position)
    )
    # Then the column takes less, because it is compressed
    assert sampling.result_bytes(made, encode=True) < 10 < sampling.result_bytes(made, encode=False)
