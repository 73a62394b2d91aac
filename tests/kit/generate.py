"""Write the generated files anew: ``python tests/kit/generate.py [NAME ...]``; then read the diff.

These are the manual's table of rules and the snapshots of messages, messages.txt and made_before.txt. With names of
rules, only the messages of their builders are written anew, in seconds.
"""

from __future__ import annotations

import re
import sys

import messages
import table


def readme() -> None:
    """Write the manual's table of rules."""
    from gradlint.report.catalogue import summary
    from gradlint.rulekit import registry

    path = table.ROOT / "gradlint" / "cli" / "manual.md"
    rules = registry.load(packs=False).entries
    rows = "".join(f"| {e.code} | `{e.name}` | {e.severity} | {summary(e)} |\n" for e in rules)
    text, count = re.subn(r"(?m)(?:^\| GL\d+ \| .*\n)+", lambda _: rows, path.read_text(encoding="utf-8"))
    assert count == 1, "manual.md: no single table of rules"
    path.write_text(text, encoding="utf-8")


def main(names: list[str]) -> None:
    """Write the table and the snapshots."""
    stems = {name.replace("-", "_") for name in names}
    unknown = stems - {path.stem for path in table.fixture_files()}
    if unknown:
        sys.exit(f"there is no fixture of {', '.join(sorted(unknown))}")
    readme()
    messages.write(stems)


if __name__ == "__main__":
    main(sys.argv[1:])
