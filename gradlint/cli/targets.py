"""Suggestions for targets without an attribute, found in the source without running it."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from gradlint.system import reading

SUGGESTED = 5
"""Builders named in a suggestion."""
FILES_READ = 200
"""Files of a folder that are looked through for builders."""
_BUILDER = re.compile(r"^_?(build|make|create|setup|get_(model|setup)|construct)|(model|setup|build)$", re.IGNORECASE)


def missing_attribute(target: str) -> str | None:
    """Return advice for a target without ``:attribute``; None if it has one."""
    path, colon, attribute = target.rpartition(":")
    # A slash after the last colon: it is the one of a Windows drive.
    if colon and path and attribute and not re.search(r"[\\/]", attribute):
        return None
    place = target.removesuffix(":")
    if not place:
        return "this target names neither file nor attribute; write it as in model.py:build"
    if Path(place).is_dir():
        return _about_folder(Path(place))
    if Path(place).is_file():
        return _about_file(place)
    if place.endswith(".py") or re.search(r"[\\/]", place):
        return f"there is no file {place}, and the target names no attribute; write it as in model.py:build"
    return f"{place} needs an attribute, the function that builds what you train: try {place}:build"


def builders(path: Path) -> list[str]:
    """Return the top-level functions of a file that may build a model, likeliest first.

    They can be called without arguments. The list is empty if the file cannot be parsed.
    """
    try:
        tree = ast.parse(reading.read(path))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    ranked = [(rank, node.name) for node in tree.body if isinstance(node, ast.FunctionDef)
              and (rank := _rank(node)) is not None]  # fmt: skip
    best = min((rank for rank, _ in ranked), default=0)
    return [name for rank, name in sorted(ranked, key=lambda item: item[0]) if rank < 3 or best == 3]


def _rank(function: ast.FunctionDef) -> int | None:
    arguments = function.args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    if required or None in arguments.kw_defaults:
        return None
    if function.name == "build":
        return 0
    if function.name.startswith("build"):
        return 1
    if _BUILDER.search(function.name):
        return 2
    returns = any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(function))
    return 3 if returns and not function.name.startswith("_") else None


def _about_file(path: str) -> str:
    names = builders(Path(path))
    if not names:
        return (
            f"{path} needs an attribute, the function that builds what you train, as in {path}:build; "
            "no function in it looks like one, so write one that returns the model (README: Writing build())"
        )
    rest = f" (it also has {', '.join(names[1:SUGGESTED])})" if names[1:] else ""
    return f"{path} needs an attribute, the function that builds what you train: try {path}:{names[0]}{rest}"


def _about_folder(folder: Path) -> str:
    suggestions = list(itertools.islice(_folder_builders(folder), SUGGESTED))
    hint = f"try {', '.join(suggestions)}" if suggestions else f"as in {(folder / 'model.py').as_posix()}:build"
    return f"{folder.as_posix()} is a folder; name the function in it that builds what you train: {hint}"


def _folder_builders(folder: Path) -> Iterator[str]:
    for path in itertools.islice(sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py")), FILES_READ):
        for name in builders(path):
            if name == "build" or _BUILDER.search(name):
                yield f"{path.as_posix()}:{name}"
