"""The manual, or some of its chapters."""

from __future__ import annotations

import re
from pathlib import Path

from gradlint.errors import UsageError
from gradlint.report.catalogue import rendered
from gradlint.report.view import View
from gradlint.wording import nearest


def pages(manual: Path, wanted: str, view: View) -> str:
    """Return the chapters whose title contains a text, or all of them.

    Raises:
        UsageError: none does.
    """
    text = manual.read_text(encoding="utf-8")
    if wanted:
        chapters = {part.partition("\n")[0]: f"## {part}" for part in re.split(r"(?m)^## ", text)[1:]}
        found = [part for title, part in chapters.items() if wanted.casefold() in title.casefold()]
        if not found:
            near = nearest(wanted, chapters)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(chapters)}"
            raise UsageError(f"the manual has no chapter about {wanted!r}: {hint}")
        text = "".join(found)
    return rendered(text, view) if view.terminal else text.rstrip("\n") + "\n"
