"""How many of the fixes that findings state work: run as ``python tests/kit/fix_share.py [--all] [FILE]...``.

Each bad builder of the fixtures is checked. Where a finding has edits, they are made in a copy of the file, and the
copy is checked again: the finding must be gone and no other come. Where it has none, the text of its fix must name
code to write: a call, an attribute or a keyword.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import table

from gradlint.engine.check import Options, check_target
from gradlint.findings import Finding, Report, Severity
from gradlint.source.files import source_text
from gradlint.triage.fixes import fix_text

CODE = re.compile(r"`[^`]+`|\w+\([^)]*\)|\w+\.\w+|\b\w+_\w+\b|\b\w+=\S+|\b\w+ = \w+|\[[\w'\":. ]+\]")
"""Matches what reads as code in the text of a fix."""


@dataclass(frozen=True)
class Outcome:
    """What became of one finding's fix."""

    builder: str
    code: str
    kind: str
    """``gone``, ``stays``, ``more`` (others came), ``broken`` (it runs no more), ``code`` or ``prose``."""
    text: str


def outcomes(builders: Iterable[table.Builder]) -> Iterator[Outcome]:
    """Yield what becomes of the fixes of the findings in builders, each builder checked by itself."""
    with tempfile.TemporaryDirectory() as folder:
        for number, builder in enumerate(builders):
            report = _checked(builder.target)
            for index, finding in enumerate(f for f in report.findings if f.severity > Severity.INFO):
                fix = finding.fix
                text = fix.description if fix is not None else ""
                if fix is None or not fix.edits:
                    yield Outcome(builder.id, finding.code, "code" if CODE.search(text) else "prose", text)
                else:
                    place = Path(folder, f"copy_{number}_{index}")
                    place.mkdir()
                    yield Outcome(builder.id, finding.code, _edited(builder, finding, report, place), text)


def _edited(builder: table.Builder, finding: Finding, before: Report, folder: Path) -> str:
    """Make the edits of a finding in a copy, and return what the check of it says."""
    assert finding.fix is not None
    paths = {edit.location.path for edit in finding.fix.edits}
    if paths != {str(builder.path)}:
        return "elsewhere"
    data = builder.path.read_bytes()
    fixed = fix_text(source_text(str(builder.path), data), [finding], unsafe=True)
    copy = folder / builder.path.name
    copy.write_text(fixed.text, encoding="utf-8")
    after = _checked(f"{copy}:{builder.name}")
    if after.errors:
        return "broken"
    known = Counter(_key(f) for f in before.findings)
    now = Counter(_key(f) for f in after.findings)
    if now[_key(finding)] >= known[_key(finding)]:
        return "stays"
    return "more" if any(count > known[key] and key[2] > Severity.INFO for key, count in now.items()) else "gone"


def _key(finding: Finding) -> tuple[str, tuple[str, ...], Severity]:
    return finding.code, finding.parameters, finding.severity


def _checked(target: str) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says about the mistakes is not what is counted
        return check_target(target, table.rules(), Options(numeric=True))


def bad(files: Sequence[Path], *, every: bool = False) -> list[table.Builder]:
    """Return the bad builders of fixture files; without `every`, one of each kind."""
    found = [b for path in files for b in table.builders(path, "bad") if b.bad]
    return found if every else table.kinds(found)


def main(arguments: Sequence[str]) -> int:
    """Print each fix that does not work, and the shares; return the exit code."""
    named = [Path(a).resolve() for a in arguments if not a.startswith("-")]
    counted: Counter[str] = Counter()
    for outcome in outcomes(bad(named or table.fixture_files(), every="--all" in arguments)):
        counted[outcome.kind] += 1
        if outcome.kind not in ("gone", "code"):
            print(f"{outcome.builder}: {outcome.code}: {outcome.kind}: {outcome.text}", flush=True)
    made = sum(counted[kind] for kind in ("gone", "stays", "more", "broken"))
    told = counted["code"] + counted["prose"]
    print(f"{counted['gone']} of {made} edits do away with their finding ({share(counted['gone'], made)})")
    print(f"{counted['code']} of {told} fixes without edits name code ({share(counted['code'], told)})")
    return 0


def share(part: int, whole: int) -> str:
    """Return a share as a percentage."""
    return f"{100 * part / whole:.0f} %" if whole else "none"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
