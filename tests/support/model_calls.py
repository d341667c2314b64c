"""Counts the calls of models in tests of scoring."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import pytest

from scoreline.tasks.scoring.outputs import outputs


@contextlib.contextmanager
def counted_calls(called: list[int], fails: list[Exception] | None = None) -> Iterator[None]:
    """Count the calls of models within the block. The counter pretends to be Scoreline's own code, not a user's.

    Parameters
    ----------
    called : list of int
        The number of rows of each call is appended to this list.
    fails : list of Exception, optional
        As long as this list contains errors, each call removes the last error and raises it.
    """

    def count(*arguments: Any) -> Any:
        called.append(len(arguments[1]))
        if fails:
            raise fails.pop()
        return outputs(*arguments)

    posing = types.FunctionType(count.__code__, {**globals(), "__name__": "scoreline.tests"}, closure=count.__closure__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoreline.tasks.scoring.score.outputs", posing)
        yield
