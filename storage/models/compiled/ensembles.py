"""The compiled ensembles of a bundle, and their use. This module works without the extension."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_MAX_SUMMARY = 300
"""Maximum number of characters of a summary, which processes pass on through a small memory."""


class Uses:
    """Tells whether compiled trees have scored rows since it was made. They may have left all rows to scikit-learn."""

    count = 0
    """How often compiled trees have scored rows in this process."""

    def __init__(self) -> None:
        self._before = Uses.count

    def __bool__(self) -> bool:
        return Uses.count > self._before


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """An ensemble of trees within a model, and whether it is compiled."""

    place: str
    """Its place in the model, for example ``model.steps[1][1]``."""
    name: str
    """The name of its class."""
    reason: str | None = None
    """Why the ensemble is not compiled, so that scikit-learn's own code is used; None if the ensemble is compiled."""


@dataclass(frozen=True, kw_only=True)
class CompiledEnsembles:
    """The ensembles that were found in a bundle, and the methods of the compiled ensembles."""

    found: tuple[Ensemble, ...] = ()
    nbytes: int = 0
    """Memory that the compiled ensembles take in addition to the estimators."""
    methods: tuple[tuple[Any, Mapping[str, Any]], ...] = field(default=(), repr=False)
    """Estimators, each with the attributes that replace its own."""

    def __bool__(self) -> bool:
        return bool(self.methods)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Uses]:
        """Within the block, the estimators use their compiled methods. This context manager is not thread-safe.

        Whether compiled trees have scored any rows in the block is known from what it yields.
        """
        with contextlib.ExitStack() as stack:
            for estimator, methods in self.methods:
                stack.enter_context(replaced(estimator, methods))
            yield Uses()

    def summary(self) -> str:
        """Return how many ensembles are compiled. For the first ensemble that is not compiled, also say why."""
        if not self.found:
            return "no tree ensembles compiled"
        others = [one for one in self.found if one.reason is not None]
        text = f"{len(self.found) - len(others)} of {len(self.found)} tree ensembles compiled"
        if others:
            text += f"; not {others[0].name} ({others[0].place}), because {others[0].reason}"
        return text if len(text) <= _MAX_SUMMARY else text[: _MAX_SUMMARY - 1] + "…"

    def left_out(self, reason: str) -> CompiledEnsembles:
        """Return the same ensembles without their compiled methods. `reason` says why, for those that were compiled."""
        return CompiledEnsembles(found=tuple(replace(one, reason=one.reason or reason) for one in self.found))


@contextlib.contextmanager
def replaced(instance: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes of an object within the block. Afterwards, restore the attributes that the object had before."""
    own = vars(instance)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                own[name] = before[name]
            else:
                own.pop(name, None)
