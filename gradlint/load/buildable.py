"""Buildables: objects that give a training setup when they are opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from gradlint.errors import TargetError
from gradlint.load.arguments.fill import filled
from gradlint.load.arguments.given import NONE, Arguments
from gradlint.load.build import Target, call_build
from gradlint.load.notebooks import what_is_skipped
from gradlint.load.target import load_target, parse_target
from gradlint.system.undo import Undo


class Buildable(Protocol):
    """A source of one training setup."""

    @property
    def label(self) -> str:
        """The name of the setup's origin in messages, for example ``model.py:build()``."""
        ...

    @property
    def at_hand(self) -> Any:
        """The object of the user's that is there before anything runs; None without one."""
        ...

    def open(self, teardown: ExitStack, undo: Undo) -> Any:
        """Run user code and return what it builds.

        Args:
            teardown: takes what user code does afterwards.
            undo: takes what must be undone after that.
        """
        ...


@dataclass(frozen=True)
class TargetOnDisk:
    """A target such as ``model.py:build``, which is imported and called."""

    target: Target
    arguments: Arguments = NONE

    @classmethod
    def named(cls, text: str, arguments: Arguments | None = None) -> TargetOnDisk:
        """Parse a target, which is built with arguments.

        Raises:
            UsageError: the text is no target.
            TargetError: the target names no attribute.
        """
        target = parse_target(text)
        if target.attribute is None:
            raise TargetError(f"{text} names no attribute: write {text}:build")
        return cls(target, arguments or NONE)

    def what_is_skipped(self) -> str:
        """Return in words what of a notebook is not run; empty if nothing is, and for other files."""
        path = self.target.path
        return what_is_skipped(os.path.abspath(path), self.target.attribute or "") if path is not None else ""

    @property
    def label(self) -> str:
        return self.target.label

    @property
    def at_hand(self) -> None:
        return None

    def open(self, teardown: ExitStack, undo: Undo) -> Any:
        made = load_target(self.target, undo, self.arguments.argv or ())
        values = self.arguments.tree()
        if values and not callable(made):
            raise TargetError(f"{self.target.attribute} is no function, and takes no argument {next(iter(values))!r}")

        def bind(function: Any, name: str) -> Callable[[], Any]:
            bound = filled(function, values, name)
            return lambda: function(*bound.args, **bound.kwargs)

        return call_build(made, self.target, teardown, bind)


@dataclass(frozen=True)
class SetupAtHand:
    """A build function, which is called, or what such a function returned."""

    setup: Any
    name: str

    @property
    def label(self) -> str:
        return f"{self.name}()" if self._builds else self.name

    @property
    def at_hand(self) -> Any:
        return self.setup

    def open(self, teardown: ExitStack, undo: Undo) -> Any:
        return call_build(self.setup, Target(self.name, attribute=self.name), teardown) if self._builds else self.setup

    @property
    def _builds(self) -> bool:
        import torch

        return callable(self.setup) and not isinstance(self.setup, torch.nn.Module)
