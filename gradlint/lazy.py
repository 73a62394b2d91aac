"""Names that a package offers and loads when they are first used, so that commands start fast.

A class loaded in this way says in its documentation what its attributes are, which Python itself does not keep.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package that lists its names once."""

    def load(name: str) -> Any:
        module = None if name.startswith("__") else modules_of(package).get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        if isinstance(value, type) and not isinstance(vars(value)["__doc__"], _Documentation):
            value.__doc__ = _Documentation(value)  # type: ignore[assignment]
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules_of(package)})

    return load, names


@functools.cache
def modules_of(package: str) -> dict[str, str]:
    """Return the names of a package, each with its module.

    They are those that its source imports as ``from module import Name as Name``.
    """
    import ast  # not needed by a command that uses none of the names
    import inspect

    tree = ast.parse(inspect.getsource(sys.modules[package]))  # asks the loader: works from a zip file too
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names if alias.asname == alias.name}


class _Documentation:
    """A class's docstring with the docstrings of its attributes, which are read when it is asked for."""

    def __init__(self, cls: type) -> None:
        self._own = cls.__doc__
        self._cls = cls

    def __get__(self, instance: object, owner: type) -> str | None:
        own = [cls for cls in reversed(self._cls.__mro__) if cls.__module__.startswith("gradlint.")]
        rows = [f"    {name}: {text}" for cls in own for name, text in attribute_docstrings(cls).items()]
        return "\n".join([self._own or "", "", "Attributes:", *rows]) if rows else self._own


@functools.cache
def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the docstrings of a class's attributes by name, as its source has them."""
    import ast
    import inspect
    import textwrap

    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, below in itertools.pairwise(definition.body):
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found.update(dict.fromkeys(names, " ".join(below.value.value.split())))
    return found
