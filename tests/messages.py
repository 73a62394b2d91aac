"""What users read on every fixture with a mistake: ``python tests/messages.py --write`` writes it to messages.txt.

The snapshot is there to be read: each finding with its words, its related places, its fix and its edits. Lines of the
fixtures are quoted instead of numbered, so that it does not change where a fixture moves.
"""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import table

if TYPE_CHECKING:
    from gradlint import Finding, Location

SNAPSHOT = Path(__file__).with_name("messages.txt")


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


def text(builder: table.Builder) -> str:
    """What a builder gives that its file announces; infos that it does not announce are left out."""
    announced = {(a.severity, a.rule) for a in builder.annotations}
    found = [
        f for f in table.report(builder.target).findings if (str(f.severity), f.name) in announced or f.severity > 0
    ]
    return "\n".join([builder.id, *(line for f in found for line in lines(f))]) + "\n"


def read() -> dict[str, str]:
    """The snapshot, by builder."""
    blocks = SNAPSHOT.read_text(encoding="utf-8").split("\n\n") if SNAPSHOT.exists() else []
    return {block.partition("\n")[0]: block.strip("\n") + "\n" for block in blocks if block.strip()}


def main() -> None:
    """Write the snapshot anew."""
    SNAPSHOT.write_text("\n".join(text(b) for b in builders()), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    main()
