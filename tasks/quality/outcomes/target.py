"""Compares the scores of rows with their target, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import Outputs
from scoreline.tasks.quality.outcomes.metrics import classifier_metrics, regressor_metrics
from scoreline.tasks.quality.profiles.text_counts import mixed_hashes

MAX_CELLS = 4_000_000
"""Maximum number of scores that are held for the metrics, which take 32 MB: a million rows of two classes. With more,
only some of the rows are used."""
_SHOWN = 5
_MAX_LABELS = 100_000
"""Maximum number of distinct values of a target in a batch, so that a wrong column is not compared value by value."""


class TargetMetrics:
    """Collects the scores and the target of rows, and computes the metrics of each model.

    Parameters
    ----------
    column : str
        Name of the target.
    outputs : mapping of str to Outputs
        The outputs of each model.
    rows : int
        Number of rows to come, or more.

    Raises
    ------
    InvalidRequest
        No model is a classifier or regressor with a single target.
    """

    def __init__(self, column: str, outputs: Mapping[str, Outputs], rows: int) -> None:
        self._column = column
        self._nulls = 0
        self._seen = 0
        self._models = {
            name: _Collected(column, name, "" if len(outputs) == 1 else f"{name}_", offered.classes)
            for name, offered in outputs.items()
            if _has_metrics(offered)
        }
        if not self._models:
            kinds = ", ".join(f"{name!r} is a {offered.kind}" for name, offered in outputs.items())
            raise InvalidRequest(
                f"metrics on the target {column!r} need a classifier or a regressor with one target, but {kinds}: "
                "publish without a target"
            )
        cells = sum(len(model.classes or ()) + 2 for model in self._models.values())
        self._one_in = max(1, -(-rows * cells // MAX_CELLS))

    def add(self, target: pa.ChunkedArray, scores: pa.Table) -> None:
        """Add the target and the scores of rows, in the same order.

        Raises
        ------
        InvalidRequest
            The target has a value that a model cannot predict.
        """
        first, self._seen = self._seen, self._seen + len(target)
        if self._one_in > 1:  # a hash chooses the rows, because every n-th row may be special
            numbers = np.arange(first, self._seen, dtype=np.uint64)
            chosen = mixed_hashes(numbers) % np.uint64(self._one_in) == 0
            target, scores = target.filter(pa.array(chosen)), scores.filter(pa.array(chosen))
        known = pc.invert(pc.is_null(target, nan_is_null=True))
        self._nulls += len(target) - int(pc.sum(known).as_py() or 0)
        target, scores = target.filter(known), scores.filter(known)
        if len(target):
            for model in self._models.values():
                model.add(target, scores)

    def result(self) -> dict[str, Any]:
        """Return the metrics of each model, by its name.

        Raises
        ------
        InvalidRequest
            The target of every row is null.
        """
        if self._seen and not any(model.rows for model in self._models.values()):
            raise InvalidRequest(f"the target {self._column!r} is null in every row of the baseline that can be scored")
        found = {}
        for name, model in self._models.items():
            counts: dict[str, Any] = {"target": self._column, "rows": model.rows, "null_targets": self._nulls}
            if self._one_in > 1:
                counts["one_in"] = self._one_in
            found[name] = counts | model.metrics()
        return found


class _Collected:
    """The target and the scores of one model."""

    def __init__(self, column: str, name: str, prefix: str, classes: Sequence[Any] | None) -> None:
        self._column, self._name, self._prefix = column, name, prefix
        self.classes = classes
        self._places = {} if classes is None else {label: number for number, label in enumerate(classes)}
        self._texts = {str(label): number for label, number in self._places.items()}
        self._targets: list[Any] = []
        self._predicted: list[Any] = []
        self._proba: list[Any] = []
        self.rows = 0

    def add(self, target: pa.ChunkedArray, scores: pa.Table) -> None:
        predicted = scores.column(f"{self._prefix}prediction")
        if self.classes is None:
            values = self._numbers(target)
            finite = np.isfinite(values)
            self._targets.append(values[finite])
            self._predicted.append(predicted.cast(pa.float64()).to_numpy()[finite])
        else:
            self._targets.append(self._codes(target))
            self._predicted.append(self._codes(predicted))
            names = [name for name in scores.column_names if name.startswith(f"{self._prefix}proba_")]
            if len(names) == len(self.classes):
                self._proba.append(np.column_stack([scores.column(name).to_numpy() for name in names]))
        self.rows += len(self._targets[-1])

    def metrics(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        target, predicted = np.concatenate(self._targets), np.concatenate(self._predicted)
        if self.classes is None:
            return regressor_metrics(target, predicted)
        return classifier_metrics(target, predicted, np.concatenate(self._proba) if self._proba else None, self.classes)

    def _codes(self, column: pa.ChunkedArray) -> Any:
        """Return the position of each value in the classes: ndarray of int32. A number may be given as text."""
        encoded = column.combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        if len(encoded.dictionary) > _MAX_LABELS:
            raise self._unknown(encoded.dictionary.slice(0, _SHOWN + 1).to_pylist())
        labels = encoded.dictionary.to_pylist()
        found = [self._places.get(label, self._texts.get(str(label), -1)) for label in labels]
        codes = np.array(found, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
        if (codes < 0).any():
            used = np.unique(encoded.indices.to_numpy(zero_copy_only=False)[codes < 0]).tolist()
            raise self._unknown([labels[number] for number in used])
        return codes

    def _unknown(self, labels: Sequence[Any]) -> InvalidRequest:
        return InvalidRequest(
            f"the target {self._column!r} has {_shown(labels)}, but model {self._name!r} predicts "
            f"{_shown(self.classes or ())}: name the column with the labels on which the model was fitted"
        )

    def _numbers(self, column: pa.ChunkedArray) -> Any:
        """Return the values of a target: ndarray of float64."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        try:
            return column.cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InvalidRequest(
                f"the target {self._column!r} has {_shown(column.slice(0, 1).to_pylist())}, but model "
                f"{self._name!r} predicts numbers: name a column of numbers"
            ) from None


def _has_metrics(offered: Outputs) -> bool:
    """Return whether a model predicts one target by default."""
    if "predict" not in offered.default_methods:
        return False
    if offered.classes is None:
        return offered.kind in ("regressor", "estimator")
    return not any(isinstance(one, list | tuple) for one in offered.classes)


def _shown(labels: Sequence[Any]) -> str:
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return ", ".join(repr(label) if isinstance(label, str) else str(label) for label in labels[:_SHOWN]) + more
