"""Names, counts and verbs as messages and reports write them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from fnmatch import fnmatchcase
from typing import Protocol


class Named(Protocol):
    """A parameter, as far as naming it goes."""

    @property
    def fqn(self) -> str: ...
    @property
    def numel(self) -> int: ...


def count(number: int) -> str:
    """Return a number for reading, as ``740``, ``1,234``, ``235.1k``, ``7.1M``, ``1.2B``."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Return a count with its noun: ``1 error``, ``2 errors``, ``2 passes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def counts(parameters: Sequence[Named]) -> str:
    """Return how many tensors and elements parameters are: ``4 tensors, 112 parameters``."""
    return tensors(len(parameters), sum(p.numel for p in parameters))


def tensors(number: int, elements: int) -> str:
    """Return a number of tensors and of their elements: ``71 tensors, 235.1k parameters``."""
    return f"{plural(number, 'tensor')}, {count(elements)} {'parameter' if elements == 1 else 'parameters'}"


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as ``768x768``; ``scalar`` without dimensions."""
    return "x".join(map(str, shape)) or "scalar"


_SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does", "they": "it", "them": "it"}
"""Words whose singular is not formed like that of other verbs."""
INFLECTED = frozenset("are were have do they them change get hold keep need require run stay train".split())
"""Placeholders of templates about parameters that stand for an inflected word."""


def inflect(things: Sized, verb: str) -> str:
    """Return a plural verb or pronoun, in the singular for one thing.

    The last word is inflected: ``still train``, ``still trains``; ``them``, ``it``.
    """
    if len(things) != 1:
        return verb
    before, _, last = verb.rpartition(" ")
    return f"{before} {_SINGULAR.get(last, f'{last}s')}".strip()


def list_of(names: Iterable[str], limit: int = 4) -> str:
    """Return a list for a sentence, with at most `limit` names: ``a, b and 3 more``."""
    names = list(names)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `word`, compared without case; None when none comes close."""
    import difflib  # not needed before something was misspelled

    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    folded = word.casefold()
    meant = re.sub(r"(?<=\d)[oil]", lambda letter: {"o": "0"}.get(letter.group(), "1"), folded)  # GL4O1
    close = difflib.get_close_matches(meant, by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def summarize_names(parameters: Sequence[Named], everything: Sequence[Named], limit: int = 4) -> str:
    """Return the names and counts of parameters.

    For example ``encoder.*, head.bias (149 tensors, 85.1M parameters)``.

    A subtree is named by its prefix if all of its parameters are among them. Of more than `limit` names, those that
    differ in their numbers alone are folded (``layer.*.bias``), then those that share a part of their names
    (``*.lora_A.*``), if the pattern matches no other parameter. `everything` are all parameters of the model.
    """
    if not parameters:
        return "no parameter"
    wanted = {p.fqn for p in parameters}
    inside, around = _members(wanted), _members(p.fqn for p in everything)
    names = list(dict.fromkeys(_largest(p.fqn, inside, around) for p in parameters))
    if len(names) > limit:
        names = _folded(names, wanted, everything)
    if len(names) > limit:
        names = _by_part(names, wanted, everything)
    return f"{list_of(names, limit)} ({counts(parameters)})"


def _members(names: Iterable[str]) -> Counter[str]:
    """Return prefix → the number of names below it."""
    below: Counter[str] = Counter()
    for name in set(names):
        parts = name.split(".")
        below.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
    return below


def _largest(fqn: str, inside: Counter[str], around: Counter[str]) -> str:
    """Return the widest prefix with several parameters, all of them wanted; else the name.

    Args:
        fqn: the name.
        inside: prefix → number of wanted names below it.
        around: the same of all names.
    """
    parts = fqn.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth])
        if around[prefix] > 1 and around[prefix] == inside[prefix]:
            return f"{prefix}.*"
    return fqn


def number_pattern(name: str) -> str:
    """Return a dotted name with its numbers replaced: ``layer.*.bias``."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def patterns_of(names: Sequence[str], limit: int = 4) -> str:
    """Return at most `limit` names for a sentence, else patterns of the numbers that differ.

    Names of numbers only stay as they are: ``*.*`` would say nothing.
    """
    alike: dict[str, list[list[str]]] = {}
    for name in names:
        alike.setdefault(number_pattern(name), []).append(name.split("."))
    columns = [zip(*group, strict=True) for group in alike.values()]
    patterns = [".".join(parts[0] if len(set(parts)) == 1 else "*" for parts in column) for column in columns]
    says_nothing = any(not pattern.strip("*.0123456789") for pattern in patterns)
    return list_of(names if len(names) <= limit or says_nothing else patterns, limit)


def _folded(names: Sequence[str], wanted: set[str], everything: Sequence[Named]) -> list[str]:
    """Return names, those that differ in their numbers alone as one pattern.

    The pattern is used only if it matches no other parameter.
    """
    shapes: dict[str, list[str]] = {}
    for name in names:
        shapes.setdefault(number_pattern(name), []).append(name)
    others: dict[str, list[str]] = {"*": [p.fqn for p in everything if p.fqn not in wanted]}
    """First part of a name → the names that begin with it and are not wanted; all of those under ``*``."""
    for name in others["*"]:
        others.setdefault(name.partition(".")[0], []).append(name)
    folded = []
    for shape, members in shapes.items():
        alike = others.get(shape.partition(".")[0], ()) if len(members) > 1 else ()
        exact = len(members) > 1 and not any(fnmatchcase(name, shape) for name in alike)
        folded += [shape] if exact else members
    return folded


def _by_part(names: Sequence[str], wanted: set[str], everything: Sequence[Named]) -> list[str]:
    """Return names, those that share a part which no other parameter has as one pattern.

    Each is named by the first such part of its own (``*.lora_A.*``).
    """
    others = {part for p in everything if p.fqn not in wanted for part in p.fqn.split(".")}
    shared = Counter(part for name in names for part in set(name.split(".")))
    labels: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        own = next(
            (n for n, part in enumerate(parts) if n and part not in others and part != "*" and shared[part] > 1), None
        )
        label = name if own is None else f"*.{parts[own]}" + (".*" if own < len(parts) - 1 else "")
        labels.setdefault(label)
    return list(labels)


def fold_names(names: Iterable[str]) -> list[str]:
    """Return names folded below their common path, as ``encoder.* (148 tensors)``.

    Unlike `summarize_names` it needs no model: names that start alike are one group. A name alone stays as it is.
    """
    branches: dict[str, list[list[str]]] = {}
    for name in dict.fromkeys(names):
        parts = name.split(".")
        branches.setdefault(parts[0], []).append(parts)
    labels: list[str] = []
    for members in branches.values():
        parent = common_path(parts[:-1] for parts in members)
        if len(members) == 1 or not parent:
            labels += [".".join(parts) for parts in members]
        else:
            labels.append(f"{'.'.join(parent)}.* ({plural(len(members), 'tensor')})")
    return labels


def common_path(paths: Iterable[Sequence[str]]) -> list[str]:
    """Return the parts that all paths begin with."""
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return [parts[0] for parts in same]
