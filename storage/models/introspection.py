"""Inspect a fitted estimator to find out its input and its output."""

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
from scoreline.storage.models.encoded_labels import decode_classes
from scoreline.storage.models.manifest import METHODS, Outputs
from scoreline.storage.wording import plural

_OTHER_NAMES = ("feature_names_", "feature_name_")
"""Attributes in which CatBoost, and LightGBM before 4.5, store the names of features. In models that were fitted on
arrays, these attributes contain generated names: ``0`` or ``Column_0`` for the first column."""


def describe_features(first: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the names and the number of the columns that the first step of a bundle was fitted on.

    A value that the step does not record is None.

    Parameters
    ----------
    first : mapping of str to estimator
        The first preprocessor, or all models if there is no preprocessor, by name.

    Raises
    ------
    InvalidRequest
        The models were fitted on different columns, or the input of a model is not a table.
    """
    names, count, named_by = None, None, ""
    for label, estimator in first.items():
        if other_input := _non_tabular_input(estimator):
            raise InvalidRequest(
                f"{label!r} takes {other_input}, not the columns of a table: it is a {type(estimator).__name__}"
            )
        own_names, number = recorded_features(estimator)
        if own_names is not None and names is not None and own_names != names:
            raise InvalidRequest(
                f"models {named_by!r} and {label!r} were fitted on different columns: publish them separately"
            )
        if number is not None and count not in (None, number):
            raise InvalidRequest(
                f"model {label!r} takes {plural(number, 'column')}, the other models take {count}: publish them "
                "separately"
            )
        if own_names is not None:
            names, named_by = own_names, label
        count = count if number is None else number
    if len({takes_one_column(estimator) for estimator in first.values()}) > 1:
        raise InvalidRequest(
            f"some of the models {', '.join(map(repr, first))} take a single column and others a table: "
            "publish them separately"
        )
    return names, count


def describe_outputs(model: Any, label_encoder: Any) -> Outputs:
    """Describe the output of a fitted model for new rows.

    The described classes are the original labels, before encoding.

    The function inspects the object rather than its class, because many methods exist only after fitting or with
    certain parameters.

    Raises
    ------
    InvalidRequest
        The model has no method that scores new rows, or it has classes that the label encoder does not know.
    """
    if not hasattr(model, "fit") and not hasattr(model, "predict"):  # a DataFrame also has a transform method
        raise InvalidRequest(f"{type(model).__name__} is not an estimator: it has neither fit() nor predict()")
    check_fitted(model, f"this {type(model).__name__}")
    methods = tuple(name for name in METHODS if callable(read_attribute(model, name)))
    if not methods:
        raise InvalidRequest(_why_it_cannot_score(model))
    classes: Any = read_attribute(model, "classes_")
    if classes is not None and not len(classes):  # a regressor of CatBoost
        classes = None
    if _is_multi_output(classes):
        if label_encoder is not None:
            raise InvalidRequest(
                f"the model predicts {len(classes)} targets, but a label encoder serves only one: publish without it"
            )
        labels: tuple[Any, ...] | None = tuple(_labels(one) for one in classes)
    else:
        if classes is not None and label_encoder is not None:
            classes = decode_classes(model, classes, label_encoder)
        labels = None if classes is None else _labels(classes)
    return Outputs(kind=_kind(model, methods), methods=methods, classes=labels)


def takes_one_column(estimator: Any) -> bool:
    """Return whether the input of an estimator is a one-dimensional array of values, as for text vectorizers.

    Meta-estimators and pipelines do not report the shape of their input, so their first step is inspected.
    """
    return not getattr(_input_tags(_innermost(estimator)), "two_d_array", True)


def replaces_blanks(estimator: Any) -> bool:
    """Return whether LightGBM recorded the feature names. LightGBM replaces blanks in names by underscores."""
    return type(_fitted_inside(estimator)).__module__.partition(".")[0] == "lightgbm"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a model depends on."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": numpy.__version__,
        "joblib": joblib.__version__,
    }


def read_attribute(estimator: Any, name: str) -> Any:
    """Return an attribute of an estimator, or None if it has none. A property in a library may raise any exception."""
    try:
        return getattr(estimator, name, None)
    except Exception:  # noqa: BLE001
        return None


def recorded_features(estimator: Any) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the names and the number of the features of one estimator. A value that is not recorded is None.

    CatBoost stores feature names in another attribute. An unpickled CatBoost model reports 0 features.
    """
    number = read_attribute(estimator, "n_features_in_") or None
    names = read_attribute(estimator, "feature_names_in_")
    inner = _fitted_inside(estimator)
    if names is None and hasattr(inner, "predict"):  # a transformer may use this attribute for its output
        names = next((found for key in _OTHER_NAMES if (found := read_attribute(inner, key)) is not None), None)
        if names is not None and number not in (None, len(names)):
            names = None
    if names is None or not len(names):
        return None, None if number is None else int(number)
    texts = tuple(str(name) for name in names)
    own = read_attribute(estimator, "feature_names_in_") is not None
    by_position = not own and any(texts == tuple(f"{stem}{n}" for n in range(len(texts))) for stem in ("", "Column_"))
    return None if by_position else texts, int(number or len(texts))


def _fitted_inside(estimator: Any) -> Any:
    """Return the fitted estimator that processes the rows first, without the meta-estimators around it."""
    while True:
        steps = read_attribute(estimator, "steps")
        fitted = read_attribute(estimator, "estimators_")
        calibrated = read_attribute(estimator, "calibrated_classifiers_")
        inner = read_attribute(estimator, "best_estimator_")
        if inner is None:
            inner = read_attribute(estimator, "regressor_")
        if inner is None and isinstance(steps, list):
            inner = next((step for _, step in named_steps(steps)), None)
        if inner is None and isinstance(calibrated, list) and calibrated:
            inner = read_attribute(calibrated[0], "estimator")
        if inner is None and isinstance(fitted, list) and fitted:
            inner = fitted[0]
        if inner is None or inner is estimator or not hasattr(inner, "fit"):
            return estimator
        estimator = inner


def check_fitted(model: Any, what: str) -> None:
    """Raise `InvalidRequest` if a scikit-learn estimator is not fitted.

    Other estimators are not checked, because they follow no common convention. `what` begins the message.
    """
    if not type(model).__module__.startswith("sklearn."):
        return
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise InvalidRequest(f"{what} is not fitted: call fit() before you save it") from None
    except (TypeError, AttributeError, ValueError):  # cannot be determined
        return


def _why_it_cannot_score(model: Any) -> str:
    name = type(model).__name__
    for method in ("fit_predict", "fit_transform"):
        if callable(getattr(model, method, None)):
            remedy = ": fit it with novelty=True" if hasattr(model, "novelty") else ""
            return f"{name} cannot score new rows: it has only {method}(), for the rows it is fitted on{remedy}"
    return f"{name} cannot score: it has none of the methods {', '.join(METHODS)}"


def _is_multi_output(classes: Any) -> bool:
    return isinstance(classes, list | tuple) and bool(classes) and all(numpy.ndim(one) == 1 for one in classes)


def _labels(classes: Any) -> tuple[Any, ...]:
    """Return the labels as values that JSON supports.

    Labels of other types become text, such as ``2026-11-25`` for a date.
    """
    array = numpy.asarray(classes)
    if array.dtype.kind == "M":
        return tuple(numpy.datetime_as_string(array, unit="auto").tolist())
    return tuple(x if isinstance(x, bool | int | float | str) else str(x) for x in array.tolist())


def _kind(model: Any, methods: tuple[str, ...]) -> str:
    kind = read_attribute(model, "_estimator_type") or getattr(_tags(model), "estimator_type", None)
    if kind:
        return str(kind)
    if "predict" not in methods:
        return "transformer" if "transform" in methods else "density_estimator"
    return "estimator"


def _tags(estimator: Any) -> Any:
    try:
        return sklearn.utils.get_tags(estimator)
    except Exception:  # noqa: BLE001  # not an estimator, or one for another version of scikit-learn
        return None


def _input_tags(estimator: Any) -> Any:
    return getattr(_tags(estimator), "input_tags", None)


def _innermost(estimator: Any) -> Any:
    """Return the estimator that processes the rows first, without the pipelines and meta-estimators around it."""
    while True:
        if (best := read_attribute(estimator, "best_estimator_")) is not None:
            estimator = best
            continue
        steps = [
            step
            for name in ("steps", "transformer_list", "estimators")
            if isinstance(read_attribute(estimator, name), list)
            for _, step in named_steps(read_attribute(estimator, name))
        ]
        inner = steps[0] if steps else read_attribute(estimator, "estimator")
        if inner is None or not hasattr(inner, "fit"):
            return estimator
        estimator = inner


def named_steps(steps: list[Any]) -> list[tuple[str, Any]]:
    """Return the steps of a pipeline that are estimators, with their names."""
    return [
        item
        for item in steps
        if isinstance(item, tuple) and len(item) == 2 and not (item[1] is None or isinstance(item[1], str))
    ]


def _non_tabular_input(estimator: Any) -> str | None:
    """Return None if the estimator accepts a table; otherwise a description of its input."""
    inner = _innermost(estimator)
    tags = _tags(inner)
    if tags is None or tags.input_tags.two_d_array:
        return None
    if tags.input_tags.dict:
        return "dicts"
    if tags.input_tags.three_d_array:
        return "images"
    return "sets of labels" if tags.target_tags.two_d_labels else None
