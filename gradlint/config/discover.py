"""Discovery of the files that a source check reads: paths, folders, exclusions, .gitignore."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from pathspec import GitIgnoreSpec

from gradlint.config.settings import Configuration, Settings

SUFFIXES = (".py", ".pyi", ".pyw", ".ipynb")


@dataclass(frozen=True)
class SourceFile:
    """One file to read."""

    path: str
    """Absolute."""
    settings: Settings
    named: bool = False
    """True if the command names this file, rather than a folder that contains it."""


class Patterns:
    """Globs of paths, written as in a .gitignore: one without a slash matches names at any depth."""

    def __init__(self, patterns: Sequence[str], root: Path) -> None:
        self._root = os.path.abspath(root)
        self._names = [p.rstrip("/") for p in patterns if "/" not in p.rstrip("/")]
        slashed = [p.removeprefix("./") for p in patterns if "/" in p.rstrip("/")]
        self._paths = GitIgnoreSpec.from_lines(slashed) if slashed else None

    def match(self, path: str) -> bool:
        """Return True if a file or folder matches, whatever folder it is in."""
        name = os.path.basename(path)
        if any(fnmatchcase(name, pattern) for pattern in self._names):
            return True
        if self._paths is None:
            return False
        below = _below(path, self._root)
        return bool(below) and self._paths.match_file(below)

    def match_below(self, path: str) -> bool:
        """Return True if a file matches, or a folder between it and the root."""
        below = _below(path, self._root)
        parts = below.split("/") if below else [os.path.basename(path)]
        return any(fnmatchcase(part, pattern) for part in parts for pattern in self._names) or bool(
            self._paths is not None and below and self._paths.match_file(below)
        )


@lru_cache(maxsize=256)
def patterns(texts: tuple[str, ...], root: Path) -> Patterns:
    """Return the patterns of one setting, parsed once."""
    return Patterns(texts, root)


def _below(path: str, folder: str) -> str:
    """Return a path relative to a folder, with forward slashes; empty if it is not below."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another Windows drive
        return ""
    return "" if relative.startswith("..") else relative.replace(os.sep, "/")


def excluded(settings: Settings, path: str, *, below: bool = False) -> bool:
    """Return True if the configuration excludes a file or folder.

    With `below`, a folder that contains it counts too.
    """
    globs = patterns((*settings.exclude, *settings.extend_exclude), settings.root)
    return globs.match_below(path) if below else globs.match(path)


def discover(paths: Sequence[str], configuration: Configuration) -> Iterator[SourceFile]:
    """Yield the named files and all Python files in the named folders, each once.

    Raises:
        UsageError: a configuration file is wrong.
    """
    seen: set[str] = set()
    for text in sorted(paths, key=os.path.isdir):  # a file that is named counts as that, whatever folder holds it
        path = os.path.abspath(text)
        settings = configuration.near(path)
        if settings.force_exclude and excluded(settings, path, below=True):
            continue
        files = _in_folder(path, configuration) if os.path.isdir(path) else [SourceFile(path, settings, named=True)]
        for file in files:
            if file.path not in seen:
                seen.add(file.path)
                yield file


def _in_folder(top: str, configuration: Configuration) -> Iterator[SourceFile]:
    specs = {top: _specs_above(top)}
    for folder, folders, names in os.walk(top):
        settings = configuration.near(folder)
        ignored: list[tuple[str, GitIgnoreSpec]] = []
        if settings.respect_gitignore:
            ignored = list(specs.get(folder, ()))
            if ".gitignore" in names:
                ignored.append((folder, _spec(os.path.join(folder, ".gitignore"))))
        keep = []
        for name in sorted(folders):
            path = os.path.join(folder, name)
            if not excluded(settings, path) and not _is_ignored(path + "/", ignored):
                keep.append(name)
                specs[path] = ignored
        folders[:] = keep
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                path = os.path.join(folder, name)
                if not excluded(settings, path) and not _is_ignored(path, ignored) and os.path.isfile(path):
                    yield SourceFile(path, settings)


def _specs_above(top: str) -> list[tuple[str, GitIgnoreSpec]]:
    """Return the ignore files of the repository of a folder, from its root down.

    Those that match the folder itself are left out, because the user named it.
    """
    chain = [Path(top), *Path(top).parents]
    root = next((number for number, folder in enumerate(chain) if (folder / ".git").exists()), None)
    if root is None:
        return []
    files = [(str(chain[root]), chain[root] / ".git" / "info" / "exclude")]
    files += [(str(folder), folder / ".gitignore") for folder in reversed(chain[1 : root + 1])]
    specs = [(folder, _spec(str(file))) for folder, file in files if file.is_file()]
    return [(folder, spec) for folder, spec in specs if not _is_ignored(top + "/", [(folder, spec)])]


@lru_cache(maxsize=1024)
def _spec(path: str) -> GitIgnoreSpec:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return GitIgnoreSpec.from_lines(file)
    except (OSError, ValueError):
        return GitIgnoreSpec([])


def _is_ignored(path: str, specs: Sequence[tuple[str, GitIgnoreSpec]]) -> bool:
    for folder, spec in reversed(specs):
        below = _below(path, folder)
        if not below:
            continue
        if path.endswith("/"):
            below += "/"
        verdict = spec.check_file(below).include
        if verdict is not None:
            return verdict
    return False
