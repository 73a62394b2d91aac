"""Long lists of parameter names, folded into a few patterns with counts."""

from __future__ import annotations

from collections.abc import Sequence


def group(names: Sequence[str], all_names: Sequence[str] | None = None) -> list[tuple[str, int]]:
    """Fold names into patterns, each with the number of names it stands for.

    With `all_names` a pattern ``encoder.*`` is used only where every parameter below ``encoder`` is meant; what is left
    is folded over its numbers (``layer.*.bias``). Without it, names that start alike are folded below their common
    path. A name that stands alone stays as it is. Every name is counted once, and its pattern matches it as a glob.

    Args:
        names: fully qualified names; repeated ones count once.
        all_names: the names of all parameters of the model.

    Returns:
        (pattern, count) in the order in which the names first appear.
    """
    unique = [_split(name) for name in dict.fromkeys(names)]
    if all_names is None:
        return _fold_by_branch(unique)
    everything = [_split(name) for name in dict.fromkeys((*all_names, *names))]
    return _fold_numbers(_fold_whole(unique, everything))


def describe(names: Sequence[str], all_names: Sequence[str] | None = None) -> list[str]:
    """The patterns of `group` in words, for example ``encoder.* (148 parameters)``; a single name stands as it is."""
    return [label if count == 1 else f"{label} ({count} parameters)" for label, count in group(names, all_names)]


Path = tuple[str, ...]


def _split(name: str) -> Path:
    return tuple(name.split("."))


def _fold_by_branch(names: list[Path]) -> list[tuple[str, int]]:
    branches: dict[str, list[Path]] = {}
    for name in names:
        branches.setdefault(name[0], []).append(name)
    groups: list[tuple[str, int]] = []
    for members in branches.values():
        parent = _common_parent(members)
        if len(members) == 1 or not parent:
            groups += [(".".join(name), 1) for name in members]
        else:
            groups.append((".".join((*parent, "*")), len(members)))
    return groups


def _common_parent(names: list[Path]) -> Path:
    """The longest path that all names lie below; a name itself is never its own parent."""
    first, last = min(names), max(names)
    shortest = min(len(name) for name in names)
    length = 0
    while length < shortest - 1 and first[length] == last[length]:
        length += 1
    return first[:length]


def _fold_whole(names: list[Path], everything: list[Path]) -> list[tuple[Path, int]]:
    """Replace each name by the shortest path all of whose parameters are among the names."""
    wanted, below, meant = set(names), dict[Path, int](), dict[Path, int]()
    for name in everything:
        for length in range(1, len(name)):
            prefix = name[:length]
            below[prefix] = below.get(prefix, 0) + 1
            meant[prefix] = meant.get(prefix, 0) + (name in wanted)
    groups: dict[Path, int] = {}
    for name in names:
        whole = next((name[:n] for n in range(1, len(name)) if below[name[:n]] == meant[name[:n]]), None)
        label = name if whole is None or below[whole] == 1 else (*whole, "*")
        groups[label] = groups.get(label, 0) + 1
    return list(groups.items())


def _fold_numbers(groups: list[tuple[Path, int]]) -> list[tuple[str, int]]:
    """Merge patterns that differ in their numbers only."""
    shapes: dict[Path, list[tuple[Path, int]]] = {}
    for label, count in groups:
        shape = tuple("*" if part.isdigit() else part for part in label)
        shapes.setdefault(shape, []).append((label, count))
    return [
        (".".join(members[0][0] if len(members) == 1 else shape), sum(count for _, count in members))
        for shape, members in shapes.items()
    ]
