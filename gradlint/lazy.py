"""Names that a package offers and loads when they are first used, so that commands start fast."""

from __future__ import annotations

import functools
import importlib
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
