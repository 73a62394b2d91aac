"""Writes .ci/finding.svg, the picture of a finding in README.md: what a terminal shows of a shipped example.

python tests/kit/picture.py
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / ".ci" / "finding.svg"
TARGET = "fixtures/founding/detach_in_chain.py"
WIDTH = 90


def svg() -> str:
    """Return the picture."""
    import gradlint
    from gradlint.report import full
    from gradlint.report.view import View

    report = gradlint.check(f"{ROOT / TARGET}:build")
    text = full.render(report, View(WIDTH, color=True, terminal=True, quiet=True, root=ROOT))
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_terminal=True, legacy_windows=False)
    console.print(Text.from_ansi(text), Text())  # the last line of a picture is cut off below
    made = console.export_svg(title=f"gradlint check {TARGET}:build", unique_id="gradlint")
    return re.sub(r"@font-face \{.*?\}\s*", "", made, flags=re.DOTALL)  # fonts would come from elsewhere


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    FILE.write_text(svg(), encoding="utf-8")
