"""The claims that are tested of each builder of a rule's fixture, each one a generator of the sentences that break it.

`broken` asks all of them, so that one test per builder reports every broken claim at once.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import textwrap
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import messages
import proof
import table
import torch
from table import Builder

from gradlint import Rule, Severity
from gradlint.rulekit import registry

REGENERATE = "python tests/kit/generate.py"
CUTS = frozenset("GL106 GL401 GL402 GL403 GL404 GL406 GL407 GL408 GL410 GL411 GL412".split())
"""Codes of the rules about places where gradient ends, or is left out."""
HEADINGS = ("What it does", "Why it is bad", "Example", "Use instead", "Known limits", "References")


@functools.cache
def hints() -> frozenset[str]:
    """Return the names of the rules that never report more than info."""
    return frozenset(r.name for r in registry.load(packs=False).rules if r.severity is Severity.INFO)


@functools.cache
def parameters(builder: Builder) -> tuple[str, ...]:
    """Return the names of all parameters of the training setup that a builder returns."""
    return tuple(proof.parts(builder.load()()).parameters)


def rule_name(builder: Builder) -> str:
    """Return the name of the rule that a builder's file belongs to."""
    return builder.path.stem.replace("_", "-")


# -- of a builder -----------------------------------------------------------------------------------------------------


def announcement(builder: Builder) -> Iterator[str]:
    """Require a bad builder to announce its rule and a good one to announce no error or warning."""
    rule = rule_name(builder)
    if builder.name.startswith("good_"):
        yield from (f"a good builder announces {note}" for note in builder.annotations if note.severity != "info")
    elif not any(a.rule == rule and (a.severity != "info" or rule in hints()) for a in builder.annotations):
        yield f"a bad builder announces no finding of {rule}"


def proof_in_plain_torch(builder: Builder) -> Iterator[str]:
    """Require a run in plain torch to confirm the annotations."""
    yield from proof.untruths(builder)


@functools.cache
def without_parameters() -> frozenset[str]:
    """Return the names of the rules whose findings name no parameter of the model."""
    return frozenset(r.name for r in registry.load(packs=False).rules if not r.names_parameters)


def findings(builder: Builder) -> Iterator[str]:
    """Require the report to hold the announced findings and no others."""
    report, rule = table.report(builder.target), rule_name(builder)
    yield from table.differences(builder, report, parameters(builder))
    if builder.name.startswith("good_") and not builder.annotations and rule in hints():
        yield from (f"unexpected: {f.message}" for f in report.findings if f.name == rule)


def parameters_exist(builder: Builder) -> Iterator[str]:
    """Require each announced finding to name a parameter of the model."""
    announced, known = {a.rule for a in builder.annotations} - without_parameters(), set(parameters(builder))
    for finding in table.report(builder.target).findings if builder.name.startswith("bad_") else ():
        if finding.name in announced and not known & set(finding.parameters):
            yield f"[{finding.name}] names no parameter of the model: {', '.join(finding.parameters)}"


def named_without_gradient(builder: Builder) -> Iterator[str]:
    """Require the findings to name every parameter that the summary counts as without gradient."""
    report = table.report(builder.target)
    told = [f for f in report.findings if f.name not in without_parameters() and f.code in CUTS]
    if any(f.name in without_parameters() and f.code in CUTS for f in report.findings):
        return  # a finding about all of the model
    names = {name for finding in told for name in finding.parameters}
    for summary in report.targets:
        if summary.starved > len(names):
            yield f"{summary.starved} parameters are without gradient, and findings name {sorted(names)}"


def messages_as_reviewed(builder: Builder) -> Iterator[str]:
    """Require the messages to be those of the snapshot."""
    now = messages.text(builder, table.report(builder.target)) if builder.annotations else ""
    yield from _difference(builder, messages.reviewed(messages.SNAPSHOT).get(builder.id, ""), now)


def made_before_findings(builder: Builder) -> Iterator[str]:
    """Require a training setup made before the recording to give no findings that the recorded build does not give."""
    report = messages.made_before(builder)
    yield from (f"ended in an error: {failure.message}\n{failure.traceback}" for failure in report.errors)
    # where the build shows why an optimizer does not hold a parameter, why it is zero or whose memory it has, another
    # rule reports it
    allowed = {"GL112", "GL302", "GL605"} if builder.bad else set()
    doubtful = [f for f in report.findings if f.severity > Severity.INFO and f.code not in allowed]
    recorded = {f.code for f in table.report(builder.target).findings} if doubtful else set()
    for finding in doubtful:
        if finding.code not in recorded:
            yield f"unexpected: {finding.severity} {finding.code} [{finding.name}] {', '.join(finding.parameters)}"


def made_before_messages(builder: Builder) -> Iterator[str]:
    """Require the messages about a training setup made before the recording to be those of the snapshot."""
    report = messages.made_before(builder)
    now = messages.text(builder, report) if messages.told(builder, report.findings) else ""
    yield from _difference(builder, messages.reviewed(messages.MADE_BEFORE).get(builder.id, ""), now)


def _difference(builder: Builder, reviewed: str, now: str) -> Iterator[str]:
    reviewed, now = messages.sayable(reviewed), messages.sayable(now)
    if now != reviewed:
        lines = difflib.unified_diff(reviewed.splitlines(), now.splitlines(), "reviewed", "now", n=1, lineterm="")
        yield "\n".join([f"if this is meant: {REGENERATE} {rule_name(builder)}, and read the diff", *lines])


RECORDED = (announcement, findings, parameters_exist, named_without_gradient, messages_as_reviewed)
"""The claims about a builder that is recorded while it builds."""
OTHERWISE = (proof_in_plain_torch, made_before_findings, made_before_messages)
"""The claims about a builder that runs without a recording, or is called before it."""


def is_sampled(builder: Builder) -> bool:
    """Return True for one builder in four, chosen by its name."""
    return zlib.crc32(builder.id.encode()) % 4 == 0


def broken(builder: Builder) -> list[str]:
    """Return a sentence for each broken claim about a builder; it ends with the findings."""
    return [*broken_when_recorded(builder), *broken_otherwise(builder)]


def broken_when_recorded(builder: Builder) -> list[str]:
    """Return a sentence for each broken claim about a builder that is recorded while it builds."""
    wrong = [text for claim in RECORDED for text in broken_claim(claim, builder)]
    if wrong:
        with contextlib.suppress(Exception):
            wrong.append(table.names_of(builder.id, table.report(builder.target)))
    return wrong


def broken_otherwise(builder: Builder) -> list[str]:
    """Return a sentence for each broken claim about a builder in plain torch, or called before the recording."""
    late = messages.means_the_same_made_before(builder)
    asked = OTHERWISE if late else OTHERWISE[:1]
    wrong = [text for claim in asked for text in broken_claim(claim, builder)]
    if wrong and late:
        with contextlib.suppress(Exception):
            title = f"{builder.id}, built before the recording,"
            wrong.append(table.names_of(title, messages.made_before(builder)))
    return wrong


def broken_claim(claim: Callable[[Builder], Iterator[str]], builder: Builder) -> Iterator[str]:
    """Yield the sentences that break one claim, or the traceback of what it raised; grad mode is put back."""
    with torch.set_grad_enabled(True):
        try:
            yield from (f"{claim.__name__}: {text}" for text in claim(builder))
        except Exception:
            yield f"{claim.__name__}: {traceback.format_exc()}"


# -- of a rule's documentation ----------------------------------------------------------------------------------------


def sections(rule: type[Rule]) -> dict[str, str]:
    """Return the text under each heading of a rule's docstring."""
    text = textwrap.dedent(f"    {rule.__doc__}")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def example(rule: type[Rule], heading: str) -> str:
    """Return the one program that stands under a heading."""
    blocks = re.findall(r"```python\n(.*?)```", sections(rule)[heading], flags=re.DOTALL)
    assert len(blocks) == 1, f"{rule.code} needs one example under {heading!r}"
    return str(blocks[0])


def documentation(rule: type[Rule], folder: Path) -> Iterator[str]:
    """Yield what is wrong with a rule's docstring: its headings, or the findings on its two programs."""
    parts = sections(rule)
    if tuple(parts) != HEADINGS or not all(text.strip() for text in parts.values()):
        yield f"the headings are {', '.join(parts)} instead of {', '.join(HEADINGS)}, each with a text"
        return
    for heading, expected in (("Example", [rule.code]), ("Use instead", [])):
        path = folder / f"{rule.name}-{heading.replace(' ', '-').lower()}.py"
        path.write_text(example(rule, heading), encoding="utf-8")
        report = table.report(f"{path}:build")
        codes = [f.code for f in report.findings if f.severity > Severity.INFO or f.code == rule.code]
        if report.errors or codes != expected:
            yield table.names_of(f"the program under {heading}", report)
