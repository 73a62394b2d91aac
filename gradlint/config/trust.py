"""The user's own configuration, which lies outside every project: the folders whose code gradlint may load."""

from __future__ import annotations

import os
from pathlib import Path

from gradlint.config import toml
from gradlint.errors import UsageError
from gradlint.system import reading

NAME = "gradlint.toml"


def own_file() -> Path:
    """Return the path of the user's own configuration, whether or not it exists."""
    from platformdirs import user_config_path  # most commands do not need it

    return Path(user_config_path("gradlint", appauthor=False)) / NAME


def trusted_folders() -> frozenset[str]:
    """Return the real paths of the folders that the user trusts.

    Raises:
        UsageError: the user's own configuration is wrong.
    """
    file = own_file()
    if not file.is_absolute():
        return frozenset()
    try:
        data = toml.parsed(reading.read(file))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return frozenset()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{file}: is no valid TOML: {error}") from error
    folders = data.pop("trusted", [])
    if data:
        raise UsageError(f"{file}: unknown key {min(data)}; known is trusted")
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise UsageError(f"{file}: trusted must be an array of strings")
    expanded = [os.path.expanduser(folder) for folder in folders]
    relative = next((text for text in expanded if not os.path.isabs(text)), None)
    if relative is not None:
        raise UsageError(f"{file}: trusted: {relative!r} is not absolute: write the whole path, or ~/ for your home")
    return frozenset(map(os.path.realpath, expanded))


def is_trusted(folder: str | Path) -> bool:
    """Return True if the user trusts this very folder.

    A folder below a trusted one may hold the code of somebody else.
    """
    return os.path.realpath(folder) in trusted_folders()
