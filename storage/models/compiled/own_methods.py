"""Calls the methods that the classes of estimators define, where compiled ones replace them."""

from __future__ import annotations

from typing import Any


def own_method(model: Any, name: str) -> Any:
    """Return a method of an estimator as its class defines it."""
    return getattr(type(model), name).__get__(model)


class ReplacingMethod:
    """A method that replaces one of an estimator for the time of a batch. Subclasses define how it is called.

    Parameters
    ----------
    model : Any
        The estimator.
    name : str
        The name of the method. scikit-learn decides by this name what the results of a method mean.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.__name__ = name
        self._model = model

    def _own(self) -> Any:
        """Return the method of scikit-learn."""
        return own_method(self._model, self.__name__)

    def __reduce__(self) -> Any:
        """Pickle and copy the method of scikit-learn, because a copy may be used after the batch."""
        return own_method, (self._model, self.__name__)
