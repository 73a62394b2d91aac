"""Snapshots of the messages of every fixture with a mistake, written by tests/kit/generate.py.

messages.txt holds them where gradlint sees the build, made_before.txt where the training setup was made before.
They are there to be read: each finding with its words, its related places, its fix and its edits. Lines of the
fixtures are quoted instead of numbered, so that they do not change where a fixture moves.
"""

from __future__ import annotations

import functools
import linecache
import re
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import table

from gradlint import Severity

if TYPE_CHECKING:
    from gradlint import Finding, Location, Report

SNAPSHOT = Path(__file__).with_name("messages.txt")
MADE_BEFORE = Path(__file__).with_name("made_before.txt")
LEFT_OFF = "grad-mode-left-off"
"""Its builders leave grad mode off, which is then the state that is found."""
COPIES = frozenset(
    "frozen_norm_updates_stats-good_mean_teacher trainable_parameter_not_in_optimizer-good_target_network"
    " frozen_dropout_active-good_noisy_mean_teacher".split()
)
"""Set-ups whose innocence is that one network was copied from another, which nobody saw."""


def builders() -> list[table.Builder]:
    """The builders of the rules' own fixtures that are announced to give something."""
    return [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_") if b.annotations]


def quoted(location: Location | None) -> str:
    """The file's name and the text of a line."""
    if location is None:
        return "nowhere"
    return f"{Path(location.path).name}: {linecache.getline(location.path, location.line).strip()}"


def lines(finding: Finding) -> Iterator[str]:
    """One finding in words."""
    yield f"  {finding.severity} {finding.code} {quoted(finding.location)}"
    yield f"    {_unnumbered(finding.message)}"
    yield f"    = {', '.join(finding.parameters)}"
    for related in finding.related:
        yield f"    - {_unnumbered(related.message)}: {quoted(related.location)}"
    if finding.fix is not None:
        yield f"    > {'safe: ' if finding.fix.safe else ''}{finding.fix.description}"
        for edit in finding.fix.edits:
            yield f"    >> {edit.text}"


def _unnumbered(message: str) -> str:
    return re.sub(r"(\w+\.py):\d+", r"\1:N", message)


def told(builder: table.Builder, findings: Iterable[Finding]) -> list[Finding]:
    """Those that a builder's file announces and, announced or not, all above info."""
    announced = {(a.severity, a.rule) for a in builder.annotations}
    return [f for f in findings if f.severity > Severity.INFO or (str(f.severity), f.name) in announced]


def text(builder: table.Builder, report: Report) -> str:
    """What is told of a builder in a report."""
    found = told(builder, report.findings)
    return "\n".join([builder.id, *(line for f in found for line in lines(f))]) + "\n"


def means_the_same_made_before(builder: table.Builder) -> bool:
    """Return True if a builder's training setup means the same where its build was not recorded."""
    return LEFT_OFF not in {a.rule for a in builder.annotations} and builder.id not in COPIES


def made_before_builders() -> list[table.Builder]:
    """Return the builders of the rules' own fixtures that are also recorded after they were called."""
    found = [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")]
    return [b for b in found if means_the_same_made_before(b)]


@functools.cache
def made_before(builder: table.Builder) -> Report:
    """The report on what a builder builds, which is called before gradlint comes."""
    from gradlint.engine.check import Options, check_setup

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check_setup(builder.load()(), table.rules(), Options(numeric=True))


@functools.cache
def reviewed(snapshot: Path) -> dict[str, str]:
    """Return a snapshot, by builder id."""
    blocks = snapshot.read_text(encoding="utf-8").split("\n\n") if snapshot.exists() else []
    return {block.partition("\n")[0]: block.strip("\n") + "\n" for block in blocks if block.strip()}


def sayable(block: str) -> str:
    """Return what this Python can say of a builder's block of a snapshot.

    Code has columns since Python 3.11 only. Before, a place on the line of its finding is no other place.
    """
    if sys.version_info >= (3, 11):
        return block
    kept, place = [], ""
    for line in block.splitlines(keepends=True):
        if found := re.match(r"  (?:error|warning|info) [A-Z]+\d+ (.*)", line):
            place = found[1]
        if not (line.startswith("    - ") and line.rstrip().endswith(f": {place}")):
            kept.append(line)
    return "".join(kept)


def write(stems: Collection[str] = ()) -> None:
    """Write the snapshots anew; where stems of fixtures are named, only the messages of their builders."""

    def kept(builder: table.Builder, snapshot: Path) -> str | None:
        return reviewed(snapshot).get(builder.id, "") if stems and builder.path.stem not in stems else None

    blocks: dict[Path, list[str]] = {SNAPSHOT: [], MADE_BEFORE: []}
    for builder in builders():
        block = kept(builder, SNAPSHOT)
        blocks[SNAPSHOT].append(text(builder, table.report(builder.target)) if block is None else block)
    for builder in made_before_builders():
        block = kept(builder, MADE_BEFORE)
        if block is None:
            report = made_before(builder)
            block = text(builder, report) if told(builder, report.findings) else ""
        blocks[MADE_BEFORE].append(block)
    for snapshot, texts in blocks.items():
        snapshot.write_text("\n".join(filter(None, texts)), encoding="utf-8")
