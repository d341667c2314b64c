"""Measure what rejected rows cost, in two processes.

Claims: If a step of scikit-learn refuses 5% of the rows of a job, the job takes at most 1.3 times the CPU time of a job
without such rows. This holds for each kind of refused value, even if the processes remember no refused values of the
model; each run therefore uses a new version of the model. A model of the user's own is called at most 10 times for each
rejected row if 1% of the rows are rejected, and 3 times if 20% are rejected. If a job rejects more rows than
`max_rejected` allows, it fails within 5 s after it is submitted.

The CPU time is that of all processes of the worker. Other load on the machine hardly affects CPU time. For each kind of
refused value, two more figures are recorded without a limit: the CPU time of a second job with the same version of the
model, and the elapsed time of the first job.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.decomposition import NMF
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import AdditiveChi2Sampler
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from benchmarks.measure import positive, record_figure
from benchmarks.stand import Stand
from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.introspection import describe_features, describe_outputs
from scoreline.tasks.scoring.score import score_batch

ROWS, RUNS, BATCH = 500_000, 3, 65_536
SHARE, MOST_TIMES = 0.05, 1.3
CALLS = {0.01: 10.0, 0.2: 3.0}
"""Maximum number of calls for each rejected row, by the share of rejected rows."""
OVER, MOST_S = 0.2, 5.0
NUMBERS = [f"x{number}" for number in range(10)]
TOWNS = np.array([f"town {number}" for number in range(40)])


def frame(random: np.random.Generator, rows: int) -> pd.DataFrame:
    """Return rows that every model of this benchmark can score."""
    numbers = pd.DataFrame(random.uniform(0.1, 1.0, (rows, len(NUMBERS))), columns=NUMBERS)
    return numbers.assign(town=TOWNS[random.integers(0, len(TOWNS), rows)].astype(object))


def models() -> dict[str, tuple[Callable[[], Any], str, Any]]:
    """Return, for each kind of refused value: a maker of a model that refuses the value, the column, and the value."""

    def encoding(encoder: Any, model: Any) -> Any:
        return make_pipeline(make_column_transformer((encoder, ["town"]), (StandardScaler(), NUMBERS)), model)

    def numbers(*steps: Any) -> Any:
        return make_pipeline(make_column_transformer((steps[0], NUMBERS)), *steps[1:])

    def forest() -> Any:
        return RandomForestClassifier(50, max_depth=8, random_state=0)

    def one_hot() -> Any:
        return encoding(OneHotEncoder(), LogisticRegression())

    def both() -> Any:
        return make_union(encoding(OneHotEncoder(), "passthrough"), encoding(OrdinalEncoder(), "passthrough"))

    def stack() -> Any:
        return StackingClassifier([("a", one_hot()), ("b", encoding(OrdinalEncoder(), LogisticRegression()))], cv=2)

    def bins() -> Any:
        return numbers(KBinsDiscretizer(quantile_method="averaged_inverted_cdf"), Ridge())

    new = "elsewhere"
    return {
        "unknown category (OneHotEncoder)": (one_hot, "town", new),
        "unknown category, each another (OneHotEncoder)": (one_hot, "town", None),
        "unknown category (OrdinalEncoder)": (lambda: encoding(OrdinalEncoder(), forest()), "town", new),
        "unknown category (FeatureUnion)": (lambda: make_pipeline(both(), Ridge()), "town", new),
        "unknown category (calibrated)": (lambda: CalibratedClassifierCV(one_hot(), cv=3), "town", new),
        "unknown category (search)": (
            lambda: GridSearchCV(one_hot(), {"logisticregression__C": [1.0]}, cv=2),
            "town",
            new,
        ),
        "unknown category (stacking)": (stack, "town", new),
        "NaN": (one_hot, "x3", np.nan),
        "NaN (TargetEncoder)": (lambda: encoding(TargetEncoder(), LogisticRegression()), "x3", np.nan),
        "NaN (KBinsDiscretizer)": (bins, "x3", np.nan),
        "NaN behind a scaler": (lambda: numbers(StandardScaler(), LogisticRegression()), "x3", np.nan),
        "infinity": (one_hot, "x3", np.inf),
        "infinity (KBinsDiscretizer)": (bins, "x3", np.inf),
        "too large for float32": (lambda: numbers(RobustScaler(), forest()), "x3", 1e300),
        "negative (Box-Cox)": (lambda: numbers(PowerTransformer("box-cox"), Ridge()), "x3", -1.0),
        "negative (chi-square)": (lambda: numbers("passthrough", AdditiveChi2Sampler(), Ridge()), "x3", -1.0),
        "negative (NMF)": (lambda: numbers("passthrough", NMF(3, max_iter=50, tol=0.01), Ridge()), "x3", -1.0),
        "NaN made by a step, of a column that is not known": (
            lambda: numbers(FunctionTransformer(np.log), Ridge()),
            "x3",
            -1.0,
        ),
        "text that is no number": (lambda: numbers(SimpleImputer(), Ridge()), "x3", "n/a"),
    }


def fit(make: Callable[[], Any]) -> Any:
    """Return a fitted model."""
    random = np.random.default_rng(4)
    known = frame(random, 5_000)
    labels = (known["x0"] + random.normal(0, 0.1, len(known)) > 0.5).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make().fit(known, labels)


class Own(RegressorMixin, BaseEstimator):
    """A model that is not from scikit-learn. The model refuses some rows, and scores other rows as fast as possible."""

    def __init__(self, refuses: Callable[[Any], Any]) -> None:
        self.refuses = refuses
        self.calls = 0

    def fit(self, x: pd.DataFrame, y: Any) -> Own:
        """Remember the columns."""
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        return self

    def predict(self, x: pd.DataFrame) -> Any:
        """Return zeros, or raise an error if one of the rows is refused."""
        self.calls += 1
        if np.any(self.refuses(x)):
            raise ValueError("refused")
        return np.zeros(len(x))


def calls_for_each(random: np.random.Generator, share: float, *, of_one_value: bool) -> float:
    """Return the calls per rejected row. A row is rejected because of one value, or of two values together."""
    rows = frame(random, BATCH)[NUMBERS]
    product = rows["x3"] if of_one_value else rows["x3"] * rows["x4"]
    limit = product.quantile(1 - share)
    model = Own(lambda x: (x["x3"] if of_one_value else x["x3"] * x["x4"]) > limit).fit(rows, None)
    names, count = describe_features({"model": model})
    manifest: Any = types.SimpleNamespace(
        ref="own", feature_names=names, n_features=count, outputs={"model": describe_outputs(model, None)}
    )
    bundle = Bundle(models={"model": model}, manifest=manifest, manifest_sha256="")
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    done = score_batch(bundle, batch, features=NUMBERS, keep=(), method=None)
    return model.calls / len(done.rejected)


def damage(rows: pd.DataFrame, column: str, value: Any, share: float) -> pa.Table:
    """Put a value into a fraction of the rows. If the value is None, each of these rows gets a different text."""
    bad = np.random.default_rng(5).random(len(rows)) < share
    if value is None:
        others = pd.Series([f"place {number}" for number in range(len(rows))], dtype=object)
        damaged = rows[column].mask(bad, others)
    elif isinstance(value, str):
        damaged = rows[column].astype(str).mask(bad, value)
    else:
        damaged = rows[column].mask(bad, value)
    return pa.Table.from_pandas(rows.assign(**{column: damaged}), preserve_index=False)


def measure_calls() -> None:
    """Measure how often a model of the user's own is called."""
    random = np.random.default_rng(4)
    for share, most in CALLS.items():
        for of_one_value, what in ((True, "one value"), (False, "two values together")):
            took = [calls_for_each(random, share, of_one_value=of_one_value) for _ in range(RUNS)]
            figure = f"calls_{100 * share:.0f}_{'one' if of_one_value else 'two'}"
            about = f"calls of an own model for each rejected row, {share:.0%} refused for {what}"
            record_figure(f"rejects_{figure}", about, took, most)


def measure_kinds(only: str, runs: int) -> None:
    """Measure jobs with and without rejected rows in turn, for each kind of refused value."""
    rows = frame(np.random.default_rng(4), ROWS)
    with Stand(Path(".scoreline"), processes=2) as stand:

        def score(name: str, key: str, **options: Any) -> tuple[float, float]:
            before = stand.worker_cpu()
            done = stand.score(name, key, **options)
            return stand.worker_cpu() - before, done.seconds or 0.0

        for number, (kind, (make, column, value)) in enumerate(models().items()):
            if only not in kind:
                continue
            model = fit(make)
            features = [str(feature) for feature in model.feature_names_in_]
            as_text = isinstance(value, str) and column in NUMBERS
            sound = rows.assign(**{column: rows[column].astype(str)}) if as_text else rows
            clean, bad = pa.Table.from_pandas(sound, preserve_index=False), damage(rows, column, value, SHARE)
            stand.put(f"in/{number}-clean.parquet", clean)
            stand.put(f"in/{number}-bad.parquet", bad)
            took = []
            for run in range(runs):
                name = f"model-{number}-{run}"  # no process remembers refused values of a new model
                stand.publish(name, model)
                stand.warm(name, clean.slice(0, 10_000), features)
                without = score(name, f"in/{number}-clean.parquet")
                first, again = (
                    score(name, f"in/{number}-bad.parquet", max_rejected="100%", expected="partial") for _ in range(2)
                )
                took.append((first[0] / without[0], again[0] / without[0], first[1] / without[1], without[0]))
            ratios, later, elapsed, cpu = zip(*took, strict=True)
            without_s = f"{statistics.median(cpu):.2f} s without"
            about = f"CPU of the first job with 5% rejected / of one without: {kind} ({without_s})"
            record_figure(f"rejects_{number}", about, ratios, MOST_TIMES)
            record_figure(f"rejects_{number}_again", f"the same of a second job: {kind}", later)
            record_figure(f"rejects_{number}_elapsed", f"elapsed time of the first job, likewise: {kind}", elapsed)


def measure_over_budget(*, directory: bool) -> None:
    """Measure the elapsed and CPU seconds until a job fails because it rejects too many rows."""
    store = "a directory" if directory else "S3"
    make, column, value = models()["unknown category (OneHotEncoder)"]
    rows = frame(np.random.default_rng(4), ROWS)
    with Stand(Path(".scoreline"), processes=2, directory=directory) as stand:
        model = fit(make)
        stand.publish("over", model)
        stand.warm("over", pa.Table.from_pandas(rows[:10_000], preserve_index=False), [*NUMBERS, "town"])
        stand.put("in/over.parquet", damage(rows, column, value, OVER))
        took, cpu = [], []
        for _ in range(RUNS):
            begun, before = time.perf_counter(), stand.all_cpu()
            stand.score("over", "in/over.parquet", expected="failed")
            took.append(time.perf_counter() - begun)
            cpu.append(stand.all_cpu() - before)
    about = f"s until a job with 20% rejected and a budget of 1% has failed, on {store}"
    record_figure(f"rejects_over_{'directory' if directory else 's3'}", about, took, MOST_S)
    about = f"CPU seconds of all processes until then, on {store}"
    record_figure(f"rejects_over_cpu_{'directory' if directory else 's3'}", about, cpu)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("calls", "kinds", "over"), default=("calls", "kinds", "over"))
    parser.add_argument("--kind", default="", help="only kinds with this in their names")
    parser.add_argument("--runs", type=positive, default=RUNS, help="jobs with and without rejected rows, of each kind")
    options = parser.parse_args()
    if "calls" in options.parts:
        measure_calls()
    if "kinds" in options.parts:
        measure_kinds(options.kind, options.runs)
    if "over" in options.parts:
        for directory in (True, False):
            measure_over_budget(directory=directory)


if __name__ == "__main__":
    main()
