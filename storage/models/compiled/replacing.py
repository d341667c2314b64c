"""Replaces methods of estimators by compiled ones for the time of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from scoreline.storage.models.compiled.fitted_state import FittedState


def own_method(model: Any, name: str) -> Any:
    """Return a method of an estimator as its class defines it."""
    return getattr(type(model), name).__get__(model)


class ReplacingMethod:
    """A compiled method of an estimator, which calls that of scikit-learn once the estimator has been changed.

    Parameters
    ----------
    model : Any
        The estimator.
    name : str
        The name of the method. scikit-learn decides by this name what the results of a method mean.
    compiled : callable
        The compiled method.
    state : FittedState
        The estimator as it was compiled.
    """

    def __init__(self, model: Any, name: str, compiled: Callable[..., Any], state: FittedState) -> None:
        self.__name__ = name
        self._model = model
        self._compiled = compiled
        self._state = state

    def __call__(self, *arguments: Any, **params: Any) -> Any:
        """Return what the method of scikit-learn returns."""
        method = self._compiled if self._state.is_current() else own_method(self._model, self.__name__)
        return method(*arguments, **params)

    def __reduce__(self) -> Any:
        """Pickle and copy the method of scikit-learn, because a copy may be used after the batch."""
        return own_method, (self._model, self.__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Replacement:
    """What replaces methods and attributes of an estimator while it is as it was compiled."""

    estimator: Any
    methods: Mapping[str, ReplacingMethod]
    stand_ins: Mapping[str, Any]
    """Objects that take the place of attributes which are no methods."""
    state: FittedState

    @classmethod
    def of(cls, estimator: Any, compiled: Mapping[str, Any]) -> Self:
        """Return what replaces methods and other attributes of a fitted estimator by compiled ones."""
        methods = {name: value for name, value in compiled.items() if hasattr(type(estimator), name)}
        stand_ins = {name: value for name, value in compiled.items() if name not in methods}
        state = FittedState(estimator, stand_ins)
        return cls(
            estimator=estimator,
            methods={name: ReplacingMethod(estimator, name, value, state) for name, value in methods.items()},
            stand_ins=stand_ins,
            state=state,
        )

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Within the block, replace methods and attributes, unless the estimator has been changed before.

        The estimator may also have a method that was set by the user. This method is called.
        """
        if self.methods.keys() & vars(self.estimator).keys() or not self.state.is_current():
            yield
            return
        with replaced(self.estimator, {**self.methods, **self.stand_ins}):
            yield


@contextlib.contextmanager
def replaced(instance: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes of an object within the block. Afterwards, restore the attributes that the object had before.

    An attribute that was set again within the block keeps its new value: for example, fitting sets the ``tree_`` of a
    decision tree. A copy that is made within the block has the attributes that the object had before.
    """
    own = vars(instance)
    state = _OwnState(instance, attributes, {name: own[name] for name in (*attributes, _STATE) if name in own})
    own |= {**attributes, _STATE: state}
    try:
        yield
    finally:
        state.restore(vars(instance))


_STATE = "__getstate__"


@dataclass(frozen=True)
class _OwnState:
    """The method of an object from which a copy gets its attributes, while some of these are replaced."""

    instance: Any
    attributes: Mapping[str, Any]
    before: Mapping[str, Any]

    def __call__(self) -> dict[str, Any]:
        """Return the attributes that the object had before any of them were replaced."""
        kind: Any = type(self.instance)
        state: dict[str, Any] = dict(kind.__getstate__(self.instance))
        replacement: Any = self
        while isinstance(replacement, _OwnState):  # one block may be within another
            replacement.restore(state)
            replacement = replacement.before.get(_STATE)
        return state

    def restore(self, own: dict[str, Any]) -> None:
        """Restore those attributes that were not set again."""
        for name, value in (*self.attributes.items(), (_STATE, self)):
            if own.get(name) is not value:
                continue
            if name in self.before:
                own[name] = self.before[name]
            else:
                own.pop(name, None)
