"""The rules as a table and as documentation pages."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from gradlint.report.view import View, cells, wrap
from gradlint.rulekit.registry import HEADINGS, Entry, OwnCode, heading_of
from gradlint.system.legible import json_text
from gradlint.wording import inflect, list_of


def page(rule: Entry, view: View) -> str:
    """Return the documentation of one rule, rendered for a terminal, else as written."""
    title = f"{rule.code} {rule.name} ({rule.severity})"
    text = documentation(rule) + _precedence(rule) + _messages(rule)
    if not view.terminal:
        return f"{title}\n\n{text}\n"
    from rich.markdown import Markdown  # slow to import; only this page needs it
    from rich.theme import Theme

    from gradlint.report.styled import Console

    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=min(view.width, 100),
        force_terminal=view.color,
        no_color=not view.color,
        color_system="standard" if view.color else None,
        legacy_windows=False,
        highlight=False,
        emoji=False,
        # The default paints code on black, which is wrong on a light terminal.
        theme=Theme({"markdown.code": "bold cyan", "markdown.h2": "bold"}),
    )
    console.print(f"{title}\n", style="bold", markup=False)
    console.print(Markdown(as_markdown(text), code_theme="ansi_dark"))
    lines = [view.keep(line.rstrip()) for line in buffer.getvalue().splitlines()]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before) + "\n"


def table(rules: Sequence[Entry], view: View) -> str:
    """Return one line per rule: code, name, severity, summary.

    If that is too wide, the summary goes below.
    """
    if not rules:
        return "no rules\n"
    names = max(cells(rule.name) for rule in rules)
    lines = []
    for rule in rules:
        head = f"{rule.code}  {rule.name:{names}}  {rule.severity!s:7}  "
        about = view.clean(summary(rule))
        room = view.width - cells(head)
        if not view.terminal:
            lines.append(head + about)
        elif room >= 30:
            first, *rest = wrap(about, room)
            lines += [head + first, *(" " * cells(head) + line for line in rest)]
        else:
            lines += [*wrap(head, view.width), *("    " + line for line in wrap(about, view.width - 4))]
    return "".join(line.rstrip() + "\n" for line in lines)


def as_json(rules: Sequence[Entry]) -> str:
    """Return the rules with their documentation as JSON in ASCII."""
    return json_text({"schema": 1, "rules": [_entry(rule) for rule in rules]})


def _entry(rule: Entry) -> dict[str, Any]:
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": str(rule.severity),
        "summary": summary(rule),
        "documentation": documentation(rule),
    }


def documentation(rule: Entry) -> str:
    """Return the docstring without the indentation of the source."""
    return inspect.cleandoc((rule.doc if isinstance(rule, OwnCode) else rule.__doc__) or "")


def _precedence(rule: Entry) -> str:
    """Return the paragraph that names the rules which take precedence; empty where none does."""
    codes = () if isinstance(rule, OwnCode) else sorted(rule.yields_to)
    return (
        f"\n\n## Precedence\nParameters that {list_of(codes)} {inflect(codes, 'report')} are not reported again."
        if codes
        else ""
    )


def _messages(rule: Entry) -> str:
    """Return the paragraph that lists the message templates; empty for gradlint's own codes."""
    if isinstance(rule, OwnCode):
        return ""
    templates = [text for name, text in vars(rule).items() if name.startswith("MESSAGE") and isinstance(text, str)]
    return "".join(["\n\n## Messages\n", *(f"\n- {text}" for text in templates)])


def summary(rule: Entry) -> str:
    """Return the text before the first heading, else the first paragraph below it."""
    paragraphs: list[list[str]] = [[]]
    for line in documentation(rule).splitlines():
        if _is_underline(line):
            continue
        if not line.strip() or heading_of(line) in HEADINGS:
            paragraphs.append([])
        else:
            paragraphs[-1].append(line.strip())
    return next((" ".join(paragraph) for paragraph in paragraphs if paragraph), "")


def as_markdown(text: str) -> str:
    """Return the documentation of a rule as Markdown: headings marked, example code fenced."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        heading = heading_of(line)
        if heading:
            sections.append((heading, []))
        elif not _is_underline(line):
            sections[-1][1].append(line)
    parts = []
    for heading, lines in sections:
        body = textwrap.dedent("\n".join(lines)).strip("\n")
        if heading in ("Example", "Use instead") and _is_code(body):
            body = f"```python\n{textwrap.dedent(body)}\n```"
        parts += [f"## {heading}", body] if heading else [body]
    return "\n\n".join(parts)


def _is_code(body: str) -> bool:
    try:
        return bool(ast.parse(body).body) and not re.fullmatch(r"[\w\s.]*", body)
    except (SyntaxError, ValueError):
        return False


def _is_underline(line: str) -> bool:
    return len(line.strip()) > 2 and not line.strip().strip("-=~")
