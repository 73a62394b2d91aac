"""The rules as a table and as documentation pages."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from collections.abc import Sequence
from itertools import groupby
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
    return rendered(as_markdown(text), view, title)


def as_pages(rules: Sequence[Entry]) -> str:
    """Return the documentation of rules as one Markdown text, with an anchor for each code."""
    parts = ["# Rules of gradlint"]
    for name, members in groupby(rules, key=family):
        parts.append(f"## {name[:1].upper()}{name[1:]}")
        for rule in members:
            facts = [str(rule.severity), *kinds(rule), *(["fixable"] if fixable(rule) else [])]
            text = as_markdown(documentation(rule) + _precedence(rule) + _messages(rule))
            parts += [
                f'<a id="{rule.code}"></a>',
                f"### {rule.code} {rule.name}",
                f"*{', '.join(facts)}*",
                re.sub(r"^(#+ )(?=[A-Z])", r"##\1", text, flags=re.MULTILINE),
            ]
    return "\n\n".join(parts) + "\n"


def rendered(markdown: str, view: View, title: str = "") -> str:
    """Return Markdown as text for a terminal, below a title if there is one."""
    from rich.markdown import Markdown  # slow to import; only documentation needs it
    from rich.theme import Theme

    from gradlint.report.styled import Console

    buffer = io.StringIO()
    console = Console(
        force_jupyter=False,  # else a notebook shows each line by itself, and nothing is returned
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
    if title:
        console.print(f"{title}\n", style="bold", markup=False)
    console.print(Markdown(markdown, code_theme="ansi_dark"))
    lines = [view.keep(line.rstrip()) for line in buffer.getvalue().splitlines()]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before) + "\n"


KINDS = ("source", "recording", "step")
"""What a rule may judge."""
_FAMILIES = {
    "GL0": "gradlint itself",
    "GL1": "building and freezing",
    "GL2": "frozen layers and modes",
    "GL3": "optimizers",
    "GL4": "gradient flow",
    "GL5": "training steps",
    "GL6": "losses and values",
    "GL7": "contracts and locks",
    "GL8": "wrappers",
}
"""Beginning of codes → what the rules are about."""


def table(rules: Sequence[Entry], view: View) -> str:
    """Return the rules: in a terminal as a table by family, else one line for each."""
    if not rules:
        return "no rules\n"
    names = max(cells(rule.name) for rule in rules)
    heads = {rule.code: _head(rule, names) for rule in rules}
    if not view.terminal:
        return "".join(f"{heads[rule.code]}{view.clean(summary(rule))}".rstrip() + "\n" for rule in rules)
    lines: list[str] = []
    for name, members in groupby(rules, key=family):
        lines += ["", f"{name[:1].upper()}{name[1:]}"] if lines else [f"{name[:1].upper()}{name[1:]}"]
        for rule in members:
            lines += _in_terminal(heads[rule.code], view.clean(summary(rule)), view)
    lines += ["", *wrap("fix: --fix mends it. step: judged where training steps are recorded.", view.width)]
    return "".join(line.rstrip() + "\n" for line in lines)


def _head(rule: Entry, names: int) -> str:
    fix = "fix" if fixable(rule) else ""
    return f"{rule.code}  {rule.name:{names}}  {rule.severity!s:7}  {'+'.join(kinds(rule)):16}  {fix:3}  "


def _in_terminal(head: str, about: str, view: View) -> list[str]:
    """Return a rule in lines that fit; the summary goes below if the rest leaves no room."""
    room = view.width - cells(head) - 2
    if room >= 30:
        first, *rest = wrap(about, room)
        return ["  " + head + first, *(" " * (cells(head) + 2) + line for line in rest)]
    return [
        *(f"  {line}" for line in wrap(head, view.width - 2)),
        *(f"      {line}" for line in wrap(about, view.width - 6)),
    ]


def kinds(rule: Entry) -> tuple[str, ...]:
    """Return what a rule judges; empty for gradlint's own codes."""
    return () if isinstance(rule, OwnCode) else rule.kinds()


def fixable(rule: Entry) -> bool:
    """Return True if --fix mends what a rule finds, where the source allows it."""
    return not isinstance(rule, OwnCode) and rule.fixable


def family(rule: Entry) -> str:
    """Return what the rules whose codes begin alike are about."""
    letters = rule.code.rstrip("0123456789")
    return _FAMILIES.get(rule.code[:3], f"rules {letters}")


def as_json(rules: Sequence[Entry]) -> str:
    """Return the rules with their documentation as JSON in ASCII."""
    return json_text({"schema": 1, "rules": [_entry(rule) for rule in rules]})


def _entry(rule: Entry) -> dict[str, Any]:
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": str(rule.severity),
        "family": family(rule),
        "kinds": list(kinds(rule)),
        "fixable": fixable(rule),
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
