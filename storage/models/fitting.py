"""Checks that the loaded steps of a bundle are fitted, and fit together.

A bundle whose steps do not belong together may still return scores, all of which are wrong. Therefore such a bundle is
refused when it is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import joblib

from scoreline.storage.errors import InvalidRequest
from scoreline.storage.models.introspection import check_fitted, named_steps, read_attribute, recorded_features
from scoreline.storage.models.manifest import Role
from scoreline.storage.wording import plural


def check_objects(steps: Mapping[Role, Mapping[str, Any]]) -> None:
    """Raise `InvalidRequest` for the first artifact that is no fitted estimator."""
    for role, members in steps.items():
        for name, step in members.items():
            what = f"{role.replace('_', ' ')} {name!r}"
            if isinstance(step, type):
                raise InvalidRequest(f"{what} is the class {step.__name__}: save a fitted object of this class")
            if isinstance(step, dict | list | tuple):
                held = [repr(key) for key in step] if isinstance(step, dict) else [type(one).__name__ for one in step]
                raise InvalidRequest(
                    f"{what} is a {type(step).__name__} of {', '.join(held[:6]) or 'nothing'}: save each object in a "
                    "file of its own, and give each file its role"
                )
            if role != "model":
                check_fitted(step, f"{what} is a {type(step).__name__} that")


def check_together(steps: Mapping[Role, Mapping[str, Any]]) -> None:
    """Raise `InvalidRequest` if a preprocessor is given twice, or if the columns of a step do not fit the next one."""
    _check_repeated(steps["preprocessor"], steps["model"])
    before: tuple[str, int] | None = None
    for name, step in steps["preprocessor"].items():
        _check_width(before, f"preprocessor {name!r}", step)
        width = _output_width(step)
        before = None if width is None else (f"preprocessor {name!r}", width)
    for name, model in steps["model"].items():
        _check_width(before, f"model {name!r}", model)


def _check_repeated(preprocessors: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    for (one, first), (two, second) in combinations(preprocessors.items(), 2):
        if _are_equal(first, second):
            raise InvalidRequest(
                f"preprocessors {one!r} and {two!r} are the same {type(first).__name__}, which would transform the "
                "rows twice: give it once"
            )
    for name, step in preprocessors.items():
        for label, model in models.items():
            if any(_are_equal(step, inner) for inner in _pipeline_steps(model)):
                raise InvalidRequest(
                    f"model {label!r} already contains preprocessor {name!r}, a {type(step).__name__}, which would "
                    "transform the rows twice: publish the model without this preprocessor"
                )


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two steps are fitted alike. A step without parameters or attributes may well be given twice."""
    return type(one) is type(other) and bool(getattr(one, "__dict__", None)) and joblib.hash(one) == joblib.hash(other)


def _pipeline_steps(model: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline, also within further pipelines."""
    steps = read_attribute(model, "steps")
    for _, step in named_steps(steps) if isinstance(steps, list) else ():
        yield step
        yield from _pipeline_steps(step)


def _check_width(before: tuple[str, int] | None, what: str, step: Any) -> None:
    """Raise `InvalidRequest` if a step was fitted on another number of columns than the one before it returns."""
    takes = recorded_features(step)[1]
    if before is not None and takes not in (None, before[1]):
        raise InvalidRequest(
            f"{before[0]} returns {plural(before[1], 'column')}, but {what} was fitted on {takes}: give the "
            "preprocessors with which the model was fitted, in this order"
        )


def _output_width(step: Any) -> int | None:
    """Return the number of columns that a transformer of scikit-learn returns; None if it is unknown."""
    if not type(step).__module__.startswith("sklearn."):
        return None
    try:
        return len(step.get_feature_names_out())
    except Exception:  # noqa: BLE001  # the step does not know, or a step within it may raise anything
        return None
