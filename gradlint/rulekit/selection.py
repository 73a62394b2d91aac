"""Which rules run, and whose findings of severity info are shown."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradlint.errors import UsageError
from gradlint.rulekit.registry import Entry, Registry
from gradlint.rulekit.rule import Rule
from gradlint.wording import nearest

EVERYTHING = "ALL"
"""The selector that means every rule."""
_EXACT = 1000
"""How specific a full code or a name is; a prefix is as specific as it is long."""


@dataclass(frozen=True)
class Selection:
    """The outcome of --select, --ignore and --extend-select."""

    rules: tuple[type[Rule], ...]
    """The rules to run, ordered by code."""
    codes: frozenset[str]
    """The codes whose findings count: those of `rules` and gradlint's own."""
    asked_for: frozenset[str] = frozenset()
    """Codes selected by their full code or name, whose info findings are shown."""


def select(
    registry: Registry,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    extend_select: Iterable[str] = (),
) -> Selection:
    """Decide for every rule whether it runs.

    Selectors are full codes, prefixes of codes (``GL4``, ``GL40``), names, or ``ALL``; each string may hold several,
    separated by commas. Without `select` all rules are selected. The most specific selector decides about a rule; of
    equally specific ones, ignoring wins. `extend_select` counts as selecting.

    Raises:
        UsageError: a selector fits no rule; the message names the nearest that does.
    """
    entries = registry.entries
    chosen, added, ignored = split(select), split(extend_select), split(ignore)
    wanted = _strengths([*(chosen or [EVERYTHING]), *added], entries)
    unwanted = _strengths(ignored, entries)
    codes = frozenset(code for code, strength in wanted.items() if strength > unwanted.get(code, -1))
    exact = frozenset(code for code, strength in _strengths([*chosen, *added], entries).items() if strength == _EXACT)
    return Selection(tuple(rule for rule in registry.rules if rule.code in codes), codes, exact & codes)


def codes_of(registry: Registry, selectors: Iterable[str], where: str = "") -> frozenset[str]:
    """Return the codes that selectors match.

    Raises:
        UsageError: one means none; `where` begins the message.
    """
    return _codes_of(registry, tuple(selectors), where)


@functools.lru_cache(maxsize=1024)
def _codes_of(registry: Registry, selectors: tuple[str, ...], where: str) -> frozenset[str]:
    try:
        return frozenset(_strengths(split(selectors), registry.entries))
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


def is_known(registry: Registry, selectors: str) -> bool:
    """Return True if each selector of a list matches a rule."""
    return all(_matching(selector, registry.entries) for selector in split([selectors]))


def split(selectors: Iterable[str]) -> list[str]:
    """Return the selectors in lists separated by commas, without empty ones."""
    return [part for text in selectors for part in re.split(r"[,\s]+", text) if part]


def lookup(registry: Registry, code_or_name: str) -> Entry:
    """Return the rule, or gradlint's own code, with that code or name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    match = _matching(code_or_name, registry.entries)
    if match is None or match[1] != _EXACT:
        raise UsageError(_unknown(code_or_name, registry.entries, prefixes=False))
    return match[0][0]


def _strengths(selectors: Iterable[str], entries: Sequence[Entry]) -> dict[str, int]:
    """Return each code with the strength of the most specific selector that matches it."""
    strengths: dict[str, int] = {}
    for selector in selectors:
        match = _matching(selector, entries)
        if match is None:
            raise UsageError(_unknown(selector, entries))
        for rule in match[0]:
            strengths[rule.code] = max(strengths.get(rule.code, 0), match[1])
    return strengths


def _matching(selector: str, entries: Sequence[Entry]) -> tuple[list[Entry], int] | None:
    """Return the rules that a selector matches and how specific it is; None if there are none."""
    upper = selector.strip().upper()
    if upper == EVERYTHING:
        return list(entries), 0
    exact = [rule for rule in entries if upper == rule.code or selector.strip().lower() == rule.name]
    if exact:
        return exact, _EXACT
    prefixed = [rule for rule in entries if rule.code.startswith(upper)] if re.fullmatch(r"[A-Z]+\d*", upper) else []
    return (prefixed, len(upper)) if prefixed else None


def _unknown(selector: str, entries: Sequence[Entry], *, prefixes: bool = True) -> str:
    codes = [rule.code for rule in entries]
    starts = {code[:length] for code in codes for length in (3, 4) if prefixes and length >= len(selector)}
    near = nearest(selector, [*codes, *(rule.name for rule in entries), *sorted(starts)])
    hint = f"; did you mean {near}?" if near else "; `gradlint rules` lists them"
    return f"no rule has the code{', the prefix' if prefixes else ''} or the name {selector!r}{hint}"
