"""The report for people: findings with their source, then summaries, notes and skipped rules."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from gradlint.findings import Failure, Finding, Note, Report, Severity, Skipped, TargetSummary, sorted_findings
from gradlint.flow.cost import saved_in_words
from gradlint.location import Location
from gradlint.report.excerpt import excerpt
from gradlint.report.styled import Console, Text
from gradlint.report.summary import sources, summary
from gradlint.report.view import View, cells, cut, shown_place, wrap
from gradlint.rulekit.registry import Entry
from gradlint.source import overlay
from gradlint.source.files import source_text
from gradlint.source.text import Unreadable
from gradlint.system import legible
from gradlint.triage.fixes import applicable, fix_text, unified
from gradlint.wording import fold_names, plural

SEVERITY_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
SHOWN_CHANGES = 6
"""Lines of a safe fix that are shown; a longer change is left to --diff."""
LISTED = 12
"""Parameter groups listed before the rest is folded."""
BRIEF = 3
"""With more targets than this, clean ones take one line each unless the report is verbose."""


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return the whole report as text for `view`, with colour codes if the view has colour."""
    page = Page(view)
    for finding in sorted_findings(report.findings):
        _finding(page, finding)
    if view.quiet:
        return page.text()
    for failure in report.errors:
        _failure(page, failure)
    brief = len(report.targets) > BRIEF and not view.verbose
    page.gap()
    for target in report.targets:
        _target(page, target, report, brief)
    judged = {target.target for target in report.targets}
    for note in report.notes:
        if note.target not in judged:
            _note(page, note)
    page.gap()
    if report.sources is not None:
        page.paragraph(sources(report.sources), indent=0)
    page.line(closing(report, brief), wrapped=True)
    return page.text()


def failures(report: Report, view: View) -> str:
    """Return the targets that failed as text."""
    page = Page(view)
    for failure in report.errors:
        _failure(page, failure)
    return page.text()


class Page:
    """Lines of styled text, collected and then rendered at once."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._lines: list[tuple[Text, bool]] = []

    def line(self, *parts: Text | str, wrapped: bool = False) -> None:
        """Add one line; unless `wrapped` is set it is never broken."""
        self._lines.append((Text.assemble(*parts), wrapped))

    def gap(self) -> None:
        """Leave one empty line, unless there is one already or the page is empty."""
        if self._lines and self._lines[-1][0].plain:
            self.line()

    def paragraph(self, text: str, *, label: str = "", style: str = "", indent: int = 2, outside: bool = False) -> None:
        """Add wrapped text.

        A short `label` stands before the first line, and the others hang below the text; a long one is part of it. One
        from `outside`, a name of any length, never decides where they hang.
        """
        text, label = self.view.clean(text), self.view.clean(label)
        hang = indent + 2 if label else indent
        if 0 < cells(label) <= self.view.width // 4 and not outside:
            hang = indent + cells(label) + 1
            head, *rest = wrap(text, self.view.width - hang)
            self.line(" " * indent, Text(label, style=style), " ", head)
        else:
            head, *rest = wrap(f"{label} {text}".strip(), self.view.width - hang)
            self.line(" " * indent, Text(head[: len(label)], style=style), head[len(label) :])
        for line in rest:
            self.line(" " * hang, line)

    def where(self, location: Location, label: str = "", indent: int = 2) -> None:
        """Add ``label path:line:column``, over several lines where it is too long for one."""
        self.paragraph(shown_place(location, self.view.root), label=label, style="blue", indent=indent)

    def source(self, location: Location, style: str, context: int, indent: int = 2) -> None:
        """Add the source excerpt of a location, or a line saying that it cannot be shown."""
        rows = excerpt(location, self.view, self.view.width - indent, context)
        if not rows and context:
            self.line(" " * indent, Text("(source not available)", style="dim"))
        for row in rows:
            blank = " " * len(row.gutter)
            self.line(" " * indent, Text(f"{row.gutter} {self.view.bar} ", style="blue"), row.text)
            if row.marks.strip():
                self.line(" " * indent, Text(f"{blank} {self.view.bar} ", style="blue"), Text(row.marks, style=style))

    def text(self) -> str:
        """Return the page, its lines without spaces at their ends."""
        buffer = io.StringIO()
        color = self.view.color
        console = Console(
            force_jupyter=False,  # else a notebook shows each line by itself, and nothing is returned
            file=buffer, width=self.view.width, force_terminal=color, color_system="standard" if color else None,
            no_color=not color, legacy_windows=False, highlight=False, markup=False, emoji=False,
        )  # fmt: skip
        for line, wrapped in self._lines:
            line.rstrip()
            console.print(line, no_wrap=not wrapped, overflow="fold" if wrapped else "ignore", crop=False)
        text = "".join(line.rstrip() + "\n" for line in buffer.getvalue().split("\n")[:-1])
        return legible.sanitized(text, color=color)  # a broken word may have come to the start of a line


def _finding(page: Page, finding: Finding) -> None:
    page.gap()
    style = SEVERITY_STYLE[finding.severity]
    view = page.view
    title = f"{view.clean(finding.code)} {view.clean(finding.name)}"
    apart = "  " if cells(title) + 2 + len(str(finding.severity)) <= view.width else "\n  "
    page.line(Text(title, style="bold"), apart, Text(str(finding.severity), style=style))
    if finding.location:
        page.where(finding.location)
        page.source(finding.location, style, context=2)
    else:
        page.paragraph(finding.target)
    page.gap()
    page.paragraph(finding.message)
    _parameters(page, finding)
    for related in finding.related:
        page.where(related.location, label=f"{related.message}:")
        page.source(related.location, "blue", context=0, indent=4)
    if finding.fix:
        page.paragraph(finding.fix.description, label="fix:", style="bold green")
        for mark, text in _changed_lines(finding):
            style = "red" if mark == "-" else "green"
            page.line("    ", Text(cut(f"{mark} {page.view.lines(text)[0]}", page.view.width - 4), style=style))
    if finding.saving:
        saved = f"freezing them saves {saved_in_words(finding.saving)}."
        page.paragraph(saved, label="measured:", style="bold green")


def _changed_lines(finding: Finding) -> list[tuple[str, str]]:
    """Return (``-`` or ``+``, line) of what --fix would change.

    Empty for other fixes and for long changes.
    """
    if not applicable(finding, unsafe=False) or finding.fix is None:
        return []
    path = finding.fix.edits[0].location.path
    try:
        source = source_text(path, overlay.read(path))
        after = fix_text(source, [finding]).text
    except (OSError, ValueError, Unreadable):  # a path may be any text
        return []
    changed = unified(source.text, after, "").split("\n")[2:]
    lines = [(line[0], line[1:]) for line in changed if line.startswith(("-", "+"))]
    if not 0 < len(lines) <= SHOWN_CHANGES:
        return []
    texts = textwrap.dedent("\n".join(text for _, text in lines)).split("\n")
    return [(mark, text) for (mark, _), text in zip(lines, texts, strict=True)]


def _parameters(page: Page, finding: Finding) -> None:
    """List the parameters that the message does not name."""
    if names_all(finding.message, finding.parameters):
        return
    labels = fold_names(finding.parameters)
    listed = labels if page.view.verbose or len(labels) <= LISTED + 1 else labels[:LISTED]
    rest = len(labels) - len(listed)
    more = f", {page.view.dots} and {rest} more" if rest else ""
    page.paragraph(", ".join(listed) + more, label="parameters:", style="bold")


def names_all(message: str, parameters: Sequence[str]) -> bool:
    """Return True if the message contains each parameter, by name or under a pattern."""
    words = {word.strip(".") for word in re.findall(r"[\w.*\[\]]+", message)}
    patterns = [word for word in words if "*" in word and word.strip("*.")]
    return all(name in words or any(fnmatchcase(name, pattern) for pattern in patterns) for name in parameters)


def _failure(page: Page, failure: Failure) -> None:
    page.gap()
    page.paragraph(failure.target, label="error", style="bold red", indent=0)
    page.paragraph(failure.message)
    if failure.traceback.strip():
        page.gap()
        for line in page.view.lines(failure.traceback.rstrip("\n")):
            page.line(Text("  " + line, style="dim"))


def _target(page: Page, target: TargetSummary, report: Report, brief: bool) -> None:
    if not brief:
        page.gap()
    page.paragraph(summary(target), label=f"{target.target}:", style="bold", indent=0, outside=True)
    if not brief:
        page.paragraph(target.inputs, label="inputs:", style="dim")
        page.paragraph(target.loss, label="loss:", style="dim")
        if page.view.verbose:
            _parts(page, target)
    for note in report.notes:
        if note.target == target.target:
            _note(page, note)
    if not brief:
        _skipped(page, [skip for skip in report.skipped if skip.target == target.target])


def _parts(page: Page, target: TargetSummary) -> None:
    """List the outcomes of the top-level parts, and the contract that their names suggest."""
    if target.parts:
        page.paragraph("; ".join(f"{name}: {outcomes}" for name, outcomes in target.parts), label="parts:", style="dim")
    proposals = zip(("frozen", "trains"), target.proposed, strict=True)
    lines = [f"{key} = {json.dumps(patterns)}" for key, patterns in proposals if patterns]
    if lines:
        page.paragraph(", ".join(lines), label="names suggest the contract:", style="dim")


def _note(page: Page, note: Note) -> None:
    place = note.location
    where = f" ({shown_place(place, page.view.root, column=False)})" if place else ""
    page.paragraph(note.message + where, label=f"note {note.code}:" if note.code else "note:", style="cyan")


def _skipped(page: Page, skipped: Iterable[Skipped]) -> None:
    reasons: dict[str, list[str]] = {}
    for skip in skipped:
        if not skip.asked and not page.view.verbose:
            continue
        reasons.setdefault(skip.reason, []).append(skip.code)
    for reason, codes in reasons.items():
        which = ", ".join(codes) if page.view.verbose or len(codes) <= 3 else plural(len(codes), "rule")
        page.paragraph(f"{which} ({reason})", label="skipped:", style="dim")


def closing(report: Report, brief: bool = False) -> Text:
    """Return the last line of a report: what was found, hidden and skipped, in numbers."""
    errors = len(report.errors)
    skipped = sum(skip.asked for skip in report.skipped) if brief else 0
    fixable = sum(applicable(f, unsafe=False) for f in report.findings)
    clean = not report.findings
    clean_sources = clean and not report.targets and not errors and report.sources is not None
    counts = {severity: sum(f.severity == severity for f in report.findings) for severity in reversed(Severity)}
    rows: list[tuple[int, str, str]] = [
        (errors, f"{plural(errors, 'target')} could not be checked", "bold red"),
        *(
            (n, plural(n, "info finding" if s is Severity.INFO else str(s)), SEVERITY_STYLE[s])
            for s, n in counts.items()
        ),
        (clean and bool(report.targets), "no findings", "" if errors else "bold green"),
        (report.hidden, f"{report.hidden} info hidden (--show-info)", "dim"),
        (skipped, f"{plural(skipped, 'rule run')} skipped (-v says why)", "dim"),
        (clean_sources, "no findings", "bold green"),
        (report.fixed, f"{report.fixed} fixed", "bold green"),
        (report.known, f"{report.known} in the baseline", "dim"),
        (report.earlier, f"{report.earlier} not new (--since)", "dim"),
        (report.silenced, f"{report.silenced} suppressed by comments", "dim"),
        (report.gone, f"{report.gone} of the baseline gone (--write-baseline removes them)", "dim"),
        (fixable, f"{fixable} fixable with --fix", "dim"),
    ]
    parts = [Text(text, style=style) for count, text, style in rows if count] or [Text("nothing was checked")]
    line = Text(", ").join(parts)
    return line if len(report.targets) < 2 else Text.assemble(line, f" in {plural(len(report.targets), 'target')}")
