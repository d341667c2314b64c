"""Finds the categories that the encoders of a bundle know for each feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer

from scoreline.storage.models.introspection import read_attribute

_WRAPPED = ("best_estimator_", "estimator_", "regressor_", "classifier_", "estimator")
"""Attributes in which meta-estimators of scikit-learn keep the estimator that receives the features."""


@dataclass(frozen=True, kw_only=True)
class Categories:
    """The kinds of categories that an encoder knows for one column."""

    has_none: bool = False
    """Whether the encoder, or the imputer before it, represents a missing value by None rather than NaN."""
    has_nan: bool = False
    has_booleans: bool = False
    """Whether the categories are True and False."""
    are_texts: bool = False
    """Whether all categories are texts, apart from None and NaN."""


def known_categories(first: Any, features: Sequence[str]) -> dict[str, Categories]:
    """Return the kinds of categories that the first step of a bundle knows, by feature.

    Parameters
    ----------
    first : estimator
        The estimator that receives the features.
    features : sequence of str
        Names of the features, in the order of the columns.

    Returns
    -------
    dict of str to Categories
        The features that an encoder receives unchanged. An example of an encoder is a `OneHotEncoder` in a
        `ColumnTransformer`.

    Examples
    --------
    >>> from sklearn.preprocessing import OrdinalEncoder
    >>> known_categories(OrdinalEncoder().fit([["a"], [None]]), ["town"])
    {'town': Categories(has_none=True, has_nan=False, has_booleans=False, are_texts=True)}
    """
    found: dict[str, list[Any]] = {}
    for name, categories in _categories(first, tuple(features), 0):
        found.setdefault(name, []).extend(categories)
    return {name: _describe(values) for name, values in found.items()}


def _describe(values: Sequence[Any]) -> Categories:
    has_nan = any(value is not None and is_missing(value) for value in values)
    present = [value for value in values if not is_missing(value)]
    return Categories(
        has_none=any(value is None for value in values) and not has_nan,
        has_nan=has_nan,
        has_booleans=bool(present) and all(isinstance(value, bool | np.bool_) for value in present),
        are_texts=bool(present) and all(isinstance(value, str) for value in present),
    )


def _categories(estimator: Any, names: tuple[str, ...], depth: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield the names and categories of the columns that reach an encoder.

    `names` are the columns that `estimator` receives.
    """
    if estimator is None or isinstance(estimator, str) or depth > 20:
        return
    known = read_attribute(estimator, "categories_")
    if isinstance(known, list) and len(known) == len(names):
        for name, values in zip(names, known, strict=True):
            yield name, list(values)
    elif isinstance(read_attribute(estimator, "transformers_"), list):  # a ColumnTransformer
        own = read_attribute(estimator, "feature_names_in_")
        columns = names if own is None else tuple(map(str, own))
        for _, step, wanted in estimator.transformers_:
            if (chosen := _choose(wanted, columns)) is not None:
                yield from _categories(step, chosen, depth + 1)
    elif isinstance(read_attribute(estimator, "transformer_list"), list):  # a FeatureUnion
        for _, step in estimator.transformer_list:
            yield from _categories(step, names, depth + 1)
    elif isinstance(read_attribute(estimator, "steps"), list):  # a Pipeline
        steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
        imputers = list(takewhile(lambda step: isinstance(step, SimpleImputer) and not step.add_indicator, steps))
        missing = [imputer.missing_values for imputer in imputers if is_missing(imputer.missing_values)]
        for name, values in _categories(next(iter(steps[len(imputers) :]), None), names, depth + 1):
            yield name, [*values, *missing]
    elif isinstance(read_attribute(estimator, "calibrated_classifiers_"), list):  # a CalibratedClassifierCV
        yield from _categories(estimator.calibrated_classifiers_[0], names, depth + 1)
    elif isinstance(read_attribute(estimator, "estimators_"), list):  # for example, a VotingClassifier
        for inner in estimator.estimators_:
            yield from _categories(inner, names, depth + 1)
    else:
        for attribute in _WRAPPED:
            if (inner := read_attribute(estimator, attribute)) is not None and inner is not estimator:
                yield from _categories(inner, names, depth + 1)
                return


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and value != value)


def _choose(wanted: Any, names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of the columns that a transformer receives; None if they are unknown."""
    if isinstance(wanted, str):
        return (wanted,)
    if isinstance(wanted, slice) and not any(isinstance(end, str) for end in (wanted.start, wanted.stop)):
        return tuple(names[wanted])
    if isinstance(wanted, int | np.integer):
        return (names[int(wanted)],) if -len(names) <= wanted < len(names) else None
    try:
        chosen = list(wanted)
    except TypeError:
        return None
    if all(isinstance(item, str) for item in chosen):
        return tuple(chosen)
    if all(isinstance(item, bool | np.bool_) for item in chosen) and len(chosen) == len(names):
        return tuple(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)
    if all(isinstance(item, int | np.integer) and -len(names) <= item < len(names) for item in chosen):
        return tuple(names[int(item)] for item in chosen)
    return None
