"""What a fitted estimator says of itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import joblib
import numpy
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.manifest import METHODS, Outputs


def describe_features(first: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, int | None]:
    """Names and number of the columns that the first step of a bundle was fitted on, where it says.

    Parameters
    ----------
    first : mapping of str to estimator
        The first preprocessor, or all models where there is none.

    Raises
    ------
    InvalidRequest
        Models that are to score the same rows were fitted on other columns, or take no columns at all.
    """
    names, count, said_by = None, None, ""
    for label, estimator in first.items():
        if alien := _no_table(estimator):
            raise InvalidRequest(f"{label!r}, a {type(estimator).__name__}, takes {alien}, not columns of a table")
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
    if len({takes_one_column(estimator) for estimator in first.values()}) > 1:
        raise InvalidRequest(f"of {', '.join(map(repr, first))} some take one column alone: publish them apart")
    return names, count


def describe_outputs(model: Any, label_encoder: Any) -> Outputs:
    """Describe what a fitted model can say of new rows, with its classes as users read them.

    Many methods are there only once the estimator is fitted, or with certain parameters: the model itself is asked.

    Raises
    ------
    InvalidRequest
        It has no method to score with, only those for the rows that it was fitted on, or classes that the label
        encoder does not know.
    """
    if not hasattr(model, "fit") and not hasattr(model, "predict"):  # a DataFrame has a transform of its own
        raise InvalidRequest(f"{type(model).__name__} is no estimator: it has neither fit nor predict")
    _refuse_unfitted(model)
    methods = tuple(name for name in METHODS if callable(getattr(model, name, None)))
    if not methods:
        raise InvalidRequest(_why_not(model))
    classes: Any = getattr(model, "classes_", None)
    if _several(classes):
        if label_encoder is not None:
            raise InvalidRequest(f"a label encoder stands for one target, and the model predicts {len(classes)}")
        labels: tuple[Any, ...] | None = tuple(_labels(one) for one in classes)
    else:
        if classes is not None and label_encoder is not None:
            try:
                classes = label_encoder.inverse_transform(classes)
            except ValueError as error:
                raise InvalidRequest(f"the label encoder does not know the model's classes: {error}") from error
        labels = None if classes is None else _labels(classes)
    return Outputs(kind=_kind(model, methods), methods=methods, classes=labels)


def takes_one_column(estimator: Any) -> bool:
    """Whether rows have to be handed over as a one-dimensional array: a text vectorizer, or what begins with one.

    Meta-estimators do not say it of what they hold; their first step does.
    """
    return not getattr(_input_tags(_innermost(estimator)), "two_d_array", True)


def libraries() -> dict[str, str]:
    """Versions of what a model depends on."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": numpy.__version__,
        "joblib": joblib.__version__,
    }


def _refuse_unfitted(model: Any) -> None:
    """Refuse one of scikit-learn's own estimators that was never fitted; others have habits of their own."""
    if not type(model).__module__.startswith("sklearn."):
        return
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise InvalidRequest(f"this {type(model).__name__} is not fitted: call fit() before it is saved") from None
    except (TypeError, AttributeError, ValueError):  # it does not say
        return


def _why_not(model: Any) -> str:
    name = type(model).__name__
    for method in ("fit_predict", "fit_transform"):
        if callable(getattr(model, method, None)):
            way_out = ": fit it with novelty=True" if hasattr(model, "novelty") else ""
            return f"{name} only has {method}(), for the rows it is fitted on, and nothing for new ones{way_out}"
    return f"{name} has none of {', '.join(METHODS)}: it cannot score"


def _several(classes: Any) -> bool:
    return isinstance(classes, list | tuple) and bool(classes) and all(numpy.ndim(one) == 1 for one in classes)


def _labels(classes: Any) -> tuple[Any, ...]:
    """Labels that JSON has, else their text: ``2026-11-25`` for a time at midnight."""
    array = numpy.asarray(classes)
    if array.dtype.kind == "M":
        return tuple(numpy.datetime_as_string(array, unit="auto").tolist())
    return tuple(x if isinstance(x, bool | int | float | str) else str(x) for x in array.tolist())


def _kind(model: Any, methods: tuple[str, ...]) -> str:
    said = getattr(model, "_estimator_type", None) or getattr(_tags(model), "estimator_type", None)
    if said:
        return str(said)
    if "predict" not in methods:
        return "transformer" if "transform" in methods else "density_estimator"
    return "estimator"


def _tags(estimator: Any) -> Any:
    try:
        return sklearn.utils.get_tags(estimator)
    except (AttributeError, TypeError, ValueError):  # not scikit-learn's, or of another version's habits
        return None


def _input_tags(estimator: Any) -> Any:
    return getattr(_tags(estimator), "input_tags", None)


def _innermost(estimator: Any) -> Any:
    """Return the step that sees the rows first."""
    while True:
        if (best := getattr(estimator, "best_estimator_", None)) is not None:
            estimator = best
            continue
        steps = [
            step
            for name in ("steps", "transformer_list", "estimators")
            if isinstance(getattr(estimator, name, None), list)
            for _, step in _pairs(getattr(estimator, name))
        ]
        held = steps[0] if steps else getattr(estimator, "estimator", None)
        if held is None or not hasattr(held, "fit"):
            return estimator
        estimator = held


def _pairs(steps: list[Any]) -> list[tuple[str, Any]]:
    return [
        item
        for item in steps
        if isinstance(item, tuple) and len(item) == 2 and not (item[1] is None or isinstance(item[1], str))
    ]


def _no_table(estimator: Any) -> str | None:
    inner = _innermost(estimator)
    tags = _tags(inner)
    if tags is None or tags.input_tags.two_d_array:
        return None
    if tags.input_tags.dict:
        return "dicts"
    if tags.input_tags.three_d_array:
        return "images"
    return "sets of labels" if tags.target_tags.two_d_labels else None
