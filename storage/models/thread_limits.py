"""Limits estimators to one thread, because a worker already runs several processes in parallel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_MAX_ITEMS = 10_000
"""Containers with more items hold data rather than estimators, and are not searched."""


def limit_to_one_thread(estimator: Any) -> Any:
    """Set every ``n_jobs`` of an estimator and of the estimators within it to 1, and return it.

    Some estimators act on a change of their parameters, so these are set first. Other estimators cannot list their
    parameters, because an attribute has another name than its parameter, or because an older release of a library lacks
    a parameter. Fitted copies are not parameters. All of these are reached through attributes.
    """
    with contextlib.suppress(Exception):
        threads = {name: 1 for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"}
        if threads:
            estimator.set_params(**threads)
    for found in estimators_within(estimator):
        if vars(found).get("n_jobs") not in (None, 1):
            with contextlib.suppress(Exception):
                found.n_jobs = 1
    return estimator


def estimators_within(root: Any) -> Iterator[Any]:
    """Yield each estimator that can be reached by attributes, lists, tuples and dicts."""
    pending, seen = [root], set[int]()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, list | tuple | dict):
            if len(item) <= _MAX_ITEMS:
                pending += item.values() if isinstance(item, dict) else item
        elif hasattr(type(item), "fit") and hasattr(item, "__dict__"):
            yield item
            pending += vars(item).values()
