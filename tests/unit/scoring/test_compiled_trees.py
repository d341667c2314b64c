"""A batch is scored by the compiled trees of its bundle, with the same results and the same rejected rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytest.importorskip("scoreline.storage.models.compiled._walk", reason="there was no compiler to build the extension")

from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.compiled.nodes import PackedTrees
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.tasks.scoring.timings import Timings
from tests.support.bundles import bundle

NAMES = ["a", "b", "c"]
NOTHING = "no tree ensembles, text vectorizers or scalers compiled"
RANDOM = np.random.default_rng(5)
FRAME = pd.DataFrame(RANDOM.normal(size=(200, 3)), columns=NAMES)
TARGET = (FRAME["a"] + RANDOM.normal(size=200) > 0).astype(int)


def score(found: Bundle, rows: pd.DataFrame, timings: Timings | None = None) -> Scored:
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    return score_batch(found, batch, features=NAMES, keep=[], method=None, timings=timings)


def compiled(found: Bundle) -> Bundle:
    return replace(found, compiled=compile_estimators(found.models.items()))


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(7, random_state=0),
        GradientBoostingClassifier(n_estimators=7, random_state=0),
        HistGradientBoostingRegressor(max_iter=7, random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(7, random_state=0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_rows_get_the_same_scores_and_the_same_reasons(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[int] = []
    walk = PackedTrees.add_to

    def add_to(self: PackedTrees, sums: Any, x: Any, **options: Any) -> None:
        walks.append(len(x))
        walk(self, sums, x, **options)

    # Given rows of which some are refused by the model
    own = bundle(model.fit(FRAME, TARGET))
    rows = FRAME.copy()
    rows.loc[17, "b"] = np.inf
    rows.loc[[30, 31], "c"] = 1e300
    rows.loc[40, "a"] = np.nan
    expected = score(own, rows)
    faster = compiled(own)
    monkeypatch.setattr(PackedTrees, "add_to", add_to)
    # When the compiled trees score the rows
    timings = Timings()
    found = score(faster, rows, timings)
    # Then all is as without compiled trees, and each batch is computed once for labels and probabilities
    assert found.table.equals(expected.table)
    assert found.rejected == expected.rejected
    assert walks.count(len(rows) - len(found.rejected)) == 1
    assert timings.rounded(9)["compiled"] == round(timings.seconds["predict"], 9) > 0


class Refitting(TransformerMixin, BaseEstimator):
    """A step that fits a later step to each batch."""

    later: Any = None

    def fit(self, x: Any, y: Any = None) -> Refitting:
        return self

    def transform(self, x: Any) -> Any:
        if self.later is not None:
            b = np.asarray(x)[:, 1]
            self.later.fit(x, (b > np.median(b)).astype(int))
        return x


def test_a_forest_that_the_bundle_fits_again_has_its_new_scores() -> None:
    model = make_pipeline(Refitting(), RandomForestClassifier(7, random_state=0)).fit(FRAME, TARGET)
    before = score(bundle(model), FRAME).table
    model[0].later = model[-1]
    faster = compiled(bundle(copy.deepcopy(model)))
    assert faster.compiled
    timings = Timings()
    found = score(faster, FRAME, timings)
    assert not found.rejected
    assert found.table.equals(score(bundle(model), FRAME).table)
    assert not found.table.equals(before)
    assert timings.compiled == 0


@pytest.mark.parametrize("on", [True, False])
def test_a_loaded_model_is_compiled_unless_a_setting_forbids_it(tmp_path: Path, on: bool) -> None:
    settings = ModelSettings.from_env({"SCORELINE_COMPILED_TREES": str(on)})
    store = DirectoryStore(tmp_path, "models")
    models = ModelStorageManager(store, cloud_only=True, use_r2=False, settings=settings, try_here=True)
    scaler = StandardScaler().fit(FRAME)
    models.publish("forest", RandomForestClassifier(5).fit(scaler.transform(FRAME), TARGET), preprocessor=scaler)
    loaded = models.load("forest")
    assert bool(loaded.compiled) is on
    assert loaded.memory_bytes == loaded.manifest.memory_bytes + loaded.compiled.nbytes
    assert loaded.compiled.summary() == ("1 of 1 scalers and 1 of 1 tree ensembles compiled" if on else NOTHING)


def test_seconds_in_which_scikit_learn_scored_all_rows_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a model whose compiled trees leave each batch to scikit-learn
    own = compiled(bundle(GradientBoostingClassifier(n_estimators=7, random_state=0).fit(FRAME, TARGET)))
    timings, others = Timings(), Timings()
    score(own, FRAME, timings)
    assert timings.compiled > 0
    monkeypatch.setattr("scoreline.storage.models.compiled.tree_ensembles.is_dense", lambda *_: False)
    score(own, FRAME, others)
    assert others.seconds["predict"] > 0
    assert others.compiled == 0
