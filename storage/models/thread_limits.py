"""Limits estimators to one thread, because a worker already runs several processes in parallel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_MAX_ITEMS = 10_000
"""Containers with more items hold data rather than estimators, and are not searched."""


def limit_to_one_thread(estimator: Any) -> Any:
    """Set ``n_jobs`` to 1 in an estimator and in all estimators within it, and return the estimator.

    Parameters are set first, because some estimators react to a changed parameter. Then, attributes are set in all
    estimators that attributes refer to. The second step also reaches fitted copies, which are not parameters, and
    estimators whose parameters cannot be listed.
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
