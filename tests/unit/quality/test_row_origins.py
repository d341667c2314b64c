"""Where the rows of an arranged file come from, packed for its footer."""

from __future__ import annotations

import numpy as np
import pytest

from scoreline.tasks.quality.trace.row_origins import RowOrigins, origin_of


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02, 0.0005])
@pytest.mark.parametrize("calls", [1, 7])
def test_every_row_is_found_again(share: float, calls: int) -> None:
    rng = np.random.default_rng(7)
    origins, expected = RowOrigins(), []
    for part in (0, 3, 4, 100_000):
        rows = np.flatnonzero(rng.random(20_000) < share)
        expected += [(part, int(row)) for row in rows]
        for piece in np.array_split(rows, calls):
            origins.add(part, piece)
    text = origins.finish()
    for row in rng.integers(0, len(expected), 50).tolist():
        assert origin_of(text, row) == expected[row]
    assert origin_of(text, len(expected) - 1) == expected[-1]
    with pytest.raises(ValueError, match="not row"):
        origin_of(text, len(expected))


def test_neighbouring_rows_take_next_to_nothing() -> None:
    origins = RowOrigins()
    for start in range(0, 1_000_000, 16_384):
        origins.add(0, np.arange(start, start + 16_384))
    assert len(origins.finish()) < 2_000


@pytest.mark.parametrize(("among", "most"), [(2, 0.5), (50, 1.3), (1_000, 3.0)])
def test_scattered_rows_take_a_few_bytes(among: int, most: float) -> None:
    rows = np.flatnonzero(np.random.default_rng(7).integers(0, among, 2_000_000) == 0)
    origins = RowOrigins()
    origins.add(0, rows)
    assert len(origins.finish()) < most * len(rows)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"parts": []}', '{"parts": [[0, 1]], "gaps": "?"}', '{"parts": 3, "gaps": ""}']
)
def test_a_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="footer does not say where"):
        origin_of(text, 0)
