"""Folders whose code is only read: installed rule packs that lie in them are not loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from gradlint.system.installed import is_of_this_python

_MARKERS = (".git", ".hg", "pyproject.toml", "setup.py", "setup.cfg", "gradlint.toml", ".gradlint.toml")
"""What lies in the top folder of a project."""


@dataclass(frozen=True)
class Fence:
    """The folders that a command reads, and those in which the user allows code to be loaded."""

    closed: tuple[str, ...] = ()
    """Real paths."""
    open: tuple[str, ...] = ()
    """Real paths of trusted folders."""

    @classmethod
    def around(cls, paths: Iterable[str | os.PathLike[str]], trusted: Iterable[str] = ()) -> Fence:
        """Return the fence around the projects of files and folders."""
        return cls(tuple(sorted({_project(os.path.realpath(path)) for path in paths})), tuple(sorted(trusted)))

    def admits(self, path: str | os.PathLike[str]) -> bool:
        """Return True if code may be loaded from a file or folder."""
        real = os.path.realpath(path)
        if is_of_this_python(real) or not _is_below(real, self.closed):
            return True
        return _is_below(real, self.open)


def _project(path: str) -> str:
    """Return the outermost folder above a path that looks like a project; else its own folder."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    found, here = folder, folder
    while True:
        if any(os.path.lexists(os.path.join(here, marker)) for marker in _MARKERS):
            found = here
        above = os.path.dirname(here)
        if above == here:
            return found
        here = above


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)
