"""The report as HTML: one file without anything from elsewhere, or a fragment for a page around it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from pathlib import Path

from gradlint.findings import Failure, Finding, FlowMap, Note, Report, Skipped, TargetSummary, sorted_findings
from gradlint.flow.cost import saved_in_words
from gradlint.location import Location
from gradlint.report.excerpt import Row, excerpt
from gradlint.report.full import closing
from gradlint.report.map.page import map_page
from gradlint.report.summary import sources, summary
from gradlint.report.view import View, char_cells, shown_place
from gradlint.rulekit.registry import Entry
from gradlint.wording import fold_names, plural

_ASSETS = Path(__file__).parent / "assets"
WIDTH = 110
"""Columns of source lines; longer ones are cut around what is blamed."""
NAMES = 60
"""Names of parameters listed before the rest is folded."""


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return the whole report as one page."""
    view = _page_view(view)
    counts = _text(closing(report).plain, view)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>gradlint: {counts}</title>\n<style>\n{_styles()}</style>\n</head>\n"
        f'<body class="gradlint-page">\n<main class="gradlint">\n<h1>gradlint</h1>\n{_body(report, view)}'
        f"{_maps(report, view)}</main>\n</body>\n</html>\n"
    )


def fragment(report: Report, view: View) -> str:
    """Return the report as an element of a page, with its styles."""
    return styled(_body(report, _page_view(view)))


def styled(content: str) -> str:
    """Return HTML in an element of a page, with its styles."""
    return f'<div class="gradlint"><style>\n{_styles()}</style>\n{content}</div>\n'


@functools.cache
def _styles() -> str:
    return (_ASSETS / "report.css").read_text(encoding="utf-8")


def _page_view(view: View) -> View:
    return replace(view, width=WIDTH, color=False, terminal=True, encoding="utf-8")


def _text(text: str, view: View) -> str:
    """Return one line of text from anywhere as HTML."""
    return escape(view.clean(text))


def _body(report: Report, view: View) -> str:
    parts = [f'<p class="closing">{_text(closing(report).plain, view)}</p>']
    parts += [_finding(finding, view) for finding in sorted_findings(report.findings)]
    if not view.quiet:
        parts += [_failure(failure, view) for failure in report.errors]
        parts += [_target(target, report, view) for target in report.targets]
        judged = {target.target for target in report.targets}
        parts += [_note(note, view) for note in report.notes if note.target not in judged]
        if report.sources is not None:
            parts.append(f'<p class="note">{_text(sources(report.sources), view)}</p>')
    return "".join(f"{part}\n" for part in parts)


def _maps(report: Report, view: View) -> str:
    """Return the map of each target, closed until the reader opens it."""
    parts = []
    for flow_map in report.maps:
        target = _text(flow_map.overview.target, view)
        head = f"<summary>Map of the gradient: <code>{target}</code></summary>"
        parts.append(f'<details class="map">{head}{_frame(flow_map, report.findings, view)}</details>\n')
    return "".join(parts)


def frame(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return a map as an element of a page, with its styles."""
    return styled(f'<div class="map">{_frame(flow_map, findings, _page_view(view))}</div>')


def _frame(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return a frame with the page of a map, which reaches nothing around it."""
    target = _text(flow_map.overview.target, view)
    page = escape(map_page(flow_map, findings, view))
    return f'<iframe title="Map of {target}" sandbox="allow-scripts" loading="lazy" srcdoc="{page}"></iframe>'


def _finding(finding: Finding, view: View) -> str:
    severity = str(finding.severity)
    place = _place(finding.location, view) if finding.location else f"<code>{_text(finding.target, view)}</code>"
    parts = [
        f'<header><span class="severity">{severity}</span> <code class="code">{_text(finding.code, view)}</code> '
        f'<span class="name">{_text(finding.name, view)}</span> {place}</header>'
    ]
    if finding.location:
        parts.append(_source(finding.location, view, 2))
    parts.append(f'<p class="message">{_text(finding.message, view)}</p>')
    if finding.fix:
        parts.append(f'<p class="fix"><b>Fix</b> {_text(finding.fix.description, view)}</p>')
    if finding.saving:
        parts.append(f'<p class="fix"><b>Measured</b> Freezing them saves {saved_in_words(finding.saving)}.</p>')
    for related in finding.related:
        head = f"<b>{_text(related.message, view)}</b> {_place(related.location, view)}"
        parts.append(f'<div class="related"><p>{head}</p>{_source(related.location, view, 0)}</div>')
    parts.append(_parameters(finding.parameters, view))
    return f'<article class="finding {severity}">{"".join(parts)}</article>'


def _parameters(names: Sequence[str], view: View) -> str:
    """Return the parameters of a finding, closed until the reader opens them."""
    if not names:
        return ""
    labels = fold_names(names)
    listed = [f"<li><code>{_text(label, view)}</code></li>" for label in labels[:NAMES]]
    if len(labels) > NAMES:
        listed.append(f"<li>and {len(labels) - NAMES} more</li>")
    head = plural(len(names), "parameter")
    return f"<details><summary>{head}</summary><ul>{''.join(listed)}</ul></details>"


def _place(place: Location, view: View) -> str:
    return f'<code class="place">{_text(shown_place(place, view.root), view)}</code>'


def _source(place: Location, view: View, context: int) -> str:
    """Return the source lines of a place, the blamed ones marked; empty if there are none."""
    rows = excerpt(place, view, view.width, context)
    if not rows:
        return ""
    lines = "".join(f'<span class="number">{escape(row.gutter)}</span>{_marked(row)}\n' for row in rows)
    return f'<pre class="source"><code>{lines}</code></pre>'


def _marked(row: Row) -> str:
    """Return the text of a row with its blamed part marked."""
    pieces, column = [], 0
    for char in row.text:
        mark = row.marks[column : column + 1] == "^"
        pieces.append((mark, char))
        column += char_cells(char)
    groups = groupby(pieces, key=lambda pair: pair[0])
    runs = ((mark, _source_text("".join(char for _, char in run))) for mark, run in groups)
    return "".join(f"<mark>{text}</mark>" if mark else text for mark, text in runs)


def _source_text(text: str) -> str:
    """Return source text as HTML that holds no command to a service which reads logs."""
    return escape(text).replace("##", "#&#35;")


def _failure(failure: Failure, view: View) -> str:
    trace = "\n".join(escape(view.clean(line)) for line in view.lines(failure.traceback.rstrip("\n")))
    shown = f'<pre class="traceback">{trace}</pre>' if trace.strip() else ""
    head = f'<header><span class="severity">error</span> <code>{_text(failure.target, view)}</code></header>'
    message = f'<p class="message">{_text(failure.message, view)}</p>'
    return f'<article class="finding error">{head}{message}{shown}</article>'


def _target(target: TargetSummary, report: Report, view: View) -> str:
    facts = [("inputs", target.inputs), ("loss", target.loss)]
    shown = "".join(f"<dt>{name}</dt><dd>{_text(text, view)}</dd>" for name, text in facts if text)
    notes = [_note(note, view) for note in report.notes if note.target == target.target]
    skipped = [skip for skip in report.skipped if skip.target == target.target and skip.asked]
    return (
        f'<section class="target"><h2><code>{_text(target.target, view)}</code></h2>'
        f"<p>{_text(summary(target), view)}</p><dl>{shown}</dl>{''.join(notes)}{_skipped(skipped, view)}</section>"
    )


def _skipped(skipped: Iterable[Skipped], view: View) -> str:
    """Return the rules that could not judge, closed until the reader opens them."""
    rows = list(_reasons(skipped, view))
    if not rows:
        return ""
    return f"<details><summary>Rules that were skipped</summary><ul>{''.join(rows)}</ul></details>"


def _reasons(skipped: Iterable[Skipped], view: View) -> Iterator[str]:
    codes: dict[str, list[str]] = {}
    for skip in skipped:
        codes.setdefault(skip.reason, []).append(skip.code)
    for reason, names in codes.items():
        yield f"<li>{_text(', '.join(names), view)}: {_text(reason, view)}</li>"


def _note(note: Note, view: View) -> str:
    code = f"<code>{_text(note.code, view)}</code> " if note.code else ""
    place = f" {_place(note.location, view)}" if note.location else ""
    return f'<p class="note">{code}{_text(note.message, view)}{place}</p>'
