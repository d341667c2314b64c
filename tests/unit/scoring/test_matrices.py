"""Matrices are filled with the values that NumPy would put there, with and without the extension."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from scoreline.tasks.scoring import matrices
from scoreline.tasks.scoring.matrices import fill_matrix

NUMBERS = ("?", "b", "h", "i", "l", "q", "B", "H", "I", "L", "Q", "f", "d")
FILLED_BY_EXTENSION = {
    "d": NUMBERS,
    "f": ("?", "b", "h", "B", "H", "f"),
    "l": ("?", "b", "h", "i", "l", "q", "B", "H", "I"),
    "q": ("?", "b", "h", "i", "l", "q", "B", "H", "I"),
}
needs_extension = pytest.mark.skipif(matrices.matrix_rows is None, reason="the extension is not built")


@pytest.fixture(params=["extension", "NumPy"])
def filled_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fill matrices with the extension or without it."""
    if request.param == "NumPy":
        monkeypatch.setattr(matrices, "matrix_rows", None)
    elif matrices.matrix_rows is None:
        pytest.skip("the extension is not built")
    return str(request.param)


def column(kind: str, rows: int, seed: int = 0) -> Any:
    """Return random values of a type of NumPy, among them those at its limits."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        values = random.normal(size=rows).astype(dtype)
        special = np.array([np.nan, -np.nan, -0.0, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    elif dtype.kind == "b":
        values, special = random.integers(0, 2, rows).astype(dtype), np.zeros(0, dtype)
    else:
        limits = np.iinfo(dtype)
        values = random.integers(limits.min, limits.max, rows, dtype, endpoint=True)
        special = np.array([limits.min, limits.max, limits.max // 2 + 1], dtype)
    chosen = special[:rows]
    values[rows - len(chosen) :] = chosen
    return values


def expected(x: Any, columns: list[Any]) -> bytes:
    """Return the bytes of the matrix that NumPy fills column by column."""
    filled = np.empty_like(x, order="C")
    for number, values in enumerate(columns):
        filled[:, number] = values
    return filled.tobytes()


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 4_097])
@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 64, 65, 130])
@pytest.mark.parametrize("kind", ["d", "f", "l"])
def test_a_matrix_has_the_bits_of_its_columns(kind: str, width: int, rows: int, filled_by: str) -> None:
    columns = [column(kind, rows, seed) for seed in range(width)]
    x = np.empty((rows, width), kind)
    fill_matrix(x, iter(columns))
    assert x.tobytes() == expected(x, columns)


@pytest.mark.parametrize("kind", ["d", "f", "l", "q"])
def test_columns_of_other_types_are_converted(kind: str, filled_by: str) -> None:
    columns = [column(source, 1_000, seed) for seed, source in enumerate(FILLED_BY_EXTENSION[kind] * 3)]
    x = np.empty((1_000, len(columns)), kind)
    fill_matrix(x, columns)
    assert x.tobytes() == expected(x, columns)


@pytest.mark.parametrize("kind", ["e", "?", "b", "H", "i", "Q", "O", "M8[s]"])
def test_a_matrix_of_any_other_type_is_filled_too(kind: str, filled_by: str) -> None:
    columns = [np.arange(3_000) % 2 * (number % 2) for number in range(10)]
    x = np.empty((3_000, 10), kind)
    fill_matrix(x, columns)
    assert x.tolist() == np.stack(columns, axis=1).astype(kind).tolist()


@pytest.mark.parametrize("rows", [2_047, 2_049, 4_096])
def test_a_column_with_another_number_of_rows_is_refused(rows: int, filled_by: str) -> None:
    with pytest.raises(ValueError, match="rows"):
        fill_matrix(np.empty((2_048, 2)), [np.ones(2_048), np.ones(rows)])


def test_a_matrix_by_columns_is_filled_too(filled_by: str) -> None:
    columns = [column("d", 3_000, seed) for seed in range(40)]
    x = np.empty((3_000, 40), "d", order="F")
    fill_matrix(x, iter(columns))
    assert x.tobytes() == expected(x, columns)


def unaligned(values: Any) -> Any:
    raw = np.frombuffer(b" " + values.tobytes(), np.uint8)[1:]
    return raw.view(values.dtype)


UNUSUAL: dict[str, Callable[[], Any]] = {
    "every other value": lambda: column("d", 200)[::2],
    "backwards": lambda: column("d", 100)[::-1],
    "unaligned": lambda: unaligned(column("d", 100)),
    "other byte order": lambda: column("d", 100).astype(">f8"),
    "half precision": lambda: np.arange(100, dtype="e"),
    "long double": lambda: np.arange(100, dtype="g"),
    "objects": lambda: column("d", 100).astype(object),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_column_is_left_to_numpy(name: str, filled_by: str) -> None:
    columns = [column("d", 100, 1), UNUSUAL[name](), column("d", 100, 2)]
    x = np.empty((100, 3))
    fill_matrix(x, columns)
    assert x.tobytes() == expected(x, columns)


@needs_extension
@pytest.mark.parametrize("kind", FILLED_BY_EXTENSION)
def test_the_extension_converts_only_to_a_type_that_includes_the_other(kind: str) -> None:
    taken = [
        source
        for source in NUMBERS
        if matrices.matrix_rows.fill(np.zeros((5, 2), kind), (np.zeros(5, source), np.zeros(5, kind)))
    ]
    assert set(taken) == set(FILLED_BY_EXTENSION[kind])


@needs_extension
def test_the_extension_leaves_other_layouts_alone() -> None:
    fill, ones = matrices.matrix_rows.fill, np.ones(5)
    assert fill(np.zeros((5, 4))[:, 1:3], (ones, ones))
    for x, columns in [
        (np.zeros((5, 2), order="F"), (ones, ones)),
        (np.zeros((5, 4))[:, ::2], (ones, ones)),
        (np.zeros((5, 2), ">f8"), (ones, ones)),
        (np.zeros((5, 2, 1)), (ones, ones)),
        (np.zeros((5, 2)), (ones,)),
        (np.zeros((5, 2)), (ones, np.ones(4))),
        (np.zeros((5, 2)), (ones, np.ones(6))),
        (np.zeros((5, 2)), (ones, np.ones((5, 1)))),
        (np.zeros((5, 33)), (ones,) * 33),
        (np.zeros((5, 65), "f"), (ones.astype("f"),) * 65),
    ]:
        assert not fill(x, columns)
        assert not x.any()


@needs_extension
def test_the_extension_does_not_write_to_an_array_that_is_only_read() -> None:
    x = np.zeros((5, 2))
    x.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        matrices.matrix_rows.fill(x, (np.ones(5), np.ones(5)))


def test_few_columns_are_held_at_a_time(filled_by: str) -> None:
    made: list[weakref.ref[Any]] = []
    held = []

    def columns() -> Iterator[Any]:
        for _ in range(200):
            values = np.ones(3)
            made.append(weakref.ref(values))
            held.append(sum(ref() is not None for ref in made))
            yield values
            del values

    fill_matrix(np.empty((3, 200)), columns())
    assert max(held) <= 65
