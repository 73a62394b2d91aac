"""Baselines: accepted findings, quiet until they are fixed or become more."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradlint.errors import UsageError
from gradlint.findings import Finding
from gradlint.source.files import source_lines
from gradlint.system import reading, writing
from gradlint.system.legible import json_text

VERSION = 1


class Fingerprints:
    """Identities of findings: code, file and blamed text, without the line number."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self._lines: dict[str, tuple[str, ...]] = {}

    def of(self, finding: Finding) -> str:
        """Return the same text for the same mistake in the same file, wherever it moved."""
        return hashlib.blake2b(
            "\0".join(self.parts(finding)).encode("utf-8", "backslashreplace"), digest_size=12
        ).hexdigest()

    def parts(self, finding: Finding) -> tuple[str, str, str]:
        """Return (code, path, blamed text); without a location the parameters replace the text."""
        place = finding.location
        if place is None:
            return finding.code, finding.target, " ".join(finding.parameters)
        if place.path not in self._lines:
            self._lines[place.path] = source_lines(place.path)
        lines = self._lines[place.path]
        text = " ".join(lines[place.line - 1].split()) if 0 < place.line <= len(lines) else ""
        return finding.code, self._relative(place.path), text

    def _relative(self, path: str) -> str:
        try:
            relative = os.path.relpath(path, self.root)
        except ValueError:  # another Windows drive
            relative = path
        return relative.replace(os.sep, "/")


def _root(path: Path) -> Path:
    """Return the folder that the paths in a baseline are relative to."""
    return Path.cwd() if writing.is_special(path) else path.parent


@dataclass
class Baseline:
    """The findings that a file lists, by fingerprint."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    about: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Read a baseline.

        Raises:
            UsageError: it is missing, or no baseline.
        """
        try:
            document: Any = json.loads(reading.read(path))
            rows = [(row["fingerprint"], int(row["count"]), (row["code"], row["path"], row["text"]))
                    for row in document["findings"]]  # fmt: skip
            version = document["version"]
        except OSError as error:
            hint = "; write one with --write-baseline" if isinstance(error, FileNotFoundError) else ""
            raise UsageError(f"baseline {path}: cannot be read: {error.strerror or error}{hint}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"baseline {path}: is no baseline of gradlint: {error!r}") from error
        if version != VERSION:
            raise UsageError(f"baseline {path}: has version {version!r}, not {VERSION}; write it anew")
        baseline = cls(path)
        for fingerprint, count, about in rows:
            baseline.counts[fingerprint] += count
            baseline.about[fingerprint] = about
        return baseline

    @classmethod
    def made_of(cls, findings: Iterable[Finding], path: Path) -> Baseline:
        """Return the baseline that lists these findings."""
        baseline = cls(path)
        prints = Fingerprints(_root(path))
        for finding in findings:
            fingerprint = prints.of(finding)
            baseline.counts[fingerprint] += 1
            baseline.about[fingerprint] = prints.parts(finding)
        return baseline

    def write(self) -> None:
        """Write the baseline, ordered so that two of them compare well.

        Raises:
            UsageError: it cannot be written, or its file holds something else.
        """
        if self.path.is_file() and self.path.stat().st_size and not writing.is_special(self.path):
            Baseline.read(self.path)
        rows = [
            {"code": code, "path": path, "text": text, "count": self.counts[fingerprint], "fingerprint": fingerprint}
            for fingerprint, (code, path, text) in sorted(self.about.items(), key=lambda item: (item[1][1], item[1]))
        ]
        document = json_text({"version": VERSION, "findings": rows}, readable=True)
        try:
            writing.write(self.path, document.encode())
        except OSError as error:
            raise UsageError(f"baseline {self.path}: cannot be written: {error.strerror or error}") from error

    def new(self, findings: Iterable[Finding]) -> tuple[list[Finding], int, int]:
        """Return (findings that are not listed, how many are, how many listed ones are gone).

        The same mistake on one line, found through several targets, counts once.
        """
        prints = Fingerprints(_root(self.path))
        places: dict[str, set[object]] = {}
        fresh: list[Finding] = []
        old = 0
        for finding in findings:
            fingerprint = prints.of(finding)
            seen = places.setdefault(fingerprint, set())
            place = finding.location or finding.target
            if place in seen or len(seen) < self.counts[fingerprint]:
                seen.add(place)
                old += 1
            else:
                fresh.append(finding)
        gone = sum(max(count - len(places.get(print_, ())), 0) for print_, count in self.counts.items())
        return fresh, old, gone
