"""Measure what rejected rows cost, in two processes.

Claims: If a step of scikit-learn refuses 5% of the rows of a job, the job takes at most 1.3 times as long as if all
rows could be scored. This holds for each kind of value that steps refuse. A model of the user's own is called at most
10 times for each rejected row if 1% are rejected, and 3 times if 20% are. A job over its reject budget has failed
within 5 s.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, PowerTransformer, RobustScaler, StandardScaler

from benchmarks.measure import no_options, record_figure
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
    """Return rows that every model takes."""
    numbers = pd.DataFrame(random.uniform(0.1, 1.0, (rows, len(NUMBERS))), columns=NUMBERS)
    return numbers.assign(town=TOWNS[random.integers(0, len(TOWNS), rows)].astype(object))


def kinds(random: np.random.Generator) -> dict[str, tuple[Any, str, Any]]:
    """Return, for each kind of value that is refused, a fitted model that refuses it, the column, and the value."""
    known = frame(random, 5_000)
    labels = (known["x0"] + random.normal(0, 0.1, len(known)) > 0.5).astype(int)

    def encoding(encoder: Any, model: Any) -> Any:
        return make_pipeline(make_column_transformer((encoder, ["town"]), (StandardScaler(), NUMBERS)), model)

    def numbers(step: Any, model: Any) -> Any:
        return make_pipeline(make_column_transformer((step, NUMBERS)), model)

    def forest() -> Any:
        return RandomForestClassifier(50, max_depth=8, random_state=0)

    made = {
        "unknown category (OneHotEncoder)": (encoding(OneHotEncoder(), LogisticRegression()), "town", "elsewhere"),
        "unknown category (OrdinalEncoder)": (encoding(OrdinalEncoder(), forest()), "town", "elsewhere"),
        "unknown category (calibrated)": (
            CalibratedClassifierCV(encoding(OneHotEncoder(), LogisticRegression()), cv=3),
            "town",
            "elsewhere",
        ),
        "NaN": (encoding(OneHotEncoder(), LogisticRegression()), "x3", np.nan),
        "infinity": (encoding(OneHotEncoder(), LogisticRegression()), "x3", np.inf),
        "too large for float32": (numbers(RobustScaler(), forest()), "x3", 1e300),
        "negative (Box-Cox)": (numbers(PowerTransformer("box-cox"), Ridge()), "x3", -1.0),
    }
    return {name: (model.fit(known, labels), column, value) for name, (model, column, value) in made.items()}


class Own(RegressorMixin, BaseEstimator):
    """A model of the user's own that refuses some rows, and takes as little time as possible to score the others."""

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
    """Return the number of calls for each rejected row. A row fails because of one value, or of two values together."""
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
    """Return rows of which a share has the value."""
    bad = np.random.default_rng(5).random(len(rows)) < share
    return pa.Table.from_pandas(rows.assign(**{column: rows[column].mask(bad, value)}), preserve_index=False)


def main() -> None:
    """Measure and print."""
    no_options(__doc__)
    random = np.random.default_rng(4)
    for share, most in CALLS.items():
        for of_one_value, what in ((True, "one value"), (False, "two values together")):
            took = [calls_for_each(random, share, of_one_value=of_one_value) for _ in range(RUNS)]
            figure = f"calls_{100 * share:.0f}_{'one' if of_one_value else 'two'}"
            about = f"calls of an own model for each rejected row, {share:.0%} refused for {what}"
            record_figure(f"rejects_{figure}", about, took, most)
    rows = frame(random, ROWS)
    with Stand(Path(".scoreline"), processes=2) as stand:
        stand.put("in/clean.parquet", pa.Table.from_pandas(rows, preserve_index=False))
        for number, (kind, (model, column, value)) in enumerate(kinds(random).items()):
            name, features = f"model-{number}", [str(feature) for feature in model.feature_names_in_]
            stand.publish(name, model)
            stand.warm(name, pa.Table.from_pandas(rows[:10_000], preserve_index=False), features)
            stand.put(f"in/{number}.parquet", damage(rows, column, value, SHARE))
            ratios = []
            for _ in range(RUNS):
                clean = stand.score(name, "in/clean.parquet")
                bad = stand.score(name, f"in/{number}.parquet", max_rejected="100%", expected="partial")
                ratios.append((bad.seconds or 0.0) / (clean.seconds or 1.0))
            about = f"s of a job with 5% rejected / of one without: {kind}"
            record_figure(f"rejects_{number}", about, ratios, MOST_TIMES)
        stand.put("in/over.parquet", damage(rows, "town", "elsewhere", OVER))
        took = []
        for _ in range(RUNS):
            begun = time.perf_counter()
            stand.score("model-0", "in/over.parquet", expected="failed")
            took.append(time.perf_counter() - begun)
        record_figure("rejects_over", "s until a job with 20% rejected and a budget of 1% has failed", took, MOST_S)


if __name__ == "__main__":
    main()
