"""Which files are gradlint's own, which the standard library's, and which of installed packages."""

from __future__ import annotations

import os
import site
import sysconfig

OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
"""The folder of gradlint itself, with a separator at its end."""


def _folders(*names: str) -> set[str]:
    return {os.path.abspath(path) + os.sep for name in names if (path := sysconfig.get_path(name))}


def _site_folders() -> set[str]:
    paths = [*site.getsitepackages(), site.getusersitepackages()] if hasattr(site, "getsitepackages") else []
    return {os.path.abspath(path) + os.sep for path in paths}


_STANDARD = tuple(sorted(_folders("stdlib", "platstdlib")))
_LIBRARIES = tuple(sorted({*_STANDARD, *_folders("purelib", "platlib"), *_site_folders()}))
_OWN_PACKAGES = tuple(sorted({os.path.realpath(path) + os.sep for path in _LIBRARIES}))
"""The real folders into which packages of this Python are installed."""


def is_of_this_python(path: str) -> bool:
    """Return True if a real path lies where this Python's own packages are installed."""
    return (path + os.sep).startswith(_OWN_PACKAGES)


def is_standard_library(path: str) -> bool:
    """Return True if a file belongs to Python's standard library."""
    return path.startswith("<frozen ") or (path.startswith(_STANDARD) and not _is_in_packages(path))


def is_library_file(path: str) -> bool:
    """Return True if a file belongs to the standard library or to an installed package."""
    return path.startswith(_LIBRARIES) or _is_in_packages(path)


def _is_in_packages(path: str) -> bool:
    return f"{os.sep}site-packages{os.sep}" in path or f"{os.sep}dist-packages{os.sep}" in path
