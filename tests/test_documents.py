"""Reports as HTML and Markdown: complete, self-contained, and nothing in a name is markup."""

from __future__ import annotations

import html
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from cases import each

from gradlint.findings import Failure, Finding, Fix, Note, Related, Report, Severity
from gradlint.findings import TargetSummary as Summary
from gradlint.location import Location
from gradlint.report import render
from gradlint.report.view import View

HOSTILE = {
    "a script": '</script><script>alert(1)</script><img src=x onerror="alert(1)">',
    "the end of what is open": "</details></pre></code></style>--><!-- </summary>",
    "a table": "a | b |\n|---|---|\n| c",
    "fences": "```` `` `x` ~~~~ ```\n```",
    "markup": "**bold** [a](http://x) ![b](c) <b> &lt; $x$ # x",
    "people": "@everyone #12",
    "another direction": "\u202eabc\u2066",
    "length": "x" * 10_000,
}


def report_of(text: str, source: Path, count: int = 1) -> Report:
    """A report with a text in every place that user code reaches, also in source lines."""
    source.write_text(f"x = 1\n{text}\n{text}\n", encoding="utf-8")
    place, gone = Location(str(source), 2, 1, 2, 5), Location(f"/nowhere/{text}.py", 3)
    fix = Fix(f"Write {text}.")
    names = tuple(f"{text}.{number}" for number in range(3))
    finding = Finding(text, "GL401", "detached", Severity.ERROR, text, place, names, (Related(text, gone),), fix)
    return Report(
        findings=[finding] * count,
        errors=[Failure(text, text, f"Traceback\n{text}\n")],
        notes=[Note(text, text), Note("", text, "GL003", gone)],
        targets=[Summary(text, text, text, 1, 1, 0, 0, 0, 1, 1, optimizers=((text, 1),))],
    )


class Tags(HTMLParser):
    """Counts the tags of a page, and keeps its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        self.closed[tag] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


@each("kind", HOSTILE)
def test_html_holds_the_tags_of_a_harmless_report(kind: str, tmp_path: Path) -> None:
    page, plain = (
        Tags(render("html", report_of(text, tmp_path / "m.py"), View(root=tmp_path)))
        for text in (HOSTILE[kind], "plain")
    )
    assert set(page.opened) == set(plain.opened) and page.attributes == plain.attributes
    assert page.opened - Counter("meta") == page.closed + Counter(meta=page.opened["meta"])


def test_html_has_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = render("html", report_of("x", tmp_path / "m.py"), View(root=tmp_path))
    assert not re.search(r"<script|<link|src=|@import|url\(|https?:", page)


def test_html_marks_what_is_blamed(tmp_path: Path) -> None:
    report = report_of("h = 漢 + <b>", tmp_path / "m.py")
    assert "<mark>h = </mark>漢 + &lt;b&gt;" in render("html", report, View(root=tmp_path))


def outside_fences(text: str) -> str:
    """Return Markdown without what stands in fences."""
    return re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


@each("kind", HOSTILE)
def test_markdown_holds_the_markup_of_a_harmless_report(kind: str, tmp_path: Path) -> None:
    hostile, plain = (
        outside_fences(render("markdown", report_of(text, tmp_path / "m.py"), View(root=tmp_path)))
        for text in (HOSTILE[kind], "plain")
    )
    for mark in ("<", "`", "|", "[", "](", "@", "*", "$", "~", "_"):
        assert hostile.count(mark) - hostile.count("<!-- -->") * (mark == "<") == plain.count(mark), mark


@each("kind", HOSTILE)
def test_markdown_keeps_the_text(kind: str, tmp_path: Path) -> None:
    text = render("markdown", report_of(HOSTILE[kind], tmp_path / "m.py"), View(root=tmp_path))
    shown = html.unescape(text.replace("<!-- -->", ""))
    start = HOSTILE[kind].replace("\n", " ")[:100]
    assert (start.encode("ascii", "backslashreplace").decode() if start[0] == "\u202e" else start) in shown


@each("count", [1, 40, 3000])
def test_markdown_fits_into_a_comment(count: int, tmp_path: Path) -> None:
    text = render("markdown", report_of("`" * 10_000, tmp_path / "m.py", count), View(root=tmp_path))
    assert len(text) < 65_536 and text.count("<details>") == text.count("</details>")
    assert ("more, which the report in another format shows" in text) == (count > 1)
