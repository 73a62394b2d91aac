"""Declarations about the gradient of a value: they return it as it is, and a recording checks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from gradlint.system.undo import Undo

    def constant(value: T) -> T:
        """Declare that no gradient passes through a value, and return the value.

        For example ``constant(target.detach())``. The value is a tensor, or tensors in tuples,
        lists and dicts. Without a recording this does nothing.
        """

    def differentiable(value: T) -> T:
        """Declare that gradient passes through a value, and return the value.

        For example ``differentiable(encoder(x))``. The value is a tensor, or tensors in tuples,
        lists and dicts. Without a recording this does nothing.
        """

else:
    # torch.jit.script takes an argument without annotation for a tensor, and knows no type variables

    def constant(value):
        """Declare that no gradient passes through a value, and return the value."""
        return value

    def differentiable(value):
        """Declare that gradient passes through a value, and return the value."""
        return value


_observers: list[Callable[[Any, bool], None]] = []
"""Called with each marked value, and True if it is marked as constant."""


def _observed_constant(value: Any) -> Any:
    for observe in _observers:
        observe(value, True)
    return value


def _observed_differentiable(value: Any) -> Any:
    for observe in _observers:
        observe(value, False)
    return value


_PLAIN = (constant.__code__, differentiable.__code__)


def observe(undo: Undo, observer: Callable[[Any, bool], None]) -> None:
    """Call an observer with each marked value until it is undone.

    Its second argument is True for a value that is marked as constant. The markers get other code for that time. A
    test of a variable in them would cost time in every training, and would keep scripts from being compiled.
    """
    undo.call(_stop_observing, observer)
    _observers.append(observer)
    constant.__code__ = _observed_constant.__code__
    differentiable.__code__ = _observed_differentiable.__code__


def _stop_observing(observer: Callable[[Any, bool], None]) -> None:
    _observers[:] = [other for other in _observers if other is not observer]
    if not _observers:
        constant.__code__, differentiable.__code__ = _PLAIN
