"""Wrap methods of a strategy or a model for as long as `fit` runs."""

from collections.abc import Callable
from typing import Any


class Wrapped:
    """Calls a function in place of a method of an object, until `remove` is called.

    Several callbacks may wrap the same method and remove their wrappers in any order.

    Args:
        owner: Object that has the method.
        name: Name of the method.
        around: Function that receives the original method and its arguments, and returns the result.
    """

    def __init__(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        self._owner = owner
        self._name = name
        self._around: Callable[..., Any] | None = around
        self._before = vars(owner).get(name)
        self._original = getattr(owner, name)
        self.__wrapped__ = getattr(self._original, "__wrapped__", self._original)  # Lightning reads the code of hooks
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._around is None:
            return self._original(*args, **kwargs)
        return self._around(self._original, *args, **kwargs)

    def remove(self) -> None:
        """Stop calling the function."""
        self._around = None
        while isinstance(last := vars(self._owner).get(self._name), Wrapped) and last._around is None:
            if last._before is None:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, last._before)
