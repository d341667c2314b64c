"""Labels: names and values that a user gives to a job, to find it again. They do not affect how the job is scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scoreline.storage.errors import InvalidRequest

MAX_LABELS = 16
"""Maximum number of labels of a job. They are in the job's entry of the index, which should stay small."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_MAX_VALUE = 200


def check_labels(labels: Any) -> dict[str, str]:
    """Return the labels of a job, sorted by name; raises `InvalidRequest`. None means that there are no labels.

    >>> check_labels({"team": "risk", "run": "nightly"})
    {'run': 'nightly', 'team': 'risk'}
    """
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise InvalidRequest(f"labels {labels!r} are not names with values, such as {{'team': 'risk'}}")
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} are given, and a job has at most {MAX_LABELS}")
    for name, value in labels.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"labels: {name!r} is not the name of a label: use up to 63 letters, digits, '.', '_', '/' and '-', "
                "beginning with a letter or a digit"
            )
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _MAX_VALUE:
            raise InvalidRequest(
                f"labels: the value of {name!r} is not a text of 1 to {_MAX_VALUE} printable characters"
            )
    return dict(sorted(labels.items()))
