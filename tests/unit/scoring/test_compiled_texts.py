"""Texts are scored by the compiled vectorizer of a bundle, with the same results and the same rejected rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

pytest.importorskip("scoreline.storage.models.compiled._words", reason="there was no compiler to build the extension")

from scoreline.storage.models.bundle import Bundle
from scoreline.storage.models.compiled import _words
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.manager import ModelStorageManager
from scoreline.storage.models.settings import ModelSettings
from scoreline.storage.objects.directory import DirectoryStore
from scoreline.tasks.scoring.score import Scored, score_batch
from scoreline.tasks.scoring.timings import Timings
from tests.support.bundles import bundle

WORDS = ("good", "bad", "Fine café", "broken ÄÖ", "late, so late", "a", "")
TEXTS = [f"{WORDS[number % 7]} {WORDS[number * 5 % 6]} number {number % 13}" for number in range(120)]
FRAME = pd.DataFrame({"text": pd.Series(TEXTS, dtype=object)})
TARGET = [number % 2 for number in range(120)]
VECTORIZERS = (TfidfVectorizer(ngram_range=(1, 2)), CountVectorizer(), HashingVectorizer(n_features=1 << 12))


def score(found: Bundle, rows: pa.RecordBatch, timings: Timings | None = None) -> Scored:
    return score_batch(found, rows, features=["text"], keep=[], method=None, timings=timings)


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("missing", [[], [17], [0, 30, 31, 119]])
@pytest.mark.parametrize("vectorizer", VECTORIZERS)
@pytest.mark.parametrize("in_columns", [True, False])
def test_texts_get_the_same_scores_and_the_same_reasons(
    vectorizer: Any, missing: list[int], type_: pa.DataType, in_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    count = _words.count

    def counting(documents: list[Any], *rules: Any) -> Any:
        counted = count(documents, *rules)
        counts.append(len(documents) if counted else 0)
        return counted

    # Given texts of which some are missing
    if in_columns:
        model = make_pipeline(make_column_transformer((vectorizer, "text")), LogisticRegression()).fit(FRAME, TARGET)
    else:
        model = make_pipeline(vectorizer, LogisticRegression()).fit(FRAME["text"].to_numpy(object), TARGET)
    own = bundle(model)
    texts = [None if number in missing else text for number, text in enumerate(TEXTS)]
    rows = pa.RecordBatch.from_arrays([pa.array(texts).cast(type_)], ["text"])
    expected = score(own, rows)
    # When the compiled vectorizer counts their words
    faster = replace(own, compiled=compile_estimators(own.models.items()))
    monkeypatch.setattr(_words, "count", counting)
    timings = Timings()
    found = score(faster, rows, timings)
    # Then all is as without it
    assert found.table.equals(expected.table)
    assert found.rejected == expected.rejected
    assert sorted(found.rejected) == missing
    assert max(counts) == len(TEXTS) - len(missing) or missing
    assert sum(counts) >= len(TEXTS) - len(missing)
    assert timings.rounded(9)["compiled"] > 0


@pytest.mark.parametrize("on", [True, False])
def test_a_loaded_vectorizer_is_compiled_unless_a_setting_forbids_it(tmp_path: Path, on: bool) -> None:
    settings = ModelSettings.from_env({"SCORELINE_COMPILED_TREES": str(on)})
    store = DirectoryStore(tmp_path, "models")
    models = ModelStorageManager(store, cloud_only=True, use_r2=False, settings=settings, try_here=True)
    vectorizer = TfidfVectorizer().fit(TEXTS)
    model = LogisticRegression().fit(vectorizer.transform(TEXTS), TARGET)
    models.publish("texts", model, preprocessor=vectorizer)
    loaded = models.load("texts")
    assert bool(loaded.compiled) is on
    assert loaded.memory_bytes == loaded.manifest.memory_bytes + loaded.compiled.nbytes
    summary = "1 of 1 text vectorizers compiled" if on else CompiledEstimators().summary()
    assert loaded.compiled.summary() == summary
