"""The same work for every contender: two million rows of twenty columns in eight Parquet files, and six models.

`prepared` makes these files and models from a fixed seed, unless they exist.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DATA = Path(__file__).resolve().parents[1] / ".cache" / "bench"
ROWS = 2_000_000
LEAST_ROWS = 160_000
"""Minimum number of rows. A smaller job of the logistic regression may be too short to show its pace."""
FILES = 8
PROCESSES = 2
COLUMNS = tuple(f"x{number}" for number in range(20))
MODELS = ("logistic", "boosting", "gradient-boosting", "forest", "deep-forest", "text")
SHAPED = ("groups", "fewer-files")
"""Shapes of `benchmarks.shapes` that peers score too, by models of the same names."""
SHAPED_COLUMNS = 18
RESULT = pd.DataFrame(
    {
        name: pd.Series(dtype=kind)
        for name, kind in (("id", "int64"), ("prediction", "int64"), ("proba_0", "float64"), ("proba_1", "float64"))
    }
)
"""The columns and types of a result."""
_WORDS = ("good", "bad", "slow", "fast", "late", "early", "broken", "fine", "cheap", "dear", "loud", "quiet")


def prepared(rows: int = ROWS) -> Path:
    """Return the folder of data and models; first write both, unless this version of the module has written them."""
    folder = DATA / f"data-{rows}"
    done, recipe = folder / f"rows-{rows}", _recipe()
    if done.exists() and done.read_text() == recipe:
        return folder
    done.unlink(missing_ok=True)
    random = np.random.default_rng(7)
    for name, tables in (("numbers", _numbers(random, rows)), ("text", _texts(random, rows // 4))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).iterdir():
            old.unlink()
        for number, table in enumerate(tables):
            pq.write_table(table, folder / name / f"{number}.parquet")
    (folder / "models").mkdir(exist_ok=True)
    for name, model in _fitted(random):
        joblib.dump(model, folder / "models" / f"{name}.joblib")
    done.write_text(recipe)
    return folder


def _recipe() -> str:
    return hashlib.sha256(Path(__file__).read_bytes() + sklearn.__version__.encode()).hexdigest()


def rows(text: str) -> int:
    """Parse a number of rows of the command line. The rows must divide evenly among the files."""
    number = int(text)
    if number < LEAST_ROWS or number % (4 * FILES):
        raise argparse.ArgumentTypeError(f"at least {LEAST_ROWS:,}, and a multiple of {4 * FILES}")
    return number


def inputs(folder: Path, model: str) -> list[Path]:
    """Return the files that a model scores."""
    return sorted((folder / (model if model in ("text", *SHAPED) else "numbers")).glob("*.parquet"))


def columns(model: str) -> list[str]:
    """Return the columns of the files that a model scores, `id` first."""
    if model == "text":
        return ["id", "text"]
    return ["id", *(COLUMNS[:SHAPED_COLUMNS] if model in SHAPED else COLUMNS)]


def load(folder: Path, model: str) -> Any:
    """Load a model."""
    return joblib.load(folder / "models" / f"{model}.joblib")


def score(model: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a prediction and two probabilities for each row. One call of `predict_proba` gives both."""
    x = frame["text"].to_numpy(object) if "text" in frame else frame.drop(columns="id").to_numpy()
    probabilities = model.predict_proba(x)
    labels = model.classes_.take(np.argmax(probabilities, axis=1))
    return pd.DataFrame(
        {"id": frame["id"], "prediction": labels, "proba_0": probabilities[:, 0], "proba_1": probabilities[:, 1]}
    )


def score_file(name: str, model: Any, file: Path, out: Path) -> None:
    """Score a file, and write the results to a file with the same name in the folder `out`."""
    score(model, pd.read_parquet(file, columns=columns(name))).to_parquet(out / file.name, compression="zstd")


def numbers(random: Any, rows: int, first: int = 0) -> pa.Table:
    """Make rows of noise, with ids from `first` on."""
    values = random.normal(size=(rows, len(COLUMNS)))
    ids = np.arange(first, first + rows)
    return pa.table({"id": ids} | {name: values[:, place] for place, name in enumerate(COLUMNS)})


def _numbers(random: Any, rows: int) -> Iterator[pa.Table]:
    for number in range(FILES):
        count = rows // FILES
        yield numbers(random, count, number * count)


def _texts(random: Any, rows: int) -> Iterator[pa.Table]:
    for number in range(FILES):
        count = rows // FILES
        words = np.array(_WORDS)[random.integers(0, len(_WORDS), size=(count, 12))]
        ids = np.arange(number * count, (number + 1) * count)
        yield pa.table({"id": ids, "text": [" ".join(row) for row in words]})


def logistic(random: Any) -> Any:
    """Fit scaler and logistic regression on noise."""
    x = random.normal(size=(2_000, len(COLUMNS)))
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, (x[:, 0] > 0).astype(int))


class Endless(RegressorMixin, BaseEstimator):
    """A model that takes an hour for more than 1,000 rows, and no time for fewer, so that it can be published."""

    def fit(self, x: pd.DataFrame, y: object = None) -> Endless:
        """Do nothing."""
        self.n_features_in_ = x.shape[1]
        self.feature_names_in_ = np.asarray(x.columns, dtype=object)
        return self

    def predict(self, x: pd.DataFrame) -> Any:
        """Return ones. If there are more than 1,000 rows, sleep for an hour first."""
        if len(x) > 1_000:
            time.sleep(3_600)
        return np.ones(len(x))


def _fitted(random: Any) -> Iterator[tuple[str, Any]]:
    x = random.normal(size=(20_000, len(COLUMNS)))
    y = (x[:, 0] + x[:, 1] * x[:, 2] + random.normal(size=len(x)) > 0).astype(int)
    yield "logistic", make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    yield "boosting", HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(x, y)
    yield "gradient-boosting", GradientBoostingClassifier(random_state=0).fit(x, y)
    yield "forest", RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1).fit(x, y)
    yield "deep-forest", RandomForestClassifier(100, random_state=0, n_jobs=1).fit(x, y)
    texts = next(_texts(random, 160_000))["text"].to_pylist()[:20_000]
    kinds = np.array([text.count("good") > text.count("bad") for text in texts]).astype(int)
    yield "text", make_pipeline(TfidfVectorizer(), SGDClassifier(loss="log_loss", random_state=0)).fit(texts, kinds)
