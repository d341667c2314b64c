"""No key of a file is missing or there twice, whatever pieces the file is read in."""

from __future__ import annotations

import pyarrow as pa
import pytest

from scoreline.tasks.databases.file_keys import FileKeys


@pytest.mark.parametrize(
    ("pieces", "once"),
    [
        ([[1, 2, 5], [7, 9]], True),
        ([[7, 9], [1, 2, 5]], True),
        ([[1, 5, 9], [2, 6]], True),  # as pieces of a file whose keys are in no order
        ([[1, 2, 2]], False),
        ([[1, 5, 9], [2, 5]], False),
        ([[1, 5], [5, 9]], False),
        ([[1, None]], False),
        ([["a", "b"], ["c"]], True),
        ([["a", "b"], ["b"]], False),
        ([["a", "a\t", "a "]], False),  # a varchar(n) may drop spaces
        ([["a", None]], False),
        ([], True),
    ],
)
def test_keys_that_are_missing_or_there_twice_are_found(pieces: list[list[object]], once: bool) -> None:
    keys = FileKeys()
    assert (all(keys.add(pa.array(piece)) for piece in pieces) and keys.are_distinct()) == once
