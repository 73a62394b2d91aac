"""Scores gradlint on a folder of small setups that say what is wrong with them: ``python tests/kit/corpus.py FOLDER``.

The folder holds ``bad/*.py`` and ``good/*.py``, each with ``build()`` and ``EXPECT``, a literal dict: ``family``,
``params`` (a sample of those that must be named), ``line_contains`` (a piece of the line to blame) and, for a good one,
``allow`` (codes that may warn). Printed is, for each family, how many bad ones were found, at the right line, with the
right parameters, and how many good ones alarm. The exit code is 1 where a good one does, or one ends in an error.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlint import Finding, Report, Severity
from gradlint.rulekit import registry


@dataclass(frozen=True)
class Case:
    """One setup and what its file says of it."""

    path: Path
    family: str
    bad: bool
    parameters: frozenset[str]
    lines: frozenset[int]
    allowed: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What gradlint said of one."""

    case: Case
    found: bool
    line: bool
    parameters: bool
    codes: tuple[str, ...]
    """Errors and warnings, less those that are allowed."""
    broken: str


def read(path: Path) -> Case:
    """The expectation of a file, without running it."""
    source = path.read_text(encoding="utf-8")
    expect: dict[str, Any] = {}
    span = range(0)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "EXPECT" for t in node.targets):
            expect, span = ast.literal_eval(node.value), range(node.lineno, (node.end_lineno or node.lineno) + 1)
    piece = expect.get("line_contains")
    lines = [
        number
        for number, text in enumerate(source.splitlines(), 1)
        if piece and piece in text and number not in span and not text.lstrip().startswith("#")
    ]
    return Case(
        path,
        expect.get("family", "?"),
        path.parent.name == "bad",
        frozenset(expect.get("params", ())),
        frozenset(lines),
        frozenset(expect.get("allow", ())),
    )


def judge(case: Case, report: Report) -> Outcome:
    """Compare a report with what was expected."""
    loud = [f for f in report.findings if f.severity > Severity.INFO]
    here = [f for f in loud if case.lines & set(_lines(f, case.path))]
    touching = [f for f in loud if case.parameters & set(f.parameters)]
    named = {name for f in (*here, *touching) for name in f.parameters}
    codes = {f.code for f in loud if f.severity is Severity.ERROR or f.code not in case.allowed}
    found = bool(here or touching)
    return Outcome(
        case,
        found,
        found and (bool(here) or not case.lines),
        found and case.parameters <= named,
        tuple(sorted(codes)),
        "; ".join(e.message for e in report.errors),
    )


def _lines(finding: Finding, path: Path) -> Iterable[int]:
    for place in (finding.location, *(r.location for r in finding.related)):
        if place is not None and Path(place.path).name == path.name:
            yield place.line


def score(folder: Path, families: Sequence[str] = ()) -> list[Outcome]:
    """Check every setup of a folder with all rules on and gradients measured."""
    from gradlint.engine.check import Options, check_target

    rules = registry.load(packs=False).rules
    cases = [read(p) for p in (*sorted(folder.glob("bad/*.py")), *sorted(folder.glob("good/*.py")))]
    outcomes = []
    for case in cases:
        if not families or case.family in families:
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                report = check_target(f"{case.path}:build", rules, Options(numeric=True))
            outcomes.append(judge(case, report))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes by family, then what is missing or wrong one by one."""
    rows: dict[str, list[int]] = collections.defaultdict(lambda: [0] * 6)
    for o in outcomes:
        counts = (o.found, o.line, o.parameters) if o.case.bad else (0, 0, 0)
        false = (not o.case.bad, not o.case.bad and bool(o.codes))
        for column, hit in enumerate((o.case.bad, *counts, *false)):
            rows[o.case.family][column] += bool(hit)
    width = max([len("family"), *map(len, rows)])
    lines = [f"{'family':{width}}  bad  found  line  parameters  good  false alarms"]
    rows["all"] = [sum(row[c] for row in rows.values()) for c in range(6)]
    for family, (bad, found, line, parameters, good, alarms) in sorted(rows.items(), key=lambda r: (r[0] == "all", r)):
        lines.append(f"{family:{width}}  {bad:3}  {found:5}  {line:4}  {parameters:10}  {good:4}  {alarms:12}")
    for o in outcomes:
        name = f"{o.case.path.parent.name}/{o.case.path.name}"
        if o.broken:
            lines.append(f"broken       {name}: {o.broken}")
        elif o.case.bad and not (o.found and o.line and o.parameters):
            lacks = "missed" if not o.found else "wrong line" if not o.line else "parameters"
            lines.append(f"{lacks:12} {name} (said: {', '.join(o.codes) or 'nothing'})")
        elif not o.case.bad and o.codes:
            lines.append(f"false alarm  {name}: {', '.join(o.codes)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 where no good setup alarms and none is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", action="append", default=[])
    given = parser.parse_args(arguments)
    if not any(given.folder.glob("bad/*.py")):
        print(f"skipped: there is no corpus in {given.folder}")
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    outcomes = score(given.folder.resolve(), given.family)
    print(table(outcomes))
    return int(any(o.broken or (not o.case.bad and o.codes) for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
