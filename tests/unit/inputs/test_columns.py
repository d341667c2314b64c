from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from scoreline.storage.errors import MissingColumns
from scoreline.storage.models.manifest import Manifest
from scoreline.tasks.inputs.columns import choose_features, rows_with_words

PLAIN = Manifest(
    name="m",
    version="v",
    created="",
    artifacts=(),
    feature_names=None,
    n_features=4,
    outputs={},
    libraries={},
    memory_bytes=0,
)
NAMED = replace(PLAIN, feature_names=("a", "b"), n_features=2)
SCHEMA = pa.schema(
    {
        "flag": pa.bool_(),
        "name": pa.string(),
        "price": pa.decimal128(9, 2),
        "when": pa.timestamp("us"),
        "count": pa.int16(),
        "kind": pa.dictionary(pa.int8(), pa.int64()),
        "size": pa.float32(),
        "list": pa.list_(pa.float64()),
    }
)
NUMERIC = ("flag", "price", "count", "size")


def test_a_model_with_feature_names_uses_them_whatever_the_input_has() -> None:
    assert choose_features(NAMED, None, SCHEMA) == (("a", "b"), ())


def test_named_features_are_used_in_the_given_order() -> None:
    for model in (PLAIN, replace(PLAIN, n_features=None)):
        assert choose_features(model, ["size", "x", "flag", "y"], SCHEMA) == (("size", "x", "flag", "y"), ())


def test_the_number_of_named_features_must_be_that_of_the_model() -> None:
    with pytest.raises(MissingColumns, match="model m@v takes 4 features, but --features names 1: name each of them"):
        choose_features(PLAIN, ["size"], SCHEMA)


def test_a_model_without_feature_names_uses_the_numeric_columns_in_order_with_a_warning() -> None:
    features, warnings = choose_features(PLAIN, None, SCHEMA)
    assert features == NUMERIC
    assert warnings == (
        "m@v was fitted without column names, and takes 'flag', 'price', 'count', 'size', in this order",
    )


@pytest.mark.parametrize(
    ("keep", "features"),
    [("id", NUMERIC), (" id , name", NUMERIC), ("size", ("id", "flag", "price", "count")), ("name", None)],
)
def test_a_numeric_column_that_is_kept_is_not_a_feature(keep: str, features: tuple[str, ...] | None) -> None:
    schema = pa.schema([pa.field("id", pa.int64()), *SCHEMA])
    if features is None:
        with pytest.raises(MissingColumns, match="has 5 numeric columns"):
            choose_features(PLAIN, None, schema, keep=keep)
    else:
        assert choose_features(PLAIN, None, schema, keep=keep)[0] == features


def test_a_numeric_column_that_is_kept_is_also_a_feature_if_the_model_needs_it() -> None:
    assert choose_features(PLAIN, None, SCHEMA, keep="count")[0] == NUMERIC


@pytest.mark.parametrize("takes", [3, 5, None])
def test_an_error_for_the_wrong_number_of_columns_names_the_numeric_ones(takes: int | None) -> None:
    said = "" if takes is None else f" and takes {takes} features"
    with pytest.raises(MissingColumns) as caught:
        choose_features(replace(PLAIN, n_features=takes), None, SCHEMA)
    assert str(caught.value) == (
        f"model m@v was fitted without column names{said}; the input has 4 numeric columns "
        "('flag', 'price', 'count', 'size'): name the features with --features a,b,c"
    )


def test_an_input_without_numeric_columns_is_refused() -> None:
    with pytest.raises(MissingColumns, match="has 0 numeric columns: name the features"):
        choose_features(replace(PLAIN, n_features=0), None, pa.schema({"name": pa.string()}))


def test_a_batch_whose_rows_are_all_broken_has_no_words() -> None:
    batch = pa.record_batch({"x": pa.array(["1", "oops", None]), "y": pa.array([1, 2, 3])})
    assert rows_with_words(batch, ["x", "y"], 10).to_pylist() == [1]
    assert rows_with_words(batch.slice(0, 0), ["x", "y"], 10).to_pylist() == []
