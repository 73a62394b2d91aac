"""Magics for IPython and Jupyter: ``%load_ext gradlint``, then ``%gradlint check model`` and ``%%gradlint``.

Nothing here imports IPython: it hands its shell in.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from gradlint.errors import UsageError

if TYPE_CHECKING:
    from gradlint.findings import Report, Summary

_USAGE = "%gradlint check EXPRESSION, or %gradlint summary EXPRESSION; %%gradlint above a cell records its training"


def load_ipython_extension(shell: Any) -> None:
    """Add the magics to an IPython shell, as ``%load_ext gradlint`` asks for."""

    def gradlint(line: str, cell: str | None = None) -> Report | Summary | None:
        try:
            return _of_line(shell, line) if cell is None else _of_cell(shell, line, cell)
        except UsageError as error:
            sys.stdout.write(f"gradlint: {error}\n")
            return None

    gradlint.__doc__ = f"Find what should train and does not.\n\n{_USAGE}"
    shell.register_magic_function(gradlint, "line_cell", "gradlint")


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; write {_USAGE}")


def _of_line(shell: Any, line: str) -> Report | Summary:
    """Return the report on what an expression of the user's names, or its summary."""
    command, _, rest = line.strip().partition(" ")
    if command not in ("check", "summary") or not rest.strip():
        raise UsageError(f"write {_USAGE}")
    given, text = _options(rest, "--input", "--select", "--ignore")
    setup = text if _is_target(text) else shell.ev(text)
    import gradlint

    name = "" if isinstance(setup, str) else text
    if command == "summary":
        return gradlint.summary(setup, inputs=given.input, name=name)
    return gradlint.check(setup, inputs=given.input, select=given.select, ignore=given.ignore, name=name)


def _of_cell(shell: Any, line: str, cell: str) -> Report | None:
    """Run a cell with its training recorded; return the report on it."""
    given, rest = _options(line, "--select", "--ignore")
    if rest:
        raise UsageError(f"{rest!r} is unknown; write {_USAGE}")
    import gradlint

    text = shell.transform_cell(cell)
    file = shell.compile.cache(text, shell.execution_count, raw_code=cell)
    code = compile(shell.compile.ast_parse(text, filename=file), file, "exec")
    with gradlint.record(name="this cell") as recording:
        exec(code, shell.user_ns)
    trained = recording.trace.training is not None and bool(recording.trace.training.backwards)
    if not trained:
        sys.stdout.write("gradlint: nothing trained in this cell: there was no backward pass\n")
        return None
    return gradlint.check(recording, select=given.select, ignore=given.ignore)


def _options(text: str, *names: str) -> tuple[argparse.Namespace, str]:
    """Return the options in a line, and what is left of it as it was written."""
    parser = _Words(prog="%gradlint", add_help=False, allow_abbrev=False)
    for name in ("--input", "--select", "--ignore"):
        parser.add_argument(name, action="append", default=[])
    words = text.split()
    taken: list[str] = []
    while words and words[0].partition("=")[0] in names:
        size = 1 if "=" in words[0] else 2
        taken += words[:size]
        words = words[size:]
    if words and words[0].startswith("--"):
        raise UsageError(f"there is no option {words[0]}; write {_USAGE}")
    try:
        given = parser.parse_args(shlex.split(" ".join(taken)))
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from error
    return given, " ".join(words) if taken else text.strip()


def _is_target(text: str) -> bool:
    """Return True for ``model.py:build``; slices and dicts have colons too, but name no file."""
    file, colon, attribute = text.rpartition(":")
    return bool(colon) and attribute.replace(".", "").isidentifier() and os.path.isfile(file)
