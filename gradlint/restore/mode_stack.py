"""torch's stacks of function modes and dispatch modes: taking one mode off, and putting a whole stack back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import overrides
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext


class ModeStack:
    """One of torch's stacks of modes, innermost last.

    Args:
        read: returns the modes.
        pop: takes the innermost off, without its own exit.
        push: puts one on, without its own enter.
    """

    def __init__(self, read: Callable[[], list[Any]], pop: Callable[[], Any], push: Callable[[Any], object]) -> None:
        self.read = read
        self._pop = pop
        self._push = push

    def take_off(self, mode: Any) -> None:
        """Take a mode off, wherever it is."""
        modes = self.read()
        left = [each for each in modes if each is not mode]
        if len(left) < len(modes):
            self._write(left)

    def put_back(self, modes: list[Any]) -> None:
        """Make the stack what it was.

        Modes that are left over end by their own exit, except devices: they reorder the stack, or were never entered.
        """
        kept = {id(mode) for mode in modes}
        for _ in range(1000):  # an exit may put another mode in place of its own
            now = self.read()
            if not now:
                break
            if id(now[-1]) not in kept and not isinstance(now[-1], DeviceContext):
                with suppress(Exception):
                    now[-1].__exit__(None, None, None)
            left = self.read()
            if left and left[-1] is now[-1]:
                self._pop()
        self._write(modes)

    def _write(self, modes: list[Any]) -> None:
        for _ in self.read():
            self._pop()
        for mode in modes:
            self._push(mode)


class HiddenStack(ModeStack):
    """A stack that this torch lets nobody read: it is left alone, and a mode comes off by its own exit."""

    def __init__(self) -> None:
        super().__init__(list, lambda: None, lambda mode: None)

    def take_off(self, mode: Any) -> None:
        """Take the innermost mode off, if there is one."""
        with suppress(RuntimeError):  # the stack is empty: the mode has come off before
            overrides.TorchFunctionMode.__exit__(mode, None, None, None)  # type: ignore[no-untyped-call]


def stack_of(owner: Any, read: str) -> ModeStack:
    """Return a stack of modes by torch's private names, which a later torch may lack."""
    read_modes, pop, push = (getattr(owner, name, None) for name in (read, "_pop_mode", "_push_mode"))
    return ModeStack(read_modes, pop, push) if read_modes and pop and push else HiddenStack()


function_modes = stack_of(overrides, "_get_current_function_mode_stack")
dispatch_modes = stack_of(_python_dispatch, "_get_current_dispatch_mode_stack")
