"""Finds the columns in which a run has the scores of its models, and the classes that they predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from scoreline.storage.models.manifest import Outputs
from scoreline.tasks.quality.outcomes.run_outcomes import Kind

_PREDICTION = "prediction"
_OTHER_NAMES = {"true": "1", "false": "0", "1": "true", "0": "false"}
"""Booleans, which may be written as numbers."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The columns with the scores of one model."""

    name: str
    """The model of the bundle; empty if it is the only one."""
    kind: Kind
    prediction: str | None = None
    proba: tuple[str, ...] = ()
    """The columns with probabilities, by class."""
    is_log: bool = False
    """Whether these are logarithms of probabilities."""
    classes: tuple[str, ...] = ()
    """The classes as text (see `class_text`)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        return (*self.proba, *(() if self.prediction is None else (self.prediction,)))

    @property
    def places(self) -> Mapping[str, int]:
        """The place of each class by its text. Booleans may be written as 0 and 1, and the other way round."""
        own = {text: place for place, text in enumerate(self.classes)}
        other = {_OTHER_NAMES[text]: place for text, place in own.items() if text in _OTHER_NAMES}
        return other | own

    @property
    def cells(self) -> int:
        """Number of scores of a row that the AUC needs."""
        return len(self.proba) if len(self.proba) > 2 else 1


def scorers_of(schema: pa.Schema, outputs: Mapping[str, Outputs] | None) -> list[Scorer]:
    """Return the models of a run whose scores can be compared with labels.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns of the results.
    outputs : mapping, optional
        The outputs of the models by name; None if the model version no longer exists. The names of the columns then
        tell the classes.
    """
    if outputs is None:
        prefixes = [name.removesuffix(_PREDICTION) for name in schema.names if name.endswith(f"_{_PREDICTION}")]
        whole = [""] if _PREDICTION in schema.names or any(name.startswith("proba_") for name in schema.names) else []
        found = [_of_columns(schema, prefix) for prefix in whole or prefixes]
    else:
        found = [
            _of_model(schema, name, "" if len(outputs) == 1 else f"{name}_", offered)
            for name, offered in outputs.items()
        ]
    return [scorer for scorer in found if scorer is not None]


def _of_model(schema: pa.Schema, name: str, prefix: str, offered: Outputs) -> Scorer | None:
    own = "" if not prefix else name
    prediction = f"{prefix}{_PREDICTION}" if f"{prefix}{_PREDICTION}" in schema.names else None
    if offered.classes is None:
        if offered.kind not in ("regressor", "estimator") or prediction is None:
            return None
        return _regressor(schema, own, prediction)
    if any(isinstance(one, list | tuple) for one in offered.classes):
        return None  # several targets
    classes = tuple(map(class_text, offered.classes))
    for method, is_log in (("proba", False), ("log_proba", True)):
        proba = tuple(column for column in schema.names if column.startswith(f"{prefix}{method}_"))
        proba = proba[-len(classes) :]  # kept columns, which stand first, may have such names, too
        if len(proba) == len(classes):
            return Scorer(
                name=own, kind="classifier", prediction=prediction, proba=proba, is_log=is_log, classes=classes
            )
    return None if prediction is None else Scorer(name=own, kind="classifier", prediction=prediction, classes=classes)


def _of_columns(schema: pa.Schema, prefix: str) -> Scorer | None:
    prediction = f"{prefix}{_PREDICTION}" if f"{prefix}{_PREDICTION}" in schema.names else None
    proba = tuple(column for column in schema.names if column.startswith(f"{prefix}proba_"))
    if len(proba) > 1:
        classes = tuple(class_text(column.removeprefix(f"{prefix}proba_")) for column in proba)
        return Scorer(name=prefix.rstrip("_"), kind="classifier", prediction=prediction, proba=proba, classes=classes)
    return None if prediction is None else _regressor(schema, prefix.rstrip("_"), prediction)


def _regressor(schema: pa.Schema, name: str, prediction: str) -> Scorer | None:
    kind = schema.field(prediction).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return None
    return Scorer(name=name, kind="regressor", prediction=prediction)


def class_text(value: Any) -> str:
    """Return a class as text, as `key_texts` writes it.

    >>> [class_text(value) for value in (True, 1, 1.0, 0.5, "1")]
    ['true', '1', '1', '0.5', '1']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)
