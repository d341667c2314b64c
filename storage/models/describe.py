"""What a fitted estimator says of itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import joblib
import numpy
import sklearn

from storage.errors import InvalidRequest
from storage.models.manifest import METHODS, Outputs


def describe_features(first: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, int | None]:
    """Names and number of the columns that the first step of a bundle was fitted on, where it says.

    Parameters
    ----------
    first : mapping of str to estimator
        The first preprocessor, or all models where there is none.

    Raises
    ------
    InvalidRequest
        Models that are to score the same rows were fitted on other columns.
    """
    names, count, said_by = None, None, ""
    for label, estimator in first.items():
        found = getattr(estimator, "feature_names_in_", None)
        said = None if found is None else tuple(str(name) for name in found)
        number = getattr(estimator, "n_features_in_", None)
        if said is not None and names is not None and said != names:
            raise InvalidRequest(f"models {said_by!r} and {label!r} were fitted on other columns: publish them apart")
        if number is not None and count not in (None, number):
            raise InvalidRequest(f"model {label!r} takes {number} columns, the others {count}: publish them apart")
        if said is not None:
            names, said_by = said, label
        count = count if number is None else int(number)
    return names, count


def describe_outputs(model: Any, label_encoder: Any) -> Outputs:
    """Describe what a model can say, with its classes as users read them.

    Raises
    ------
    InvalidRequest
        It has no method to score with, or classes that the label encoder does not know.
    """
    methods = tuple(name for name in METHODS if callable(getattr(model, name, None)))
    if not methods:
        raise InvalidRequest(f"{type(model).__name__} has none of {', '.join(METHODS)}: it cannot score")
    classes = getattr(model, "classes_", None)
    if isinstance(classes, list):  # several targets, each with classes of its own: labels alone can be told apart
        classes, methods = None, tuple(name for name in methods if not name.startswith("predict_"))
    if classes is not None and label_encoder is not None:
        try:
            classes = label_encoder.inverse_transform(classes)
        except ValueError as error:
            raise InvalidRequest(f"the label encoder does not know the model's classes: {error}") from error
    return Outputs(
        kind=str(getattr(model, "_estimator_type", None) or _estimator_type(model)),
        methods=methods,
        classes=None if classes is None else tuple(numpy.asarray(classes).tolist()),
    )


def libraries() -> dict[str, str]:
    """Versions of what a model depends on."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": numpy.__version__,
        "joblib": joblib.__version__,
    }


def _estimator_type(model: Any) -> str:
    try:
        return str(sklearn.utils.get_tags(model).estimator_type or "estimator")
    except (AttributeError, TypeError):
        return "estimator"
