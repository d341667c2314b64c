"""What is compiled in the models of a bundle, and its use. This module works without the extensions."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which needs scikit-learn
    from scoreline.storage.models.compiled.replacing import Replacement

_MAX_SUMMARY = 300
"""Maximum number of characters of a summary, which processes pass on through a small memory."""


class Uses:
    """Tells whether anything compiled was used since it was made. It may have left all rows to scikit-learn."""

    count = 0
    """How often compiled forms were used in this process."""

    def __init__(self) -> None:
        self._before = Uses.count

    def __bool__(self) -> bool:
        return Uses.count > self._before


@dataclass(frozen=True, kw_only=True)
class FoundEstimator:
    """An ensemble of trees, a text vectorizer or a scaler within a model, and whether it is compiled."""

    place: str
    """Its place in the model, for example ``model.steps[1][1]``."""
    name: str
    """The name of its class."""
    kind: str = "tree ensemble"
    """What it is, in words that an "s" puts into the plural."""
    reason: str | None = None
    """Why it is not compiled, so that scikit-learn's own code is used; None if it is compiled."""


@dataclass(frozen=True, kw_only=True)
class CompiledEstimators:
    """The ensembles, vectorizers and scalers found in a bundle, and what replaces the methods of some."""

    found: tuple[FoundEstimator, ...] = ()
    nbytes: int = 0
    """Memory that what is compiled takes in addition to the estimators."""
    replacements: tuple[Replacement, ...] = field(default=(), repr=False)
    """What replaces methods of the estimators that are compiled."""

    def __bool__(self) -> bool:
        return bool(self.replacements)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Uses]:
        """Within the block, estimators use their compiled methods. This context manager is not thread-safe.

        An estimator that has been changed since it was compiled uses the methods of scikit-learn. What this context
        manager yields says whether any compiled method was used in the block.
        """
        with contextlib.ExitStack() as stack:
            for replacement in self.replacements:
                stack.enter_context(replacement.in_use())
            yield Uses()

    def summary(self) -> str:
        """Return how many of each kind are compiled. For the first one that is not compiled, also say why.

        >>> CompiledEstimators(found=(FoundEstimator(place="model", name="DecisionTreeClassifier"),)).summary()
        '1 of 1 tree ensembles compiled'
        """
        if not self.found:
            return "no tree ensembles, text vectorizers or scalers compiled"
        others = [one for one in self.found if one.reason is not None]
        numbers = Counter(one.kind for one in self.found)
        left_out = Counter(one.kind for one in others)
        text = " and ".join(f"{count - left_out[kind]} of {count} {kind}s" for kind, count in numbers.items())
        text += " compiled"
        if others:
            text += f"; not {others[0].name} ({others[0].place}), because {others[0].reason}"
        return text if len(text) <= _MAX_SUMMARY else text[: _MAX_SUMMARY - 1] + "…"

    def left_out(self, reason: str) -> CompiledEstimators:
        """Return the same estimators, none of them compiled. `reason` says why, for those that were compiled."""
        return CompiledEstimators(found=tuple(replace(one, reason=one.reason or reason) for one in self.found))
