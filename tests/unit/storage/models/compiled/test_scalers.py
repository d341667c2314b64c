"""Compiled scalers give the rows of scikit-learn to the last bit, or are not used."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PowerTransformer, RobustScaler, StandardScaler
from sklearn.utils import all_estimators
from sklearn.utils._test_common.instance_generator import _construct_instances

pytest.importorskip("scoreline.storage.models.compiled._scale", reason="there was no compiler to build the extension")

from scoreline.storage.kept_memory import MEMORY
from scoreline.storage.models.compiled import _scale, extension, scalers
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators, Uses
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.compiled.scalers import is_scaler

RANDOM = np.random.default_rng(0)
N_FEATURES = 5
NAMES = list("abcde")
X = RANDOM.normal(size=(700, N_FEATURES)) * [1, 1e-3, 3e5, 7, 1] + [0, 5, -1e6, 1, 0]
GAPS = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X)
KINDS = X[:, 0] > 0

SCALERS: dict[str, Callable[[], Any]] = {
    "standard": StandardScaler,
    "standard, no mean": lambda: StandardScaler(with_mean=False),
    "standard, no deviation": lambda: StandardScaler(with_std=False),
    "standard, neither": lambda: StandardScaler(with_mean=False, with_std=False),
    "robust": RobustScaler,
    "robust, not centered": lambda: RobustScaler(with_centering=False),
    "robust, not scaled": lambda: RobustScaler(with_scaling=False),
    "robust, unit variance": lambda: RobustScaler(unit_variance=True, quantile_range=(10.0, 60.0)),
    "extremes": MinMaxScaler,
    "extremes, clipped": lambda: MinMaxScaler((-0.3, 0.1), clip=True),
    "extremes, clipped at zero": lambda: MinMaxScaler(clip=True),
    "largest": MaxAbsScaler,
    "largest, clipped": lambda: MaxAbsScaler(clip=True),
}


def with_value(value: Any, dtype: Any = np.float64) -> np.ndarray:
    """Return rows with one such value in the middle."""
    rows = X[:40].astype(dtype)
    rows[20, 3:4] = np.asarray(value, dtype)  # a number alone would be converted, and be quiet
    return rows


def gathered(rows: np.ndarray, **options: Any) -> pd.DataFrame:
    """Return a table whose columns are arrays of their own."""
    table = pd.DataFrame(dict(enumerate(rows.T.copy())), copy=False, **options)
    return table.set_axis(pd.RangeIndex(rows.shape[1]), axis=1)


PAYLOADS = np.array([0x7FF8000000000123, 0xFFF8000000000456], np.uint64).view(np.float64)
SIGNALLING = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
SIGNALLING_32 = np.array([0xFF800001], np.uint32).view(np.float32)
TABLES: dict[str, Any] = {
    "float64": X,
    "float32": X.astype(np.float32),
    "by column": np.asfortranarray(X),
    "by column, float32": np.asfortranarray(X.astype(np.float32)),
    "every second row": X[::2],
    "columns of a wider table": np.hstack([X, X])[:, 2 : 2 + N_FEATURES],
    "rows in the opposite order": X[::-1],
    "one row for all": np.broadcast_to(X[:1], X.shape),
    "read-only": np.frombuffer(X.tobytes()).reshape(X.shape),
    "big-endian": X.astype(">f8"),
    "float16": (X % 7).astype(np.float16),
    "integers": (10 * X).astype(int),
    "booleans": X > 0,
    "objects": X.astype(object),
    "texts": X[:3].astype(str),
    "list": X[:3].tolist(),
    "sparse": sparse.csr_array(X),
    "one row": X[:1],
    "no row": X[:0],
    "one dimension": X[0],
    "three dimensions": X[np.newaxis],
    "too few columns": X[:, :3],
    "frame": pd.DataFrame(X),
    "frame of float32": pd.DataFrame(X.astype(np.float32)),
    "frame of columns": gathered(X),
    "frame of columns with gaps": gathered(GAPS),
    "frame of rows": pd.DataFrame(X.copy(), copy=False),
    "frame of rows and columns": pd.concat(
        [pd.DataFrame(X[:, :3].copy(), copy=False), pd.DataFrame(X[:, 3:])], axis=1, ignore_index=True
    ),
    "frame of one row": pd.DataFrame(X[:1]),
    "frame of one row of columns": gathered(X[:1]),
    "frame of two types": pd.DataFrame(X).astype({1: np.float32}),
    "frame with an index": gathered(X, index=np.arange(len(X))[::-1]),
    "frame with names": pd.DataFrame(X, columns=NAMES),
    "frame of nullable numbers": pd.DataFrame(X).astype("Float64"),
    "missing": with_value(np.nan),
    "missing, float32": with_value(np.nan, np.float32),
    "missing, with payloads": with_value(PAYLOADS[:1]),
    "missing, with a sign": with_value(PAYLOADS[1:]),
    "all missing": np.full((70, N_FEATURES), np.nan),
    "many missing": GAPS,
    "infinite": with_value(np.inf),
    "infinite, by column": np.asfortranarray(with_value(-np.inf)),
    "infinite, float32": with_value(-np.inf, np.float32),
    "infinite, frame": gathered(with_value(np.inf)),
    "missing and infinite": np.where(GAPS > 7, np.inf, GAPS),
    "almost infinite": with_value(1.7e308),
    "almost infinite, float32": with_value(-3e38, np.float32),
    "adds up to both infinities": np.where(RANDOM.random(X.shape) < 0.5, 3e38, -3e38).astype(np.float32),
    "huge": X * 1e250,
    "huge, float32": X.astype(np.float32) * np.float32(1e20),
    "denormal": X * 1e-320,
    "denormal, float32": (X * 1e-48).astype(np.float32),
    "zeros": -0.0 * X,
    "signals": with_value(SIGNALLING),
    "signals, float32": with_value(SIGNALLING_32, np.float32),
}
QUICK = {
    *("float64", "float32", "by column", "by column, float32", "read-only", "one row", "missing", "missing, float32"),
    *("frame", "frame of float32", "frame of columns", "frame of columns with gaps", "frame of rows"),
    *("frame of rows and columns", "frame with an index", "missing, with payloads"),
    *("missing, with a sign", "all missing", "many missing", "huge", "huge, float32"),
    *("denormal", "denormal, float32", "zeros"),
}
"""The tables that are scaled without scikit-learn."""


def compiled_of(model: Any, number: int = 1) -> CompiledEstimators:
    compiled = compile_estimators([("model", model)])
    assert [one.reason for one in compiled.found] == [None] * number
    return compiled


def outcome(model: Any, x: Any, method: str = "transform") -> Any:
    """Return the result with its type and layout, or the error, and every warning with its place."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = getattr(model, method)(x)
        except (ValueError, TypeError, FloatingPointError) as error:
            result = None
            found: Any = type(error), str(error)
    if result is not None:
        rows = result.data if sparse.issparse(result) else np.asarray(result)
        labels = (list(result.index), list(result.columns)) if isinstance(result, pd.DataFrame) else ()
        layout = rows.dtype, rows.shape, rows.strides, rows.flags.writeable
        found = type(result), labels, layout, rows.tobytes()
        if isinstance(x, np.ndarray):
            assert not np.shares_memory(rows, x)
    return found, [(str(one.message), one.category, one.filename, one.lineno) for one in caught]


def same_in_use(model: Any, x: Any, compiled: CompiledEstimators, method: str = "transform") -> bool:
    """Compare with scikit-learn. Return whether a compiled form was used."""
    before = np.array(x)
    expected = outcome(model, x, method)
    with compiled.in_use() as used:
        assert outcome(model, x, method) == expected
    assert before.dtype == object or np.asarray(x).tobytes() == before.tobytes()
    return bool(used)


@pytest.mark.parametrize("fitted_on", ["float64", "float32"])
@pytest.mark.parametrize("name", SCALERS)
def test_results_errors_and_warnings_are_those_of_scikit_learn(name: str, fitted_on: str) -> None:
    model = SCALERS[name]().fit(TABLES[fitted_on])
    compiled = compiled_of(model)
    assert {table for table, x in TABLES.items() if same_in_use(model, x, compiled)} == QUICK


@pytest.mark.parametrize("n_features", [1, 2, 255, 256, 257, 600])
@pytest.mark.parametrize("name", ["standard", "robust", "extremes, clipped"])
def test_rows_of_any_width_are_scaled(name: str, n_features: int) -> None:
    x = RANDOM.normal(size=(300, n_features))
    model = SCALERS[name]().fit(x)
    compiled = compiled_of(model)
    for rows in (x, x[:7], np.asfortranarray(x), x.astype(np.float32), pd.DataFrame(x), gathered(x)):
        assert same_in_use(model, rows, compiled)


@pytest.mark.parametrize(
    ("columns", "quick"),
    [
        (NAMES, True),
        (list("abced"), False),
        (["a", "b", "c", "d", "f"], False),
        ([0, 1, 2, 3, 4], False),
        (list("aabcd"), False),
        (list("abcdef"), False),
        (None, False),
    ],
)
def test_tables_with_other_names_are_left_to_scikit_learn(columns: list[Any] | None, quick: bool) -> None:
    model = StandardScaler().fit(pd.DataFrame(X, columns=NAMES))
    wide = np.hstack([X, X])[:, : len(columns or NAMES)]
    table = wide if columns is None else pd.DataFrame(wide, columns=columns)
    assert same_in_use(model, table, compiled_of(model)) is quick


@pytest.mark.parametrize("output", ["default", "pandas"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_results_are_the_containers_that_are_asked_for(output: str, everywhere: bool) -> None:
    model = StandardScaler().fit(pd.DataFrame(X, columns=NAMES))
    if not everywhere:
        model.set_output(transform=output)
    with sklearn.config_context(transform_output=output if everywhere else "default"):
        compiled = compiled_of(model)
        for table in (pd.DataFrame(X, columns=NAMES), gathered(GAPS, index=range(5, 705)).set_axis(NAMES, axis=1)):
            assert same_in_use(model, table, compiled)
            assert isinstance(model.transform(table), pd.DataFrame) is (output == "pandas")


def test_unusual_settings_leave_rows_to_scikit_learn() -> None:
    model = MinMaxScaler().fit(X)
    compiled = compiled_of(model)
    with sklearn.config_context(assume_finite=True):
        assert not same_in_use(model, TABLES["infinite"], compiled)
    with np.errstate(under="raise"):
        assert not same_in_use(model, TABLES["denormal"], compiled)


def test_arguments_reach_scikit_learn() -> None:
    model = StandardScaler().fit(X)
    with compiled_of(model).in_use() as used:
        rows = X.copy()
        assert model.transform(rows, copy=False) is rows
        again = X.copy()
        assert model.transform(again, False) is again
        with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
            model.transform(X, wrong=1)
    assert not used


def values(kind: Any) -> st.SearchStrategy[np.ndarray]:
    floats = st.floats(width=np.dtype(kind).itemsize * 8)
    return arrays.arrays(kind, st.tuples(st.integers(1, 40), st.just(2)), elements=floats)


@given(
    fitted=arrays.arrays(np.float64, (6, 2), elements=st.floats(-1e300, 1e300)),
    fitted_on=st.sampled_from([np.float64, np.float32]),
    name=st.sampled_from(sorted(SCALERS)),
    x=values(np.float64) | values(np.float32),
    by_column=st.booleans(),
)
@example(fitted=np.zeros((6, 2)), fitted_on=np.float64, name="standard", x=np.full((2, 2), -0.0), by_column=False)
def test_any_values_are_scaled_as_by_scikit_learn(
    fitted: np.ndarray, fitted_on: Any, name: str, x: np.ndarray, by_column: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = SCALERS[name]().fit(fitted.astype(fitted_on))
        except ValueError:  # of infinities
            return
        compiled = compile_estimators([("model", model)])
    assert compiled.found[0].reason in (None, "its numbers are missing, infinite, too large or too small")
    same_in_use(model, np.asfortranarray(x) if by_column else x, compiled)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("name", SCALERS)
def test_values_on_both_sides_of_the_limit_are_scaled_as_by_scikit_learn(name: str, kind: Any) -> None:
    model = SCALERS[name]().fit(X * 1e-9)
    compiled = compiled_of(model)
    _, scalings = scalers.compile_scaler(model)
    limit = kind(scalings[np.dtype(kind)].limit)
    for sign in (1, -1):
        assert same_in_use(model, with_value(sign * np.nextafter(limit, kind(0)), kind), compiled)
        assert not same_in_use(model, with_value(sign * limit, kind), compiled)


@pytest.mark.parametrize("name", SCALERS)
def test_scalers_of_extreme_numbers_warn_as_scikit_learn_does(name: str) -> None:
    """Each step of a formula may overflow, and a scale may be too small for float32."""
    for factor in (1e-320, 1e-300, 1e-40, 1e30, 1e39, 1e150, 1e290):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SCALERS[name]().fit(X * factor)
            compiled = compile_estimators([("model", model)])
        for x in (X, X * factor, X * 1e299, X * 1e-305):
            same_in_use(model, x, compiled)
            with np.errstate(over="ignore"):
                narrow = x.astype(np.float32)
            same_in_use(model, narrow, compiled)


def fitted(model: Any, x: Any = X) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, KINDS)


class OwnScaler(StandardScaler):
    """A scaler of the user, which may do anything."""


def replaced_transform() -> Any:
    model = fitted(StandardScaler())
    model.transform = lambda x: x
    return model


def with_numbers(name: str, numbers: Any) -> Any:
    model = fitted(StandardScaler())
    setattr(model, name, numbers)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: fitted(StandardScaler(copy=False)), "it changes the rows themselves"),
        (lambda: fitted(PowerTransformer()), "it changes the rows themselves"),
        (replaced_transform, "its method transform was replaced"),
        (
            lambda: fitted(StandardScaler(), np.where(np.arange(5) == 2, np.nan, X)),
            "its numbers are missing, infinite, too large or too small",
        ),
        (lambda: with_numbers("scale_", np.zeros(5)), "its numbers are missing, infinite, too large or too small"),
        (lambda: with_numbers("mean_", np.zeros(4)), "its numbers are not float64 or float32, one for each feature"),
        (
            lambda: fitted(RobustScaler(), TABLES["float16"]),
            "its numbers are not float64 or float32, one for each feature",
        ),
        (lambda: with_numbers("mean_", None), "its fitted state is not as expected (AttributeError: "),
        (
            lambda: fitted(MaxAbsScaler(), sparse.csr_array((700, 16_385))),
            "rows of so many features (16,385) are not compared",
        ),
    ],
)
def test_other_scalers_are_left_to_scikit_learn(model: Callable[[], Any], reason: str) -> None:
    compiled = compile_estimators([("model", model())])
    assert not compiled
    assert (compiled.found[0].reason or "").startswith(reason)


def test_own_scalers_and_those_that_are_not_fitted_are_not_looked_at() -> None:
    assert not compile_estimators([("own", OwnScaler().fit(X)), ("template", StandardScaler())]).found


def test_no_scaler_is_compiled_for_other_versions_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn, "__version__", "1.10.0")
    (one,) = compile_estimators([("model", StandardScaler().fit(X))]).found
    assert one.reason == "the internals of scikit-learn 1.10.0 are not known"


@pytest.mark.parametrize("place", [0, 4_321])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("names", [NAMES, None])
def test_a_scaler_with_another_bit_is_not_used(
    names: list[str] | None, kind: Any, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = _scale.scale

    def wrong(x: Any, out: np.ndarray, *rest: Any) -> bool:
        accepted = scale(x, out, *rest)
        if out.dtype == kind:
            out.reshape(-1).view(np.uint8)[place % out.nbytes] ^= 1
        return accepted

    monkeypatch.setattr(_scale, "scale", wrong)
    (one,) = compile_estimators([("model", StandardScaler().fit(pd.DataFrame(X, columns=names) if names else X))]).found
    assert one.reason == f"its results for rows of {np.dtype(kind)} differ from those of scikit-learn"


def test_a_scaler_that_refuses_the_rows_of_the_comparison_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scale, "scale", lambda *arguments: False)
    (one,) = compile_estimators([("model", StandardScaler().fit(X))]).found
    assert one.reason == "its results for rows of float64 differ from those of scikit-learn"


def test_scalers_within_other_estimators_are_compiled() -> None:
    frame = pd.DataFrame(X, columns=NAMES)
    models = {
        "pipeline": (1, make_pipeline(StandardScaler(), LogisticRegression()), X),
        "columns": (
            2,
            make_pipeline(
                make_column_transformer((RobustScaler(), list("ab")), (MinMaxScaler(clip=True), list("cde"))),
                LogisticRegression(),
            ),
            frame,
        ),
        "union": (2, make_pipeline(make_union(MaxAbsScaler(), StandardScaler()), LogisticRegression()), frame),
        "bagging": (3, BaggingClassifier(make_pipeline(StandardScaler(), LogisticRegression()), 3, random_state=0), X),
        "search": (
            1,
            GridSearchCV(make_pipeline(MinMaxScaler(), LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2),
            X,
        ),
    }
    for number, model, x in models.values():
        compiled = compiled_of(fitted(model, x), number)
        assert compiled.summary() == f"{number} of {number} scalers compiled"
        assert same_in_use(model, x, compiled, "predict_proba")


def test_every_scaler_of_scikit_learn_has_its_own_results() -> None:
    found = set()
    for kind in (kind for _, kind in all_estimators() if kind.__module__ == StandardScaler.__module__):
        for model in filter(is_scaler, _construct_instances(kind)):
            compiled = compiled_of(fitted(model))
            assert all(same_in_use(model, TABLES[table], compiled) for table in QUICK)
            found.add(kind)
    assert found == {StandardScaler, RobustScaler, MinMaxScaler, MaxAbsScaler}


def test_a_model_may_keep_and_change_its_rows() -> None:
    x = np.tile(X, (60, 1))
    model = StandardScaler().fit(X)
    expected = model.transform(x)
    with compiled_of(model).in_use():
        kept = model.transform(x)
        assert not np.shares_memory(kept, model.transform(x))
        place = kept.ctypes.data
        kept[:] = 0
        other = model.transform(x)
        assert other.ctypes.data != place
        assert other.tobytes() == expected.tobytes()
        del kept, other
    assert MEMORY.unused_bytes >= x.nbytes
    MEMORY.release()


@pytest.mark.parametrize("name", ["standard", "standard, neither", "robust", "extremes", "largest"])
@pytest.mark.parametrize("change", ["fit", "partial_fit", "fit_transform", "set_params"])
def test_a_scaler_that_is_changed_while_it_is_in_use_has_its_new_results(name: str, change: str) -> None:
    """A function of a `FunctionTransformer` may scale each batch by its own numbers."""
    if not hasattr(model := SCALERS[name](), change):
        return
    with compiled_of(fitted(model)).in_use() as used:
        if change == "set_params":
            model.set_params(copy=False)
        else:
            getattr(model, change)(X[:50] * 3 + 1)
        found = model.transform(x := X.copy())
        assert not used
    assert found.tobytes() == model.transform(X.copy()).tobytes()
    assert np.shares_memory(found, x) == (change == "set_params")


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copy_that_is_made_while_a_scaler_is_compiled_has_its_own_method(copied: Callable[[Any], Any]) -> None:
    model = StandardScaler().fit(X)
    with compiled_of(model).in_use():
        found = copied(model)
    before = Uses()
    assert found.transform(X).tobytes() == model.transform(X).tobytes()
    assert not before
    assert found.transform.__self__ is found


def test_compiled_scalers_take_little_memory() -> None:
    x = RANDOM.normal(size=(10, 1_000))
    assert compiled_of(StandardScaler().fit(x)).nbytes == (8 + 4) * 2 * 1_000
    assert compiled_of(StandardScaler().fit(X)).nbytes < 10_000


def test_arguments_that_do_not_fit_are_refused() -> None:
    two, rule = np.ones(2), (1e9, -np.inf, np.inf, False)
    run = np.zeros(6)
    for x, out, first, second, message in (
        (run, np.zeros(5), two, two, "expected 6 results, got 5"),
        (run, np.zeros(6), two, np.ones(3), "expected two numbers for each feature"),
        (run, np.zeros(6), np.ones(0), np.ones(0), "expected two numbers for each feature"),
        (np.zeros((2, 3)), np.zeros((2, 4)), two, two, "expected 4 rows, got 3"),
        (np.zeros((3, 2)), np.zeros((2, 2)), two, two, "expected 2 columns, got 3, and 2 for the results"),
        (np.zeros((2, 3)), np.zeros((3, 3)), two, two, "expected 2 columns, got 2, and 3 for the results"),
        ([np.zeros(3)], np.zeros((2, 3)), two, two, "expected 2 columns, got 1, and 2 for the results"),
        ([np.zeros(3), np.zeros(2)], np.zeros((2, 3)), two, two, "expected 3 rows, got 2"),
        (run, np.zeros(6), two.astype("f4"), two, "Buffer dtype mismatch"),
        (run.astype("f4"), np.zeros(6), two, two, "Buffer dtype mismatch"),
        (run[::2], np.zeros(3), two, two, "not C-contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            _scale.scale(x, out, first, second, *rule)
    assert _scale.scale(run[:0], np.zeros(0), two, two, *rule)
    assert _scale.scale(np.zeros((2, 0)), np.zeros((2, 0)), two, two, *rule)


def test_changed_parameters_have_another_version() -> None:
    """If this test fails, increase SCALE_VERSION in `extension`, VERSION in `_scale.pyx`, and write the new values."""
    source = (Path(extension.__file__).parent / "_scale.pyx").read_text()
    (declared,) = re.findall(r"^def scale\(.*\):$", source, re.M)
    assert (extension.SCALE_VERSION, hashlib.sha256(declared.encode()).hexdigest()[:16]) == (1, "041fa88d9d691da6")


@pytest.mark.parametrize("version", [None, 0])
def test_an_extension_of_another_version_is_not_used(version: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extension.is_available()
    if version is None:
        monkeypatch.delattr(_scale, "VERSION")
    else:
        monkeypatch.setattr(_scale, "VERSION", version)
    assert not extension.is_available()
    assert compile_estimators([("model", StandardScaler().fit(X))]) == CompiledEstimators()
