"""Findings of earlier source checks, by the content of files.

There is one JSON file per project and per everything else that findings depend on: the versions of gradlint and Python,
and the text of the rules. A cache that cannot be read or written counts as empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from gradlint._version import __version__
from gradlint.findings import Edit, Finding, Fix, Related, Severity
from gradlint.location import Location
from gradlint.system import writing

T = TypeVar("T")
FORMAT = 2
KEPT_DAYS = 30
"""Days after which an entry that no check used is dropped, and a file of entries that no check wrote."""
_TAG = "CACHEDIR.TAG"
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds gradlint's cache; it can be deleted.\n"
_MADE = "# gradlint made it.\n"
_FILE = re.compile(r"[0-9a-f]{32}\.json")


def default_folder() -> Path:
    """Return the default folder of caches: GRADLINT_CACHE_DIR, else the user's cache folder."""
    folder = os.environ.get("GRADLINT_CACHE_DIR")
    if folder:
        return Path(folder).expanduser()
    from platformdirs import user_cache_path

    return Path(user_cache_path("gradlint", appauthor=False))


def is_usable(folder: Path) -> bool:
    """Return True if a folder may hold a cache: it is new or empty, or holds one already.

    Any other folder is somebody's: its tag would keep it out of backups.
    """
    try:
        with os.scandir(folder) as entries:
            return _tag_of(folder) is not None or all(writing.TEMPORARY.fullmatch(entry.name) for entry in entries)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def clean(folder: Path) -> bool:
    """Delete the files of a cache, and return True if there was one.

    Its folder goes too if gradlint made it and nothing else is in it. Other files stay.

    Raises:
        OSError: it holds no cache of gradlint, or cannot be deleted.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return False
    tag = _tag_of(folder)
    if tag is None:
        raise OSError(f"{folder} is no cache of gradlint: it holds no {_TAG} of it")
    for name in names:
        path = folder / name
        if (_FILE.fullmatch(name) or writing.TEMPORARY.fullmatch(name)) and _is_regular(path):
            path.unlink(missing_ok=True)
    others = [name for name in os.listdir(folder) if name != _TAG]
    (folder / _TAG).unlink(missing_ok=True)
    if _MADE in tag and not others and not folder.is_symlink():
        with contextlib.suppress(OSError):  # a check may have begun in it
            folder.rmdir()
    return True


def _tag_of(folder: Path) -> str | None:
    """Return the text of the tag that gradlint has put into a folder; None without one."""
    path = folder / _TAG
    if not _is_regular(path):
        return None
    try:
        with open(path, "rb") as file:
            text = file.read(1000).replace(b"\r\n", b"\n").decode("utf-8", "replace")
    except OSError:
        return None
    return text if text in (_SIGNATURE, _SIGNATURE + _MADE) else None


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def digest(data: bytes) -> str:
    """Return the key of a file's content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Cache:
    """Findings by content, for one project and one set of rules."""

    def __init__(self, folder: Path | None, context: Iterable[str]) -> None:
        key = digest("\0".join((str(FORMAT), __version__, sys.version, *context)).encode())
        self._file = folder / f"{key}.json" if folder is not None else None
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if self._file is not None and _tag_of(self._file.parent) is not None and _is_regular(self._file):
            with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
                entries = json.loads(self._file.read_bytes())
                self._known = {k: v for k, v in entries.items() if isinstance(v, list) and len(v) == 2}

    def get(self, key: str, path: str, target_of: Callable[[str], str]) -> list[Finding] | None:
        """Return the findings in a file with this content, or None if it is new.

        Args:
            key: the digest of the content.
            path: the file that has it now.
            target_of: how reports name a file.
        """
        entry = self._known.get(key)
        if entry is None:
            return None
        today = int(time.time() // 86400)
        if entry[0] != today:
            entry[0], self._changed = today, True
        try:
            return [_finding(plain, path, target_of(path)) for plain in entry[1]]
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, key: str, findings: list[Finding]) -> None:
        """Remember the findings of a file."""
        if self._file is not None:
            self._known[key] = [int(time.time() // 86400), [_plain(finding) for finding in findings]]
            self._changed = True

    def save(self) -> None:
        """Write the cache if it changed."""
        if self._file is None or not self._changed or not is_usable(self._file.parent):
            return
        oldest = int(time.time() // 86400) - KEPT_DAYS
        recent = {key: entry for key, entry in self._known.items() if isinstance(entry[0], int) and entry[0] >= oldest}
        with contextlib.suppress(OSError):
            _open_folder(self._file.parent)
            writing.replace(str(self._file), json.dumps(recent, separators=(",", ":")).encode(), durable=False)
            _sweep(self._file.parent)


def _open_folder(folder: Path) -> None:
    """Make the folder of a cache and its tag."""
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if _tag_of(folder) is None:
        writing.replace(str(folder / _TAG), (_SIGNATURE + _MADE * is_new).encode(), durable=False)


def _sweep(folder: Path) -> None:
    """Remove what no check will read or finish."""
    writing.sweep(folder)
    oldest = time.time() - KEPT_DAYS * 86400
    for path in folder.iterdir():
        if _FILE.fullmatch(path.name) and _is_regular(path) and path.lstat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON, without its file and target."""
    plain = asdict(finding)
    plain["severity"] = int(finding.severity)
    return plain


def _finding(plain: dict[str, Any], path: str, target: str) -> Finding:
    """Return a finding from JSON.

    Raises:
        KeyError, TypeError, ValueError: it is not what `_plain` writes.
    """
    fix = plain["fix"]
    return Finding(
        target=target,
        code=_is_a(str, plain["code"]),
        name=_is_a(str, plain["name"]),
        severity=Severity(plain["severity"]),
        message=_is_a(str, plain["message"]),
        location=_location(plain["location"], path) if plain["location"] else None,
        parameters=tuple(_is_a(str, name) for name in plain["parameters"]),
        related=tuple(Related(_is_a(str, r["message"]), _location(r["location"], path)) for r in plain["related"]),
        fix=fix and Fix(_is_a(str, fix["description"]), _is_a(bool, fix["safe"]), _edits(fix["edits"], path)),
    )


def _edits(plain: list[dict[str, Any]], path: str) -> tuple[Edit, ...]:
    return tuple(Edit(_location(edit["location"], path), _is_a(str, edit["text"])) for edit in plain)


def _location(plain: dict[str, Any], path: str) -> Location:
    return Location(path, *(_is_a(int, plain[key]) for key in ("line", "column", "end_line", "end_column")))


def _is_a(kind: type[T], value: object) -> T:
    """Return a value of the cache, which somebody else may have written.

    Raises:
        TypeError: it is of another type.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
