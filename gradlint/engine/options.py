"""The options of the engine, and how the settings of a target change them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlint.config.settings import Settings
from gradlint.load.arguments.given import NONE, Arguments, configured
from gradlint.location import Location
from gradlint.rulekit.contract import Declaration, DeclarationKind
from gradlint.system import reading

if TYPE_CHECKING:
    from gradlint.load.setup import Setup


@dataclass(frozen=True)
class Options:
    """Options for recording and judging one training setup."""

    inputs: tuple[str, ...] = ()
    """Inputs to use instead of those of the setup, as written after ``--input``."""
    strict: bool = False
    """True if each part that could not be recorded is a finding."""
    numeric: bool = False
    """True if a few steps are trained to measure the gradients."""
    contract: tuple[Declaration, ...] = ()
    """Declarations beside those of the setup itself."""
    own_contract: bool = True
    """True if the declarations of the setup itself count."""
    amend: Callable[[Setup], Setup] | None = None
    """Changes the normalized setup before it is run."""

    arguments: Arguments = NONE
    """What build() is called with, and ``sys.argv``."""
    files: tuple[str, ...] = ()
    """Files that ran, and that the source rules judge as a whole."""
    cost: bool = False
    """True if what the fixes of findings save is measured."""
    overview: bool = False
    """True if the report includes the modules of the target."""
    flow_map: bool = False
    """True if the report includes the map of the target."""

    def configured(self, settings: Settings, target: str) -> Options:
        """Return the options for one target, with its settings.

        Inputs of these options replace those of the settings, arguments change them; declarations of both count.
        """
        own = settings.target(target)
        return replace(
            self,
            inputs=self.inputs or own.inputs,
            arguments=self.arguments.over(configured(own.args, own.argv, str(settings.root))),
            strict=self.strict or settings.strict,
            contract=(*contract_of(settings, target), *self.contract),
        )


def contract_of(settings: Settings, target: str) -> tuple[Declaration, ...]:
    """Return the configured declarations for a target, with their lines."""
    own = settings.target(target)
    if settings.path is None or not (own.trains or own.frozen):
        return ()
    return tuple(
        Declaration(kind, pattern, _line_of(settings.path, pattern, target), settings.path.name)
        for kind, patterns in ((DeclarationKind.TRAINS, own.trains), (DeclarationKind.FROZEN, own.frozen))
        for pattern in patterns
    )


def declared(trains: Iterable[str] = (), frozen: Iterable[str] = (), origin: str = "") -> tuple[Declaration, ...]:
    """Return the declarations of two lists of patterns; a string is one pattern."""
    groups = ((DeclarationKind.TRAINS, trains), (DeclarationKind.FROZEN, frozen))
    return tuple(
        Declaration(kind, pattern, origin=origin)
        for kind, patterns in groups
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    )


def given_contract(trains: Iterable[str], frozen: Iterable[str]) -> tuple[Declaration, ...]:
    """Return the contract that the options --trains and --frozen give."""
    return (*declared(trains=trains, origin="--trains"), *declared(frozen=frozen, origin="--frozen"))


def _line_of(path: Path, pattern: str, target: str) -> Location | None:
    """Return the location of a pattern in a configuration file.

    The table that names the target is searched first.
    """
    try:
        lines = reading.read(path).decode("utf-8-sig").splitlines()
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
