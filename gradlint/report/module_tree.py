"""Fold a tree of modules: numbered neighbours whose subtrees are alike are one run."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

DASH = "\u2013"
"""Between the first and the last number of repeated blocks."""
_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]{0,8})", re.DOTALL)


@dataclass(frozen=True)
class Run:
    """Modules that are shown as one."""

    members: tuple[int, ...]
    """Positions of the modules, which have the same subtree."""
    label: str
    """Their name below the module around them; `DASH` is between their numbers."""


class ModuleTree:
    """The modules of a model, and which of them are alike.

    Args:
        names: the name of each module; a module comes after the one around it.
        parents: the position of the module around each; -1 for a root.
        facts: what each module has itself. Modules with the same facts and children are alike.
    """

    def __init__(self, names: Sequence[str], parents: Sequence[int], facts: Iterable[Hashable]) -> None:
        self.names = names
        self.parents = parents
        self.roots = [position for position, parent in enumerate(parents) if parent < 0]
        self._children: list[list[int]] = [[] for _ in names]
        for position, parent in enumerate(parents):
            if parent >= 0:
                self._children[parent].append(position)
        self._alike = self._classes(list(facts))

    def _classes(self, facts: Sequence[Hashable]) -> list[int]:
        """Return a number for each module, the same for those that are alike."""
        known: dict[object, int] = {}
        alike = [0] * len(facts)
        for position in range(len(facts) - 1, -1, -1):
            children = tuple((self._label(child), alike[child]) for child in self._children[position])
            alike[position] = known.setdefault((facts[position], children), len(known))
        return alike

    def _label(self, position: int) -> str:
        """Return a name without that of the module around it; empty if a wrapper gives it none."""
        name, parent = self.names[position], self.parents[position]
        above = self.names[parent] if parent >= 0 else ""
        if not above:
            return name
        return name[len(above) + 1 :] if name.startswith(f"{above}.") else "" if name == above else name

    def below(
        self,
        run: Run,
        is_left_out: Callable[[int], bool] = lambda position: False,
        stands_alone: Callable[[int], bool] = lambda position: False,
    ) -> list[Run]:
        """Return the runs of modules in those of a run.

        Args:
            run: the modules around them.
            is_left_out: returns True for a module that is not shown.
            stands_alone: returns True for one that is in no run with others.
        """
        runs: list[tuple[list[int], str]] = []
        last: tuple[str, int, int] | None = None
        first = 0
        for place, child in enumerate(self._children[run.members[0]]):
            if is_left_out(child):
                continue
            members = [self._children[member][place] for member in run.members]
            label = self._label(child)
            numbered = None if stands_alone(child) else _NUMBERED.fullmatch(label)
            if numbered is None:
                runs.append((members, label))
                last = None
                continue
            prefix, number, kind = numbered[1], int(numbered[2]), self._alike[child]
            if last == (prefix, number - 1, kind):
                so_far = runs.pop()[0]
                so_far += members
                runs.append((so_far, f"{prefix}{first}{DASH}{number}"))
            else:
                first = number
                runs.append((members, label))
            last = prefix, number, kind
        return [Run(tuple(members), label) for members, label in runs]
