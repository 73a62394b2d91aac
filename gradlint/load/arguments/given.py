"""The arguments of a build() as they are written, and the tree of values that they make."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gradlint.errors import TargetError, UsageError

WORDS = {"True": True, "False": False, "None": None}
"""Literals as Python spells them, beside those of JSON."""
SUFFIXES = (".json", ".yaml", ".yml", ".toml")
"""The suffixes of files whose content an argument may be."""


class Argument(NamedTuple):
    """One argument, as after ``--arg`` or in a table ``args`` of the configuration."""

    name: str
    """The parameter of build(), or with dots a key below it: ``cfg.optimizer.lr``."""
    value: Any
    """A text, or any other value that TOML has."""
    folder: str
    """The folder that the path of a file is relative to."""
    is_typed: bool = False
    """True if a text is certainly one; else ``3`` is a number."""


@dataclass(frozen=True)
class Arguments:
    """All arguments of one target."""

    values: tuple[Argument, ...] = ()
    """In their order: later ones change or replace earlier ones."""
    argv: tuple[str, ...] | None = None
    """The rest of ``sys.argv`` while the target is loaded and built; None for nothing."""

    def over(self, others: Arguments) -> Arguments:
        """Return others as these change them."""
        argv = others.argv if self.argv is None else self.argv
        return replace(self, values=(*others.values, *self.values), argv=argv)

    def tree(self) -> dict[str, Any]:
        """Return name → value, with a dict for names with dots; texts are `Text`.

        Raises:
            TargetError: a file cannot be read, or a name goes below a value that has no keys.
        """
        tree: dict[str, Any] = {}
        for argument in self.values:
            *parents, last = argument.name.split(".")
            place = tree
            for number, parent in enumerate(parents, 1):
                below = place.get(parent, {})
                if isinstance(below, Text):
                    below = below.resolved()
                if not isinstance(below, Mapping):
                    raise TargetError(f"{argument.name}: {'.'.join(parents[:number])} is {below!r}, which has no keys")
                below = dict(below)
                place[parent] = below
                place = below
            value = argument.value
            if isinstance(value, str):
                value = Text(argument.name, value, argument.folder, argument.is_typed)
            place[last] = value
        return tree


@dataclass(frozen=True)
class Text:
    """A value that is given as text; what it means is settled by the type of what takes it."""

    name: str
    text: str
    folder: str
    is_typed: bool

    def resolved(self) -> Any:
        """Return the content of the file that the text names, or the literal, or the text itself.

        Raises:
            TargetError: the file is not there or cannot be read.
        """
        if self.text.lower().endswith(SUFFIXES) and "." not in self.name:
            from gradlint.load.arguments.files import content  # not needed otherwise

            return content(self.path, self.name)
        return self.literal()

    def literal(self) -> Any:
        """Return the JSON value that the text is, else the text itself."""
        if self.is_typed:
            return self.text
        if self.text in WORDS:
            return WORDS[self.text]
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return self.text

    @property
    def path(self) -> str:
        """The text as a path from the working directory."""
        path = os.path.join(self.folder, os.path.expanduser(self.text))
        here = os.path.join(os.getcwd(), "")
        return path.removeprefix(here)


NONE = Arguments()
"""No arguments."""


def given(texts: Iterable[str], argv: str | None = None) -> Arguments:
    """Return the arguments that ``--arg NAME=VALUE`` and ``--argv TEXT`` give.

    Raises:
        UsageError: one is written in another way.
    """
    values = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not is_name(name):
            raise UsageError(f"--arg {text!r}: write NAME=VALUE, as in --arg lr=0.1 or --arg cfg=conf.yaml")
        values.append(Argument(name, value, os.getcwd()))
    if argv is None:
        return Arguments(tuple(values))
    try:
        return Arguments(tuple(values), tuple(shlex.split(argv)))
    except ValueError as error:
        raise UsageError(f"--argv {argv!r}: {error}") from error


def configured(args: Iterable[tuple[str, Any]], argv: Iterable[str] | None, folder: str) -> Arguments:
    """Return the arguments of a table in a configuration file that lies in a folder."""
    values = tuple(Argument(name, value, folder, is_typed=True) for name, value in args)
    return Arguments(values, None if argv is None else tuple(argv))


def is_name(text: str) -> bool:
    """Return True if a text is the name of a parameter, with or without keys below it."""
    first, *rest = text.split(".")
    return first.isidentifier() and all(rest)
