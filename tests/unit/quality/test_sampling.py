"""The rows of a large job that are counted depend on the object and the row number alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreline.tasks.quality.profiles.sampling import _BLOCK, RUN_ROWS, sampled_rows

URI = "s3://scoreline/in/rows.parquet"


def chosen(numbers: list[int], one_in: int) -> set[int]:
    array = np.array(numbers, np.int64)
    return set(array[sampled_rows(URI, array, one_in)].tolist())


@given(
    st.integers(0, 10_000),
    st.integers(1, 900),
    st.integers(1, 40),
    st.sets(st.integers(0, 900), max_size=30),
)
def test_rows_are_chosen_alike_whichever_others_are_read(first: int, rows: int, one_in: int, missing: set[int]) -> None:
    numbers = list(range(first, first + rows))
    rest = [number for number in numbers if number - first not in missing]
    of_all = chosen(list(range(first + rows + 100)), one_in)
    assert chosen(numbers, one_in) == of_all & set(numbers)
    assert chosen(rest, one_in) == of_all & set(rest)


@pytest.mark.parametrize("one_in", [2, 10, 77])
def test_one_run_of_rows_in_so_many_is_chosen(one_in: int) -> None:
    groups = 500
    rows = sampled_rows(URI, np.arange(groups * one_in * RUN_ROWS), one_in)
    assert len(rows) == groups * RUN_ROWS
    assert np.bincount(rows // (one_in * RUN_ROWS)).tolist() == [RUN_ROWS] * groups
    within = (rows // RUN_ROWS % one_in)[::RUN_ROWS]
    assert len(np.unique(within)) >= min(one_in, 60)  # not every n-th run
    assert abs(within.mean() / one_in - 0.5 + 0.5 / one_in) < 0.06


@pytest.mark.parametrize("one_in", [1, 3])
def test_a_sample_does_not_end_where_its_rows_are_computed_anew(one_in: int) -> None:
    border = _BLOCK * RUN_ROWS * one_in
    for numbers in (np.arange(2 * border - 700, 2 * border + 900), np.arange(100, 3 * border)):
        one_by_one = np.delete(numbers, 1)  # a row is missing, so they do not follow each other
        of_these = set(one_by_one[sampled_rows(URI, one_by_one, one_in)].tolist())
        assert set(numbers[sampled_rows(URI, numbers, one_in)].tolist()) - {int(numbers[1])} == of_these


def test_a_sample_is_the_callers_own() -> None:
    numbers = np.arange(1_000)
    first = sampled_rows(URI, numbers, 4)
    expected = first.tolist()
    first += 1
    assert sampled_rows(URI, numbers, 4).tolist() == expected


def test_other_objects_have_other_rows() -> None:
    numbers = np.arange(10_000)
    assert sampled_rows(URI, numbers, 10).tolist() != sampled_rows(URI + "2", numbers, 10).tolist()
