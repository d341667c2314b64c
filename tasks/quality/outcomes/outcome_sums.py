"""Adds up what labels say about the scores of one model in one run, batch by batch, for all rows and for each segment.

Sums are exact and take no memory. The AUC and the deciles need the scores of the rows; at most `MAX_CELLS` of them are
held, of rows that a hash of their key chooses, or chance if more rows have a label than there are labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.tasks.quality.outcomes.estimates import Estimate, share
from scoreline.tasks.quality.outcomes.outcome_metrics import (
    CALIBRATION_BINS,
    auc_of_many,
    auc_of_two,
    brier_scores,
    calibration_of,
    calibration_places,
    deciles_of,
    log_losses,
    mean_of,
    regression_of,
)
from scoreline.tasks.quality.outcomes.outcome_scorers import Scorer, class_text
from scoreline.tasks.quality.outcomes.outcome_store import LARGEST
from scoreline.tasks.quality.outcomes.run_outcomes import Bin, Group
from scoreline.tasks.quality.results.key_texts import key_codes

MAX_CELLS = 2_000_000
"""Maximum number of scores that are held. They take 34 MB, and 175 MiB while the AUC and the deciles are computed."""
_MARGIN = 1.25
"""So many times `MAX_CELLS` may be held, because a hash chooses only about as many rows as it should."""
MAX_SEGMENTS = 50
"""Maximum number of segments, as in a profile. Rows of further values count only among all rows."""
_MAX_MISFITS = 1_000
_MOMENTS = ("n", "abs", "e2", "e4", "u1", "u2", "u3", "u4", "e2u1", "e2u2")


class Segments:
    """Numbers the values of the segment column, in order of their first rows."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def names(self) -> Sequence[str]:
        """The values, by number."""
        return list(self._places)

    def numbers(self, column: pa.Array | None, rows: int) -> Any:
        """Return the number of each row's segment, or `MAX_SEGMENTS` if it has none: ndarray of int64."""
        if column is None:
            return np.full(rows, MAX_SEGMENTS)
        texts, codes = key_codes(column, "segment")
        places = [
            self._places.setdefault(text, len(self._places))
            if text in self._places or len(self._places) < MAX_SEGMENTS
            else MAX_SEGMENTS
            for text in texts
        ]
        return np.array([*places, MAX_SEGMENTS])[codes]


class ScorerSums:
    """The sums of one model.

    Parameters
    ----------
    texts : sequence of str, optional
        The texts of the target (see `Labels.texts`).
    rows : int
        Number of rows with a label to come, or more.
    """

    def __init__(self, scorer: Scorer, texts: Sequence[str] | None, rows: int) -> None:
        self.scorer = scorer
        self._texts = texts
        self.one_in = max(1, -(-rows * scorer.cells // MAX_CELLS))
        self.labels = np.zeros(MAX_SEGMENTS + 1, np.int64)
        self.misfits: dict[str, int] = {}
        """Values of the target that the model cannot predict, with their numbers of rows."""
        self._correct = np.zeros(MAX_SEGMENTS + 1)
        self._has_correct = scorer.kind == "classifier"
        self._losses = {name: np.zeros((2, MAX_SEGMENTS + 1)) for name in ("log_loss", "brier")}
        self._bins = np.zeros((3, MAX_SEGMENTS + 1, CALIBRATION_BINS))
        self._base = np.zeros(MAX_SEGMENTS + 1)
        self._moments = {name: np.zeros(MAX_SEGMENTS + 1) for name in _MOMENTS}
        self._centre: float | None = None
        self._held: list[tuple[Any, Any, Any]] = []
        self._rows_held = 0
        self._by_hash, self._thinned = self.one_in, 1
        self._chance = np.random.default_rng(0)

    def add(self, batch: pa.RecordBatch, target: Any, segments: Any, hashes: Any) -> None:
        """Add rows whose label is known.

        Parameters
        ----------
        target : ndarray of float64
            The values of the target, as in `Labels.value`.
        segments : ndarray of int64
        hashes : ndarray of uint64
            Hashes of the keys, which choose the rows to hold.
        """
        if self.scorer.kind == "regressor":
            self._add_numbers(batch, target, segments, hashes)
        else:
            self._add_classes(batch, target, segments, hashes)

    def _add_numbers(self, batch: pa.RecordBatch, target: Any, segments: Any, hashes: Any) -> None:
        if self._texts is not None:
            self._note_misfits([self._texts[int(place)] for place in target])
            return
        assert self.scorer.prediction is not None
        predicted = _floats(batch.column(self.scorer.prediction))
        finite = np.abs(predicted) <= LARGEST  # and no NaN
        predicted, target, segments, hashes = (item[finite] for item in (predicted, target, segments, hashes))
        if not len(target):
            return
        if self._centre is None:
            self._centre = float(target.mean())
        error, u = target - predicted, target - self._centre
        e2 = error * error
        values = {"n": None, "abs": np.abs(error), "e2": e2, "e4": e2 * e2, "e2u1": e2 * u, "e2u2": e2 * u * u}
        values |= {f"u{power}": u**power for power in range(1, 5)}
        for name, value in values.items():
            self._moments[name] += np.bincount(segments, value, MAX_SEGMENTS + 1)
        self.labels += np.bincount(segments, minlength=MAX_SEGMENTS + 1)
        self._base += np.bincount(segments, target, MAX_SEGMENTS + 1)
        self._hold(predicted, target, segments, hashes)

    def _add_classes(self, batch: pa.RecordBatch, target: Any, segments: Any, hashes: Any) -> None:
        codes = self._codes(target)
        proba = None
        fits = codes >= 0
        if self.scorer.proba:
            proba = np.column_stack([_floats(batch.column(name)) for name in self.scorer.proba])
            proba = np.exp(proba) if self.scorer.is_log else proba
            fits &= np.isfinite(proba).all(axis=1)
        predicted = None
        if self.scorer.prediction is not None:
            predicted = self._classes_in(batch.column(self.scorer.prediction))[fits]
        codes, segments, hashes = codes[fits], segments[fits], hashes[fits]
        self.labels += np.bincount(segments, minlength=MAX_SEGMENTS + 1)
        if proba is not None:
            proba = proba[fits]
            self._add_proba(codes, proba, segments, hashes)
            predicted = proba.argmax(axis=1) if predicted is None else predicted
        assert predicted is not None
        self._correct += np.bincount(segments, predicted == codes, MAX_SEGMENTS + 1)

    def _add_proba(self, codes: Any, proba: Any, segments: Any, hashes: Any) -> None:
        for name, losses in (("log_loss", log_losses(codes, proba)), ("brier", brier_scores(codes, proba))):
            self._losses[name][0] += np.bincount(segments, losses, MAX_SEGMENTS + 1)
            self._losses[name][1] += np.bincount(segments, losses * losses, MAX_SEGMENTS + 1)
        if proba.shape[1] == 2:
            probability, came_true = proba[:, 1], codes == 1
        else:
            probability, came_true = proba.max(axis=1), codes == proba.argmax(axis=1)
        self._base += np.bincount(segments, came_true, MAX_SEGMENTS + 1)
        places = segments * CALIBRATION_BINS + calibration_places(probability)
        for number, weights in enumerate((None, probability, came_true)):
            found = np.bincount(places, weights, (MAX_SEGMENTS + 1) * CALIBRATION_BINS)
            self._bins[number] += found.reshape(MAX_SEGMENTS + 1, CALIBRATION_BINS)
        self._hold(proba[:, 1] if proba.shape[1] == 2 else proba, codes, segments, hashes)

    def _hold(self, score: Any, target: Any, segments: Any, hashes: Any) -> None:
        chosen = hashes % np.uint64(self._by_hash) == 0
        if self._thinned > 1:
            chosen &= self._chance.random(len(chosen)) * self._thinned < 1
        self._held.append((score[chosen], target[chosen], segments[chosen].astype(np.uint8)))
        self._rows_held += int(chosen.sum())
        while self._rows_held * self.scorer.cells > MAX_CELLS * _MARGIN:
            self._thin()

    def _thin(self) -> None:
        """Drop every other row by chance, because more rows than expected have a label: many have the same key.

        The hash of the key does not choose here, because a few keys may have all the rows. The chance is the same each
        time.
        """
        self._thinned *= 2
        self.one_in *= 2
        for number, (score, target, segments) in enumerate(self._held):
            chosen = self._chance.random(len(target)) < 0.5
            self._held[number] = score[chosen], target[chosen], segments[chosen]
        self._rows_held = sum(len(item[1]) for item in self._held)

    def groups(self, names: Sequence[str], rows: Any) -> tuple[Group, ...]:
        """Return all rows, and then the segments by name.

        Parameters
        ----------
        names : sequence of str
            The segments, by number.
        rows : ndarray of int64
            Number of rows with a result, by segment.
        """
        held = [np.concatenate(items) for items in zip(*self._held, strict=True)] if self._held else None
        every = np.ones(MAX_SEGMENTS + 1, bool)
        found = [self._group(None, every, int(rows.sum()), held)]
        for name, number in sorted((name, number) for number, name in enumerate(names)):
            one = np.arange(MAX_SEGMENTS + 1) == number
            found.append(self._group(name, one, int(rows[number]), held))
        return tuple(found)

    def _group(self, name: str | None, chosen: Any, rows: int, held: list[Any] | None) -> Group:
        labels = int(self.labels[chosen].sum())
        if not labels:
            return Group(segment=name, rows=rows, labels=0, metrics={})
        some = None
        if held is not None:
            score, target, segments = held
            some = (score, target) if name is None else (score[chosen[segments]], target[chosen[segments]])
        if self.scorer.kind == "regressor":
            metrics = regression_of({key: float(value[chosen].sum()) for key, value in self._moments.items()})
            deciles = () if some is None or not len(some[0]) else deciles_of(*some, is_share=False)
            base = float(self._base[chosen].sum()) / labels
            return Group(segment=name, rows=rows, labels=labels, metrics=metrics, base=base, deciles=deciles)
        return self._classified(name, chosen, rows, labels, some)

    def _classified(self, name: str | None, chosen: Any, rows: int, labels: int, some: Any) -> Group:
        metrics: dict[str, Estimate] = {}
        deciles: tuple[Bin, ...] = ()
        base: float | None = None
        calibration: tuple[Bin, ...] = ()
        if self.scorer.proba:
            base = float(self._base[chosen].sum()) / labels
            for key, sums in self._losses.items():
                total, squares = (float(value) for value in sums[:, chosen].sum(axis=1))
                metrics[key] = mean_of(key, labels, total, squares)
            calibration = calibration_of(*self._bins[:, chosen].sum(axis=1).tolist())
        if self.scorer.proba and len(some[0]):
            score, codes = some
            if score.ndim == 1:
                area = auc_of_two(codes == 1, score)
                deciles = deciles_of(score, codes == 1, is_share=True)
            else:
                area = auc_of_many(codes, score)
                deciles = deciles_of(score.max(axis=1), codes == score.argmax(axis=1), is_share=True)
            if area is not None:
                metrics["auc"] = area
        metrics["accuracy"] = share(float(self._correct[chosen].sum()), labels)
        return Group(
            segment=name,
            rows=rows,
            labels=labels,
            metrics=metrics,
            base=base,
            calibration=calibration,
            deciles=deciles,
        )

    def _codes(self, target: Any) -> Any:
        """Return the class of each value of the target, or -1: ndarray of int64."""
        values, inverse = np.unique(target, return_inverse=True)
        texts = [class_text(value) if self._texts is None else self._texts[int(value)] for value in values.tolist()]
        places = self.scorer.places
        codes = np.array([places.get(text, -1) for text in texts], np.int64)[inverse]
        if (codes < 0).any():
            self._note_misfits([texts[place] for place in inverse[codes < 0].tolist()])
        return codes

    def _note_misfits(self, texts: Sequence[str]) -> None:
        for text in texts:
            name = text if text in self.misfits or len(self.misfits) < _MAX_MISFITS else "(others)"
            self.misfits[name] = self.misfits.get(name, 0) + 1

    def _classes_in(self, column: pa.Array) -> Any:
        texts, codes = key_codes(column, "prediction")
        places = self.scorer.places
        return np.array([*(places.get(text, -1) for text in texts), -1])[codes]


def _floats(column: pa.Array) -> Any:
    return pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
