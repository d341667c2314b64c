from __future__ import annotations

import tracemalloc
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from scoreline.storage.kept_memory import MEMORY, empty_matrix
from scoreline.storage.models.categories import Categories
from scoreline.tasks.scoring.features import to_features
from scoreline.tasks.scoring.settled_types import settle, settled_feature


def array(column: pa.Array | list[Any], kind: pa.DataType | None = None) -> tuple[Any, dict[int, str]]:
    """Convert the column, with a second column of float64, to a matrix. Return the converted column and the rejected
    rows."""
    columns = {"a": pa.array(column, kind), "b": pa.array(np.zeros(len(column)))}
    x, rejected = to_features(pa.record_batch(columns), ["a", "b"], form="array", named=False)
    return x[:, 0], {row: why.message for row, why in rejected.items()}


def frame(column: pa.Array | list[Any], kind: pa.DataType | None = None) -> tuple[Any, dict[int, str]]:
    """Convert the column and a column of texts to a DataFrame. Return the converted column and the rejected rows."""
    columns = {"a": pa.array(column, kind), "b": pa.array(["text"] * len(column))}
    x, rejected = to_features(pa.record_batch(columns), ["a", "b"], form="frame", named=True)
    return x["a"], {row: why.message for row, why in rejected.items()}


def test_columns_come_in_the_order_of_the_model() -> None:
    given = pa.record_batch({"b": [1, 2], "a": [0.5, 0.25]})
    x, _ = to_features(given, ["a", "b"], form="array", named=False)
    assert np.array_equal(x, [[0.5, 1.0], [0.25, 2.0]])
    x, _ = to_features(given, ["a", "b"], form="frame", named=True)
    assert list(x.columns) == ["a", "b"]
    assert np.array_equal(x, [[0.5, 1.0], [0.25, 2.0]])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.uint16(), pa.int64()])
def test_numbers_of_one_type_keep_it(kind: pa.DataType) -> None:
    given = pa.record_batch({"a": pa.array([1, 2], pa.int64()).cast(kind)})
    for named in (False, True):
        x, _ = to_features(given, ["a"], form="frame" if named else "array", named=named)
        assert np.asarray(x).dtype == kind.to_pandas_dtype()


def test_a_frame_is_laid_out_by_column_and_an_array_by_row() -> None:
    given = pa.record_batch({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    x, _ = to_features(given, ["a", "b"], form="frame", named=True)
    assert x.to_numpy().flags.f_contiguous
    x, _ = to_features(given, ["a", "b"], form="array", named=False)
    assert x.flags.c_contiguous


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_integers_that_float64_cannot_hold_are_rejected_if_they_must_become_floats(kind: pa.DataType) -> None:
    values = [2**53, 2**53 + 1, 2**60, 2**63 - 1, 7]
    x, rejected = array(values, kind)
    assert rejected == {row: f"'a' is {values[row]}, which float64 cannot hold exactly" for row in (1, 3)}
    assert [int(x[row]) for row in (0, 2, 4)] == [values[row] for row in (0, 2, 4)]
    # And a DataFrame keeps these integers, because it does not convert them to float64
    x, rejected = frame(values, kind)
    assert (list(x), rejected) == (values, {})
    # And rows with these integers are rejected if a null makes the column float64
    for what in (array, frame):
        x, rejected = what([None, *values], kind)
        assert np.isnan(x[0])
        assert set(rejected) == {2, 4}
        assert int(x[1]) == 2**53


def test_negative_integers_that_float64_cannot_hold_are_rejected() -> None:
    assert set(array([-(2**53), -(2**53) - 1, -(2**63)])[1]) == {1}


def test_integers_of_both_signs_that_share_no_type_become_float64_or_are_rejected() -> None:
    given = pa.record_batch({"a": pa.array([1, -(2**53) - 1], pa.int64()), "b": pa.array([2**64 - 1, 2], pa.uint64())})
    x, rejected = to_features(given, ["a", "b"], form="array", named=False)
    assert x.dtype == np.float64
    assert {row: why.column for row, why in rejected.items()} == {0: "b", 1: "a"}


@pytest.mark.parametrize("kind", [pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256])
def test_decimals_become_the_nearest_float(kind: Any) -> None:
    texts = ["19.99", "-0.01", "1234567.89", "0.00", None]
    for what in (array, frame):
        x, rejected = what([None if text is None else Decimal(text) for text in texts], kind(9, 2))
        assert rejected == {}
        assert list(x)[:-1] == [float(text) for text in texts if text is not None]
        assert np.isnan(list(x)[-1])


def test_a_decimal_of_fifteen_digits_becomes_the_float_that_python_reads() -> None:
    random = np.random.default_rng(0)
    digits = random.integers(-(10**15) + 1, 10**15, 2000)
    exact = [Decimal(int(number)).scaleb(-7) for number in digits]
    x, rejected = array(pa.array(exact, pa.decimal128(30, 7)).slice(5))
    assert rejected == {}
    assert list(x) == [float(number) for number in exact[5:]]


def test_decimals_with_more_digits_than_a_float_holds_are_rejected() -> None:
    values = ["12345678901234567890.12", "9007199254740993", "9007199254740992", "0.50", "-98765432109876543.21"]
    for kind in (pa.decimal128(38, 2), pa.decimal256(60, 2)):
        x, rejected = array([Decimal(value) for value in values], kind)
        assert set(rejected) == {0, 1, 4}
        assert rejected[0] == "'a' is 12345678901234567890.12, more digits than float64 holds"
        assert (x[2], x[3]) == (9007199254740992.0, 0.5)


def test_decimals_of_any_scale_are_converted() -> None:
    tiny, _ = array([Decimal("1E-30")], pa.decimal128(38, 35))
    huge, _ = array([Decimal("7E+3")], pa.decimal128(5, -3))
    assert (tiny[0], huge[0]) == (1e-30, 7000.0)


def test_booleans_are_numbers_in_an_array_and_booleans_in_a_frame() -> None:
    assert list(array([True, False])[0]) == [1.0, 0.0]
    assert frame([True, False])[0].dtype == np.bool_
    for what in (array, frame):
        x, rejected = what([True, None, False])
        assert np.array_equal(np.asarray(x), [1.0, np.nan, 0.0], equal_nan=True)
        assert rejected == {}


def test_categories_stay_categories_in_a_frame_and_become_values_in_an_array() -> None:
    given = pa.array(["u", "v", None, "u"]).dictionary_encode()
    x, _ = frame(given)
    assert isinstance(x.dtype, pd.CategoricalDtype)
    assert list(x[[0, 1, 3]]) == ["u", "v", "u"]
    x, _ = array(given)
    assert list(x[[0, 1, 3]]) == ["u", "v", "u"]
    assert pd.isna(x[2])
    assert list(array(pa.array([5, 7]).dictionary_encode())[0]) == [5.0, 7.0]


@pytest.mark.parametrize("dictionary", [pa.array(["u", None]), pa.array(["u", "u"]), pa.array([1.0, np.nan])])
def test_categories_that_pandas_cannot_hold_are_encoded_again(dictionary: pa.Array) -> None:
    given = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0], pa.int8()), dictionary, ordered=True)
    x, rejected = frame(given)
    assert isinstance(x.dtype, pd.CategoricalDtype)
    assert x.dtype.ordered
    expected = dictionary.take(given.indices).to_pandas()
    assert x.isna().tolist() == expected.isna().tolist()
    assert x.dropna().tolist() == expected.dropna().tolist()
    assert rejected == {}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_keep_their_unit_and_time_zone(unit: str) -> None:
    moment = datetime(2026, 11, 25, 6, 30)
    x, _ = frame([moment, None], pa.timestamp(unit))
    assert (x.dtype, x[0], pd.isna(x[1])) == (np.dtype(f"M8[{unit}]"), pd.Timestamp(moment), True)
    x, _ = frame(pa.array([moment], pa.timestamp(unit, "Europe/Berlin")))
    assert x[0] == pd.Timestamp(moment, tz="UTC")
    assert str(x.dt.tz) == "Europe/Berlin"
    assert array([moment], pa.timestamp(unit))[0][0] == pd.Timestamp(moment)


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_become_timestamps_at_midnight(kind: pa.DataType) -> None:
    x, _ = frame([date(1, 1, 1), date(2026, 11, 25), None], kind)
    assert x.dtype == np.dtype("M8[s]")
    assert x.dt.year.tolist()[:2] == [1, 2026]
    assert pd.isna(x[2])


def test_texts_and_other_types_arrive_as_pandas_has_them() -> None:
    x, _ = frame(["a", None])
    assert (str(x.dtype), x[0], pd.isna(x[1])) == ("str", "a", True)
    x, _ = array(["a", None])
    assert (x[0], pd.isna(x[1])) == ("a", True)
    assert list(frame([time(6, 30)])[0]) == [time(6, 30)]
    assert list(frame([b"bytes"])[0]) == [b"bytes"]
    assert [list(value) for value in frame([[1, 2], [3]])[0]] == [[1, 2], [3]]


def test_a_column_of_nulls_is_nan() -> None:
    for what in (array, frame):
        assert np.isnan(np.asarray(what(pa.nulls(2))[0], dtype=float)).all()


def test_a_single_column_is_one_dimensional_if_the_estimator_wants_that() -> None:
    given = pa.record_batch({"a": pa.array(["one", "two"]), "n": pa.array([1.5, 2.5])})
    texts, _ = to_features(given, ["a"], form="column", named=False)
    assert (texts.shape, texts.dtype, list(texts)) == ((2,), np.dtype(object), ["one", "two"])
    numbers, _ = to_features(given, ["n"], form="column", named=False)
    assert np.array_equal(numbers, [1.5, 2.5])


def test_an_empty_batch_gives_no_rows_of_any_form() -> None:
    given = pa.record_batch({"a": pa.array([], pa.int64()), "b": pa.array([], pa.decimal128(9, 2))})
    for form, named in (("frame", True), ("array", False)):
        x, rejected = to_features(given, ["a", "b"], form=form, named=named)  # type: ignore[arg-type]
        assert (x.shape, rejected) == ((0, 2), {})


def test_a_frame_of_integers_and_floats_has_each_column_in_its_own_type() -> None:
    given = pa.record_batch({"a": [1, 2**53 + 1], "b": [0.5, 1.5]})
    x, rejected = to_features(given, ["a", "b"], form="frame", named=True)
    assert ([str(kind) for kind in x.dtypes], x["a"].tolist(), rejected) == (["int64", "float64"], [1, 2**53 + 1], {})
    assert np.asarray(x).flags.f_contiguous


@pytest.mark.parametrize(
    "column", [["Rome", None], pa.array(["Rome", None]).dictionary_encode()], ids=["text", "category"]
)
def test_a_null_is_none_if_the_encoder_knows_none(column: Any) -> None:
    given = pa.record_batch({"town": pa.array(column), "x": [1.0, 2.0]})
    for categories, null in ((Categories(has_none=True, are_texts=True), None), (Categories(are_texts=True), np.nan)):
        x, _ = to_features(given, ["town", "x"], form="frame", named=True, categories={"town": categories})
        assert x["town"].tolist() == ["Rome", null] or (null is not None and pd.isna(x["town"][1]))
        assert (x["town"][1] is None) == (null is None)


def test_booleans_beside_nulls_stay_booleans_if_the_encoder_knows_them() -> None:
    given = pa.record_batch({"flag": pa.array([True, None, False]), "x": ["a", "b", "c"]})
    known = Categories(has_booleans=True, has_none=True)
    x, _ = to_features(given, ["flag", "x"], form="frame", named=True, categories={"flag": known})
    assert x["flag"].tolist() == [True, None, False]
    x, _ = to_features(given, ["flag", "x"], form="frame", named=True)
    assert x["flag"].tolist()[::2] == [1.0, 0.0]


def test_numbers_come_in_a_frame_only_to_a_model_with_names() -> None:
    given = pa.record_batch({"a": [1.0], "b": [2.0]})
    assert isinstance(to_features(given, ["a", "b"], form="frame", named=True)[0], pd.DataFrame)
    assert isinstance(to_features(given, ["a", "b"], form="frame", named=False)[0], np.ndarray)


@pytest.mark.parametrize("form", ["frame", "array"])
@pytest.mark.parametrize(("columns", "kind"), [(18, np.float64), (500, np.float32)])
def test_numbers_are_copied_once_and_keep_their_type(form: Any, columns: int, kind: Any) -> None:
    names = [f"c{number}" for number in range(columns)]
    arrays = [pa.array(np.arange(8_192, dtype=kind)) for _ in names]
    reads = pa.schema([settled_feature(name, arrays[0].type, missing=False) for name in names])
    batch = pa.RecordBatch.from_arrays(arrays, names=names)
    tracemalloc.start()
    try:
        x, _ = to_features(settle(batch, reads), names, form=form, named=form == "frame")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(np.atleast_1d(x.dtypes if form == "frame" else x.dtype)) == {np.dtype(kind)}
    assert peak < 1.1 * batch.nbytes  # tracemalloc counts the memory of NumPy, but not that of Arrow


# Matrices of floats


def bits(x: Any) -> list[list[int]]:
    """Return the numbers as integers, which distinguish kinds of NaN and of zero."""
    x = np.ascontiguousarray(x)
    integers: list[list[int]] = x.view(f"u{x.dtype.itemsize}").tolist()
    return integers


@pytest.mark.parametrize("form", ["frame", "array"])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
def test_floats_become_what_they_become_beside_another_type(kind: pa.DataType, form: Any) -> None:
    random = np.random.default_rng(0)
    values = [random.normal(size=5_000).astype(kind.to_pandas_dtype()) for _ in range(70)]
    columns = [pa.array(column, mask=random.random(5_000) < 0.1) for column in values]
    columns[0] = pa.array(values[0])
    columns[1] = pa.array([None, -np.nan, -0.0, np.inf, -np.inf] * 1_000, kind)
    names = [f"x{number}" for number in range(70)]
    batch = pa.record_batch(columns, names=names).slice(3, 4_900)
    x, rejected = to_features(batch, names[::-1], form=form, named=True)
    assert rejected == {}
    # With an additional column of small integers, the other columns keep their type, but each column is converted
    # separately
    mixed = batch.append_column("n", pa.array(np.zeros(4_900, "i2")))
    expected, _ = to_features(mixed, [*names[::-1], "n"], form="array", named=True)
    assert expected.dtype == kind.to_pandas_dtype()
    assert bits(x) == bits(expected[:, :-1])
    assert list(x) == names[::-1] if form == "frame" else x.flags.c_contiguous
    assert form == "array" or x.to_numpy().flags.f_contiguous


def test_floats_that_the_job_scores_in_another_type_are_converted() -> None:
    reads = pa.schema([settled_feature(name, pa.float64(), missing=False) for name in "ab"])
    batch = settle(pa.record_batch({name: pa.array([0.1, 0.2], pa.float32()) for name in "ab"}), reads)
    x, _ = to_features(batch, ["a", "b"], form="array", named=False)
    assert x.dtype == np.float64


def test_the_memory_of_a_matrix_is_used_again_only_if_nothing_refers_to_it() -> None:
    MEMORY.release()
    batch = pa.record_batch({name: np.arange(100_000.0) for name in "ab"})
    other = pa.record_batch({name: np.zeros(100_000) for name in "ab"})

    def convert(rows: pa.RecordBatch) -> Any:
        return to_features(rows, ["a", "b"], form="frame", named=True)[0]

    place = convert(batch).to_numpy().ctypes.data
    x = convert(batch)
    assert x.to_numpy().ctypes.data == place
    view = x["b"].iloc[10:20]
    del x
    assert convert(other).to_numpy().ctypes.data != place
    assert view.tolist() == list(range(10, 20))
    MEMORY.release()
    assert MEMORY.unused_bytes == 0


def test_memory_that_is_given_back_after_its_release_is_not_kept() -> None:
    MEMORY.release()
    # a reference that outlives the release, like that of an error's traceback
    held = empty_matrix(1_000, 1_000, "f8", "C")
    MEMORY.release()
    del held
    assert MEMORY.unused_bytes == 0
    del (later := [empty_matrix(1_000, 1_000, "f8", "C")])[0]
    assert later == []
    assert MEMORY.unused_bytes >= 8_000_000
    MEMORY.release()


def test_a_model_may_write_to_its_features() -> None:
    batch = pa.record_batch({name: np.arange(1.0, 100_001.0) for name in "ab"})
    x, _ = to_features(batch, ["a", "b"], form="array", named=False)
    x[:] = 0
    assert batch.column("a")[0].as_py() == 1.0
