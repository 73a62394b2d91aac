"""Which rules judge which files: the settings of each part of a call, and the rules that may be loaded for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from gradlint.cli.options import CheckOptions
from gradlint.config.settings import Settings, read
from gradlint.config.trust import own_file, trusted_folders
from gradlint.errors import UsageError
from gradlint.findings import Note
from gradlint.report.view import shown_path
from gradlint.rulekit import registry, selection
from gradlint.rulekit.fence import Fence
from gradlint.rulekit.selection import Selection
from gradlint.triage.filters import Plan
from gradlint.wording import list_of


class Plans:
    """The plans of one call, each made once."""

    def __init__(self, options: CheckOptions, paths: Iterable[str]) -> None:
        """Close the projects of the paths that the call reads or checks.

        Raises:
            UsageError: the user's own configuration is wrong.
        """
        self._options = options
        self.fence = Fence.around([Path.cwd(), *paths], trusted_folders())
        self._made: dict[int, tuple[Settings, Plan]] = {}

    def of(self, settings: Settings) -> Plan:
        """Return the plan for the files and targets that have these settings.

        Raises:
            UsageError: a selector means no rule.
            GradlintError: a rule is malformed.
        """
        made = self._made.get(id(settings))
        if made is None:
            # The settings are kept beside the plan, so that their identity stays their own.
            made = self._made[id(settings)] = (settings, self._plan(settings))
        return made[1]

    def folders(self, settings: Settings) -> tuple[str, ...]:
        """Return the folders with rules of the user that may be loaded."""
        return settings.allowed_rule_folders(self._options.rules_dirs)

    def notes(self) -> list[Note]:
        """Return a note for each configuration and each pack whose rules are not loaded."""
        notes = []
        for settings, plan in self._made.values():
            folders = settings.refused_rule_folders(self._options.rules_dirs)
            notes += [_refused_folders(settings, folders)] if folders else []
            notes += [_refused_pack(pack) for pack in plan.registry.refused]
        return list(dict.fromkeys(notes))

    def _plan(self, settings: Settings) -> Plan:
        rules = registry.load(self.folders(settings), fence=self.fence)
        refused = settings.refused_rule_folders(self._options.rules_dirs)
        is_partial = bool(refused or rules.refused)
        if is_partial:
            settings = _without_unknown(settings, rules, self._options)
        try:
            selected = self._selected(rules, settings)
        except UsageError as error:
            if refused:
                raise UsageError(f"{error}; {_refused_folders(settings, refused).message}") from None
            raise
        plan = Plan(settings, rules, selected, is_partial)
        ignores = [selector for selectors in settings.per_file_ignores.values() for selector in selectors]
        for selector in (*ignores, *settings.ignore_parameters, *settings.severity):
            plan.codes(selector)  # what is wrong with it is said before anything is run
        return plan

    def _selected(self, rules: registry.Registry, settings: Settings) -> Selection:
        try:
            return selection.select(rules, settings.select, settings.ignore, settings.extend_select)
        except UsageError as error:
            in_file = settings.path is not None and not self._options.select
            for key in ("select", "ignore", "extend_select") if in_file else ():
                for selector in getattr(settings, key):
                    if not selection.is_known(rules, selector) and selector in _in_file(settings, key):
                        raise UsageError(f"{settings.path}: {key.replace('_', '-')}: {error}") from None
            raise


def _refused_folders(settings: Settings, folders: Iterable[str]) -> Note:
    listed = list_of(shown_path(os.path.normpath(folder), Path.cwd()) for folder in folders)
    file = shown_path(str(settings.path), Path.cwd())
    return Note(
        "",
        f"rules-dirs of {file} is not loaded: a configuration file runs nothing; give --rules-dir {listed}, or list "
        f"{settings.root} under trusted in {own_file()}, to load it",
    )


def _refused_pack(pack: str) -> Note:
    return Note(
        "",
        f"{pack} is not loaded, because it lies in the checked project; list the folder under trusted in {own_file()} "
        "to load it",
    )


def _without_unknown(settings: Settings, rules: registry.Registry, options: CheckOptions) -> Settings:
    """Return settings without the selectors that may mean rules which are not loaded."""

    def known(selectors: Iterable[str]) -> tuple[str, ...]:
        asked = {*options.select, *options.ignore, *options.extend_select}
        return tuple(s for s in selectors if s in asked or selection.is_known(rules, s))

    select = known(settings.select)
    nothing = (selection.EVERYTHING,) if settings.select and not select else ()
    return replace(
        settings,
        select=select,
        ignore=(*known(settings.ignore), *nothing),
        extend_select=known(settings.extend_select),
        per_file_ignores={glob: known(selectors) for glob, selectors in settings.per_file_ignores.items()},
        ignore_parameters={s: globs for s, globs in settings.ignore_parameters.items() if known([s])},
        severity={s: severity for s, severity in settings.severity.items() if known([s])},
    )


def _in_file(settings: Settings, key: str) -> tuple[str, ...]:
    assert settings.path is not None
    values: tuple[str, ...] = getattr(read(settings.path), key)
    return values
