"""The arguments of ``gradlint run``: options of gradlint, then a script, then whatever belongs to the script."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from gradlint.cli.help import GroupedCommand
from gradlint.cli.options import names_file

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_MODULE = re.compile(r"-[a-ln-z]*m(.*)")
"""Matches ``-m``, also at the end of several short options or with its value attached."""


class ScriptCommand(GroupedCommand):
    """A command that runs a script; all arguments after the script or the module belong to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the script, and leave the rest as it is."""
        own, rest = split(args, self._valued())
        return super().parse_args(ctx, [*own, "--", *rest])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return files after the script, whose options are unknown, and else what gradlint offers."""
        if ctx.params.get("script") or ctx.params.get("module"):
            from click.shell_completion import CompletionItem  # only a shell that completes needs it

            return [CompletionItem(incomplete, type="file")]
        return super().shell_complete(ctx, incomplete)

    def own(self, args: Sequence[str]) -> list[str]:
        """Return the arguments that are gradlint's, without the script and what belongs to it."""
        return split(args, self._valued())[0]

    def _valued(self) -> set[str]:
        return {
            name for p in self.params if isinstance(p, click.Option) and not (p.is_flag or p.count) for name in p.opts
        }

    def misplaced(self, arguments: Iterable[str]) -> str:
        """Return a script's first argument that is a long option of gradlint; empty without one."""
        options = {name for p in self.params if isinstance(p, click.Option) for name in p.opts if name[:2] == "--"}
        return next((name for argument in arguments if (name := argument.partition("=")[0]) in options), "")


class TargetOrScriptCommand(ScriptCommand):
    """A command that takes a target, with options on both sides of it, or a script with its arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse all options if a target is named, else those before the script."""
        if self._names_target(args):
            return click.Command.parse_args(self, ctx, args)
        return super().parse_args(ctx, args)

    def own(self, args: Sequence[str]) -> list[str]:
        """Return the arguments that are gradlint's; next to a target, all are."""
        return list(args) if self._names_target(args) else super().own(args)

    def _names_target(self, args: Sequence[str]) -> bool:
        own, rest = split(args, self._valued())
        return not any(map(_MODULE.fullmatch, own)) and not (rest and is_script(rest[0]))


def is_script(text: str) -> bool:
    """Return True if an argument names a script rather than a target."""
    return names_file(text, ".py", ".pyc")


def split(args: Sequence[str], valued: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the options of gradlint, and the rest.

    The rest is the script with its arguments; after ``-m``, only the arguments.

    Args:
        args: the arguments after ``run``.
        valued: names of the options that take a value.
    """
    position, runs_module = 0, False
    while position < len(args) and not runs_module:
        argument = args[position]
        if argument in ("-", "--") or not argument.startswith("-"):
            break
        module = None if argument.startswith("--") else _MODULE.fullmatch(argument)
        position += 2 if argument in valued or (module is not None and not module[1]) else 1
        runs_module = module is not None
    own, rest = list(args[:position]), list(args[position:])
    if not runs_module and rest[:1] == ["--"]:
        del rest[0]
    first = 0 if runs_module else 1  # a separator that nobody needs, but many write
    if rest[first : first + 1] == ["--"]:
        del rest[first]
    return own, rest
