"""Parameters in words: groups, counts and sizes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Protocol


class Named(Protocol):
    """What is needed of a parameter to name it."""

    @property
    def fqn(self) -> str: ...
    @property
    def numel(self) -> int: ...


def count(number: int) -> str:
    """A number of scalars for reading: ``740``, ``85.1 k``, ``7.1 M``, ``1.2 B``."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f} {unit}"
    return f"{number:,}"


_SINGULAR = {"are": "is", "have": "has", "do": "does"}


def agree(things: Sequence[object], verb: str) -> str:
    """A verb in the plural form that it is given in, or in the singular where there is one thing: ``still train``,
    ``still trains``. The last word is inflected."""
    if len(things) != 1:
        return verb
    before, _, last = verb.rpartition(" ")
    return f"{before} {_SINGULAR.get(last, f'{last}s')}".strip()


def in_words(parameters: Sequence[Named], everything: Sequence[Named], limit: int = 4, noun: str = "parameter") -> str:
    """Name parameters, whole subtrees as ``prefix.*``; at most `limit` names, then how many more. `noun` names one.

    Where they are more, names that differ in their numbers alone are folded (``layer.*.bias``), if the pattern means no
    other parameter.

    `everything` are all parameters of the set-up: a subtree is named by its prefix only if it is hit whole.
    """
    if not parameters:
        return "no parameter"
    wanted = {p.fqn for p in parameters}
    names: list[str] = []
    done: set[str] = set()
    for parameter in parameters:
        if parameter.fqn in done:
            continue
        group, members = _largest(parameter.fqn, wanted, everything)
        done |= members
        names.append(group)
    if len(names) > limit:
        names = _folded(names, wanted, everything)
    total = sum(p.numel for p in parameters)
    listed = ", ".join(names[:limit])
    if len(names) > limit:
        listed += f" and {len(names) - limit} more"
    plural = "" if len(parameters) == 1 else "s"
    return f"{listed} ({len(parameters)} {noun}{plural}, {count(total)})"


def _largest(fqn: str, wanted: set[str], everything: Sequence[Named]) -> tuple[str, set[str]]:
    """The widest prefix of a name whose parameters are all wanted, with those parameters."""
    parts = fqn.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth]) + "."
        members = {p.fqn for p in everything if p.fqn.startswith(prefix)}
        if len(members) > 1 and members <= wanted:
            return prefix + "*", members
    return fqn, {fqn}


def _folded(names: Sequence[str], wanted: set[str], everything: Sequence[Named]) -> list[str]:
    """Names with those that differ in their numbers alone as one pattern, where that fits nothing else."""
    shapes: dict[str, list[str]] = {}
    for name in names:
        shape = ".".join("*" if part.isdigit() else part for part in name.split("."))
        shapes.setdefault(shape, []).append(name)
    folded = []
    for shape, members in shapes.items():
        exact = all(p.fqn in wanted for p in everything if fnmatchcase(p.fqn, shape))
        folded += [shape] if len(members) > 1 and exact else members
    return folded
