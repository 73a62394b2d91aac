"""How a target is checked, given the settings that count for it. Imports no torch until a check is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradlint.config.settings import Settings
from gradlint.location import Location
from gradlint.rulekit.contract import FROZEN, TRAINS, Declaration

if TYPE_CHECKING:
    from gradlint.engine.check import Options


def options(
    settings: Settings,
    target: str,
    *,
    inputs: Sequence[str] = (),
    contract: Sequence[Declaration] = (),
    strict: bool = False,
    numeric: bool = False,
) -> Options:
    """The options of a check of one target: what is given counts before the target's own table, contracts add up."""
    from gradlint.engine.check import Options  # needs more than the command line does

    theirs = settings.target(target)
    return Options(
        inputs=tuple(inputs) or theirs.inputs,
        strict=strict or settings.strict,
        numeric=numeric,
        contract=(*contract_of(settings, target), *contract),
    )


def contract_of(settings: Settings, target: str) -> tuple[Declaration, ...]:
    """What the configuration declares of a target, with the lines of its file."""
    theirs = settings.target(target)
    if settings.path is None or not (theirs.trains or theirs.frozen):
        return ()
    return tuple(
        Declaration(kind, pattern, _line_of(settings.path, pattern, target), settings.path.name)
        for kind, patterns in ((TRAINS, theirs.trains), (FROZEN, theirs.frozen))
        for pattern in patterns
    )


def declared(trains: Iterable[str] = (), frozen: Iterable[str] = (), origin: str = "") -> tuple[Declaration, ...]:
    """A contract from two lists of patterns; a string counts as one pattern."""
    given = ((TRAINS, trains), (FROZEN, frozen))
    return tuple(
        Declaration(kind, pattern, origin=origin)
        for kind, patterns in given
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    )


def _line_of(path: Path, pattern: str, target: str) -> Location | None:
    """Where a pattern stands in a configuration file: below the header that names the target, else anywhere."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    attribute = target.rpartition(":")[2]
    begin = next((i for i, t in enumerate(lines) if t.lstrip().startswith("[") and f":{attribute}" in t), 0)
    quoted = (json.dumps(pattern, ensure_ascii=False), f"'{pattern}'")
    for number in (*range(begin, len(lines)), *range(begin)):
        for text in quoted:
            column = lines[number].find(text)
            if column >= 0 and not re.match(r"\s*#", lines[number]):
                return Location(str(path), number + 1, column + 1, number + 1, column + 1 + len(text))
    return None
