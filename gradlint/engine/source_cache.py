"""Findings of earlier source checks, by the content of files.

There is one JSON file per project and per everything else that findings depend on: the versions of gradlint and Python,
and the text of the rules. A cache that cannot be read or written counts as empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradlint._version import __version__
from gradlint.findings import Edit, Finding, Fix, Related, Severity
from gradlint.location import Location

FORMAT = 1
KEPT_DAYS = 30
"""Days after which an entry that no check used is dropped."""
_MARK = "CACHEDIR.TAG"
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds gradlint's cache; it can be deleted.\n"


def default_folder() -> Path:
    """Return the default folder of caches: GRADLINT_CACHE_DIR, else the user's cache folder."""
    folder = os.environ.get("GRADLINT_CACHE_DIR")
    if folder:
        return Path(folder)
    from platformdirs import user_cache_path

    return Path(user_cache_path("gradlint", appauthor=False))


def clean(folder: Path) -> bool:
    """Delete a cache folder, and return True if there was one.

    A folder that is no cache of gradlint is left alone.

    Raises:
        OSError: it cannot be deleted.
    """
    if not folder.is_dir():
        return False
    tag = folder / _MARK
    if not tag.is_file() or "gradlint" not in tag.read_text(encoding="utf-8", errors="replace"):
        raise OSError(f"{folder} is no cache of gradlint: it holds no {_MARK} of it")
    shutil.rmtree(folder)
    return True


def digest(data: bytes) -> str:
    """Return the key of a file's content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Cache:
    """Findings by content, for one project and one set of rules."""

    def __init__(self, folder: Path | None, context: Iterable[str]) -> None:
        self._folder = folder
        key = digest("\0".join((str(FORMAT), __version__, sys.version, *context)).encode())
        self._file = folder / f"{key}.json" if folder is not None else None
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                entries = json.loads(self._file.read_bytes())
                self._known = {k: v for k, v in entries.items() if isinstance(v, list) and len(v) == 3}

    def get(self, key: str, path: str, target_of: Callable[[str], str]) -> tuple[list[Finding], bool] | None:
        """Return (findings, has suppressions) of a file with this content, or None if it is new.

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
            return [_finding(plain, path, target_of(path)) for plain in entry[1]], bool(entry[2])
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, key: str, findings: list[Finding], suppressions: bool) -> None:
        """Remember the findings of a file."""
        if self._file is not None:
            plain = [_plain(finding) for finding in findings]
            self._known[key] = [int(time.time() // 86400), plain, suppressions]
            self._changed = True

    def save(self) -> None:
        """Write the cache if it changed."""
        if self._file is None or self._folder is None or not self._changed:
            return
        oldest = int(time.time() // 86400) - KEPT_DAYS
        recent = {key: entry for key, entry in self._known.items() if isinstance(entry[0], int) and entry[0] >= oldest}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            tag = self._folder / _MARK
            if not tag.exists():
                tag.write_text(_TAG, encoding="utf-8")
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(recent, file, separators=(",", ":"))
            os.replace(name, self._file)


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON, without its file and target."""
    plain = asdict(finding)
    plain["severity"] = int(finding.severity)
    return plain


def _finding(plain: dict[str, Any], path: str, target: str) -> Finding:
    fix = plain["fix"]
    return Finding(
        target=target,
        code=plain["code"],
        name=plain["name"],
        severity=Severity(plain["severity"]),
        message=plain["message"],
        location=_location(plain["location"], path) if plain["location"] else None,
        parameters=tuple(plain["parameters"]),
        related=tuple(Related(r["message"], _location(r["location"], path)) for r in plain["related"]),
        fix=fix and Fix(fix["description"], fix["safe"], tuple(_edit(e, path) for e in fix["edits"])),
    )


def _edit(plain: dict[str, Any], path: str) -> Edit:
    return Edit(_location(plain["location"], path), plain["text"])


def _location(plain: dict[str, Any], path: str) -> Location:
    return Location(path, plain["line"], plain["column"], plain["end_line"], plain["end_column"])
