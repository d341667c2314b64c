"""Every estimator of scikit-learn gives the same scores in a worker as in the process that fitted it, or is refused."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.utils import all_estimators, get_tags
from sklearn.utils._test_common.instance_generator import _construct_instances
from sklearn.utils._testing import set_random_state
from sklearn.utils.estimator_checks import _enforce_estimator_tags_X, _enforce_estimator_tags_y
from threadpoolctl import threadpool_limits

from scoreline.storage.errors import ScorelineError
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.compiled.compiled_estimators import Uses
from scoreline.storage.models.compiled.extension import compile_estimators, is_available
from scoreline.storage.models.introspection import describe_features, describe_outputs, takes_one_column
from scoreline.storage.models.manifest import METHODS, Outputs
from scoreline.storage.typed_json import build
from scoreline.tasks.scoring.score import score_batch

ROWS, SPLIT = 60, 37
REASONS = {
    "novelty": r"it has only fit_predict\(\), for the rows it is fitted on: fit it with novelty=True",
    "fit_predict": r"cannot score new rows: it has only fit_predict\(\), for the rows it is fitted on",
    "fit_transform": r"cannot score new rows: it has only fit_transform\(\), for the rows it is fitted on",
    "nothing": r"cannot score: it has none of the methods predict, .*",
    "dicts": r"takes dicts, not the columns of a table: it is an? \w+",
    "images": r"takes images, not the columns of a table: it is an? \w+",
    "labels": r"takes sets of labels, not the columns of a table: it is an? \w+",
    "sparse": r"is sparse and has 1,048,576 columns; more than 512",
}
REFUSED = {
    "novelty": {"LocalOutlierFactor"},
    "fit_predict": {"AgglomerativeClustering", "DBSCAN", "HDBSCAN", "OPTICS", "SpectralClustering"},
    "fit_transform": {"ClassicalMDS", "MDS", "SpectralEmbedding", "TSNE"},
    "nothing": {
        "EmpiricalCovariance",
        "GraphicalLasso",
        "GraphicalLassoCV",
        "LedoitWolf",
        "MinCovDet",
        "NearestNeighbors",
        "OAS",
        "ShrunkCovariance",
        "SpectralBiclustering",
        "SpectralCoclustering",
    },
    "dicts": {"DictVectorizer", "FeatureHasher"},
    "images": {"PatchExtractor"},
    "labels": {"MultiLabelBinarizer"},
    "sparse": {"HashingVectorizer"},
}
TREES = {
    *("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"),
    *("ExtraTreesClassifier", "ExtraTreesRegressor", "RandomForestClassifier", "RandomForestRegressor", "Pipeline"),
}
"""Estimators that score rows in a compiled form even if there are several targets."""
COMPILED = TREES | {
    *("AdaBoostClassifier", "AdaBoostRegressor", "BaggingClassifier", "BaggingRegressor", "GradientBoostingClassifier"),
    *("GradientBoostingRegressor", "HistGradientBoostingClassifier", "HistGradientBoostingRegressor"),
    *("IsolationForest", "StackingClassifier", "StackingRegressor", "VotingClassifier", "VotingRegressor"),
    *("ColumnTransformer", "CountVectorizer", "FeatureUnion", "TfidfVectorizer"),
    *("MaxAbsScaler", "MinMaxScaler", "RobustScaler", "StandardScaler"),
}
"""Estimators that score rows in a compiled form, or contain one that does."""
ROUNDED: set[str] = set()
"""Estimators that round differently, by at most 4 units in the last place, if the memory layout of the input differs.

There are none, because tables have the memory layout of pandas, and arrays have that of NumPy.
"""
DISCRETE = {
    "GenericUnivariateSelect",
    "NeighborhoodComponentsAnalysis",
    "SelectFdr",
    "SelectFpr",
    "SelectFwe",
    "SelectKBest",
    "SelectPercentile",
    "SequentialFeatureSelector",
}
"""Estimators that are not classifiers but are fitted on classes."""


def numbers(estimator: Any, several: bool = False) -> tuple[pd.DataFrame, Any]:
    """Return a table that fits the estimator's tags, with the memory layout that pandas gives it, and a target.

    There are several targets if `several` is true, or if the estimator requires them.
    """
    tags, random = get_tags(estimator), np.random.default_rng(0)
    x = random.uniform(0.1, 3.0, (ROWS, 3 if type(estimator).__name__ == "SparseCoder" else 4))
    x = _enforce_estimator_tags_X(estimator, x).reshape(ROWS, -1)
    y = x[:, 0] + 2 * x[:, -1]
    labels = tags.estimator_type == "classifier" or type(estimator).__name__ in DISCRETE
    if several or not tags.target_tags.single_output:
        y = np.column_stack([y, x[:, 0] - x[:, -1]])
        return named(x), (y > np.median(y, axis=0)).astype(int) if labels else y
    if labels:
        binary = tags.classifier_tags is not None and not tags.classifier_tags.multi_class
        y = np.digitize(y, np.quantile(y, [0.5] if binary else [0.33, 0.66]))
        kind = object if type(estimator).__name__ == "SelfTrainingClassifier" else str
        return named(x), y if type(estimator).__name__ in DISCRETE else np.array(["high", "low", "mid"], kind)[y]
    return named(x), _enforce_estimator_tags_y(estimator, y)


def named(x: Any) -> pd.DataFrame:
    return pd.DataFrame(x, columns=[f"f{number}" for number in range(x.shape[1])])


def examples(names: bool, several: bool = False, having: Sequence[str] = ()) -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """Yield each estimator, fitted in every way in which scikit-learn itself tests it, and rows to score.

    If `several` is true, yield only estimators that accept several targets. Yield only those `having` these methods.
    """
    texts = pd.DataFrame(
        {"text": [f"{word} number {number}" for number in range(20) for word in ("a b", "c", "d e f")]}
    )
    for name, kind in all_estimators():
        if kind is FrozenEstimator:
            x, y = numbers(LogisticRegression())
            made = [FrozenEstimator(LogisticRegression().fit(given(x, names), y))]
        else:
            made = list(_construct_instances(kind))
        for estimator in made:
            if not all(hasattr(estimator, method) for method in having):
                continue  # before it is fitted, which takes most of the time
            set_random_state(estimator, 0)
            if several:
                if get_tags(estimator).target_tags.multi_output:
                    x, y = numbers(estimator, several)
                    yield name, estimator.fit(given(x, names), y), x
                continue
            if name in ("DictVectorizer", "FeatureHasher"):
                yield name, estimator.fit([{"a": 1.0}, {"b": 2.0}]), texts
            elif name == "MultiLabelBinarizer":
                yield name, estimator.fit([("a", "b"), ("b",)]), texts
            elif name == "PatchExtractor":
                yield name, estimator.fit(np.zeros((2, 10, 10))), texts
            elif takes_one_column(estimator) and name != "IsotonicRegression":
                yield name, estimator.fit(texts["text"].to_numpy(object)), texts
            else:
                x, y = numbers(estimator)
                if name == "MissingIndicator":
                    x = x.mask(x > 2.5)
                yield name, estimator.fit(given(x, names), y), x


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence warnings about few rows and iterations. Use one thread: on busy cores, threads wait for each other."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        yield


def given(x: pd.DataFrame, names: bool) -> Any:
    """Return the input that a user of scikit-learn passes to the estimator."""
    if "text" in x:
        return x["text"].to_numpy(object)
    return x if names else np.ascontiguousarray(x)


def described(model: Any) -> Bundle:
    """Return the bundle that a worker loads: compiled, and with outputs that were converted to JSON and back."""
    outputs = build(Outputs, json.loads(json.dumps(asdict(describe_outputs(model, None))))).with_tuples()
    names, count = describe_features({"model": model})
    manifest: Any = SimpleNamespace(ref="model", feature_names=names, n_features=count, outputs={"model": outputs})
    compiled = compile_estimators([("model", model)])
    return Bundle(models={"model": model}, manifest=manifest, manifest_sha256="", compiled=compiled)


def inferred(model: Any, method: str, x: Any) -> Any:
    """Return the result of scikit-learn itself, as columns."""
    said = getattr(model, method)(x)
    if isinstance(said, list):
        return np.hstack(said)
    said = said.toarray() if hasattr(said, "toarray") else np.asarray(said)
    return said.reshape(len(said), -1)


def scored(bundle: Bundle, method: str, x: pd.DataFrame) -> Any:
    """Return the columns that a worker writes for the rows."""
    done = score_batch(bundle, pa.RecordBatch.from_pandas(x), features=list(x.columns), keep=[], method=method)
    assert not done.rejected, done.rejected
    return np.column_stack([column.to_numpy() for column in done.table.columns])


def together(bundle: Bundle, x: pd.DataFrame) -> str | None:
    """Return a message if the default methods give different results when they are called together, else None."""
    methods = bundle.manifest.outputs["model"].default_methods
    rows = pa.RecordBatch.from_pandas(x)
    both = score_batch(bundle, rows, features=list(x.columns), keep=[], method=None).table
    if len(methods) == 1:
        return None
    apart = [score_batch(bundle, rows, features=list(x.columns), keep=[], method=method).table for method in methods]
    alone = {name: table.column(name) for table in apart for name in table.column_names}
    same = both.column_names == list(alone) and all(both.column(name).equals(column) for name, column in alone.items())
    return None if same else f"{methods} differ from each by itself"


@dataclass(kw_only=True)
class Walk:
    """Results for every estimator."""

    passed: dict[str, set[str]] = field(default_factory=dict)
    """Methods that score as scikit-learn itself does, by estimator."""
    refused: dict[str, str] = field(default_factory=dict)
    """Reasons of refusal, by estimator."""
    rounded: set[str] = field(default_factory=set)
    wrong: dict[str, str] = field(default_factory=dict)
    compiled: set[str] = field(default_factory=set)
    """Estimators of which a compiled form scored rows."""

    def reasons(self) -> dict[str, set[str]]:
        """Return the refused estimators by reason."""
        found: dict[str, set[str]] = {}
        for name, why in self.refused.items():
            reason = next((key for key, said in REASONS.items() if re.search(said, why)), why)
            found.setdefault(reason, set()).add(name)
        return found

    def table(self) -> str:
        """Return a table of estimators by method: passed, missing, or why the estimator is refused."""
        lines = [f"{'estimator':34}" + " ".join(f"{method:17}" for method in METHODS)]
        for name in sorted(self.passed | self.refused):
            has = self.passed.get(name, set())
            cells = " ".join(f"{'pass' if method in has else '-':17}" for method in METHODS)
            lines.append(f"{name:34}" + (f"refused: {self.refused[name]}" if name in self.refused else cells))
        methods = sum(map(len, self.passed.values()))
        lines.append(
            f"{len(self.passed)} estimators score by {methods} methods, {len(self.refused)} are refused, "
            f"{len(self.rounded)} round differently, {len(self.wrong)} are wrong"
        )
        return "\n".join(line.rstrip() for line in lines)


def walk(*, names: bool, several: bool) -> Walk:
    """Score with every method of every estimator in two batches, with scikit-learn itself and as a worker does."""
    done = Walk()
    with quietly():
        for name, model, x in examples(names, several):
            try:
                bundle, uses = described(model), Uses()
                for method in bundle.manifest.outputs["model"].methods:
                    for piece in (x[:SPLIT], x[SPLIT:].reset_index(drop=True)):
                        ours, theirs = scored(bundle, method, piece), inferred(model, method, given(piece, names))
                        if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                            np.testing.assert_array_max_ulp(ours, theirs, maxulp=4)
                            done.rounded.add(name)
                    done.passed.setdefault(name, set()).add(method)
                if (wrong_together := together(bundle, x)) is not None:
                    done.wrong[name] = wrong_together
                if uses:
                    done.compiled.add(name)
            except ScorelineError as error:
                done.refused[name] = str(error)
            except (AssertionError, ValueError, TypeError) as error:
                done.wrong[name] = str(error)
    return done


@pytest.mark.parametrize("names", [True, False], ids=["tables", "arrays"])
def test_every_estimator_scores_as_in_scikit_learn_or_is_refused_with_a_reason(names: bool) -> None:
    done = walk(names=names, several=False)
    print(done.table())  # noqa: T201
    assert done.wrong == {}
    assert done.reasons() == REFUSED
    assert done.rounded == ROUNDED
    assert done.compiled == (COMPILED if is_available() else set())
    assert done.passed.keys() | done.refused.keys() == {name for name, _ in all_estimators()}
    assert not done.passed.keys() & done.refused.keys()


def test_every_multi_output_estimator_scores_as_in_scikit_learn() -> None:
    done = walk(names=True, several=True)
    print(done.table())  # noqa: T201
    assert done.wrong == {}
    assert done.reasons() == {"novelty": {"LocalOutlierFactor"}, "nothing": {"NearestNeighbors"}}
    assert done.rounded == ROUNDED
    assert done.compiled == (TREES if is_available() else set())
    assert len(done.passed) > 40
    assert {name for name, methods in done.passed.items() if "predict_proba" in methods} >= {
        "DecisionTreeClassifier",
        "ExtraTreesClassifier",
        "KNeighborsClassifier",
        "MultiOutputClassifier",
        "RandomForestClassifier",
    }


def test_every_transformer_with_pandas_output_keeps_its_names_and_values() -> None:
    tried, sparse = 0, set()
    with quietly():
        for name, model, x in examples(True, having=("transform", "set_output")):
            if "text" in x:
                continue
            model.set_output(transform="pandas")
            try:
                theirs = model.transform(x)
            except ValueError:  # a sparse result cannot be converted to a DataFrame
                sparse.add(name)
                continue
            done = score_batch(
                described(model), pa.RecordBatch.from_pandas(x), features=list(x.columns), keep=[], method="transform"
            )
            assert done.table.column_names == list(theirs.columns), name
            assert np.array_equal(np.column_stack(done.table.columns), theirs.to_numpy(), equal_nan=True), name
            tried += 1
    assert tried > 60
    assert sparse == {
        "KBinsDiscretizer",
        "KNeighborsTransformer",
        "OneHotEncoder",
        "RadiusNeighborsTransformer",
        "RandomTreesEmbedding",
    }


if __name__ == "__main__":
    for heading, several in (("One target", False), ("Several targets", True)):
        print(heading, walk(names=True, several=several).table(), sep="\n", end="\n\n")  # noqa: T201
