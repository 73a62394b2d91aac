"""Check the prose of files: ``python tests/kit/prose.py [PATH ...]`` prints each fault with its line.

Its claims:

- the first line of a function's docstring is a sentence of at most `WIDEST` characters that begins with an imperative;
  the docstring of a property is a noun phrase;
- none of the words in `BANNED` is in docstrings, comments and strings, which are the messages;
- no sentence has more than `LONGEST` words in a rule's documentation and templates (`MESSAGE*`, `FIX*`, `RELATED*`).
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 25
WIDEST = 90
BANNED = re.compile(
    r"\b(set-ups?|told|tells?|telling|speaks?(?= of)|(?:said|says?)(?= of)|theirs|thaw(?:s|ed|ing)?"
    r"|stands? in(?= for)|stands?-ins?|held by nobody|nobody's)\b",
    re.IGNORECASE,
)
"""Words that a PyTorch engineer has to read twice."""
BANNED_FOR_USERS = re.compile(r"\bstarv(?:ed?|es|ing)\b", re.IGNORECASE)
"""A word for readers of the source alone: users read "no gradient"."""
NO_VERB = frozenset(
    "A All An Another Any Around As At Before Both By Each Either Every For From How If In Into It Its Itself Neither"
    " No None Nothing Of On One Only Other Our Several Some Such That The Their Them There These They This Those To"
    " True Two What When Where Whether Which While Who Whose Why With Without Yes".split()
)
NOUNS = frozenset(
    "Bytes Code Combination Forward Gradient Grad Image Index Keyword Layer Module Network Offset Op Parameter Scalar"
    " Square Task Tensor Text Training Value Width Floating-point Normal Ordinary Positional Trainable".split()
)
"""First words that look like an imperative and are none."""
PROPERTIES = frozenset({"property", "cached_property", "functools.cached_property", "overload"})
TEMPLATES = ("MESSAGE", "FIX", "RELATED")


def faults(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) for the prose of one file."""
    text = path.read_text(encoding="utf-8")
    yield from sorted(set(_of_markdown(text) if path.suffix == ".md" else _of_python(path, text)))


def _of_markdown(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_without_fences(text).splitlines(), 1):
        yield from _words(number, line, for_users=True)


def _of_python(path: Path, text: str) -> Iterator[tuple[int, str]]:
    tree, is_rule = ast.parse(text), "rules" in path.relative_to(ROOT).parts[:1]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _words(token.start[0], token.string)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _first_line(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from _words(node.lineno, _without_fences(node.value))
        if is_rule and isinstance(node, ast.ClassDef):
            yield from _of_rule(node)


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    """Check the first line of the docstring of a function that is no property."""
    doc = ast.get_docstring(node)
    decorators = {ast.unparse(d) for d in node.decorator_list}
    if not doc or decorators & PROPERTIES or any(d.endswith(".setter") for d in decorators):
        return
    word = re.split(r"[\s,:;.]", doc, maxsplit=1)[0]
    line = doc.splitlines()[0]
    if len(line) > WIDEST or not line.endswith((".", "?")):
        yield node.lineno, f"the docstring of {node.name}() begins with no sentence of at most {WIDEST} characters"
    plural = word.endswith("s") and not word.endswith("ss")
    participle = len(word) > 5 and word.endswith(("ed", "ing")) and word not in ("Embed", "Bring", "Exceed", "Proceed")
    if not re.fullmatch("[A-Z][a-z-]+", word) or word in NO_VERB | NOUNS or plural or participle:
        yield node.lineno, f"the docstring of {node.name}() begins with {word!r} instead of an imperative verb"


def _of_rule(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """Check what users read of a rule: its docstring and its message templates."""
    doc = ast.get_docstring(node) or ""
    if doc:
        yield from _long(node.body[0].lineno, _without_fences(doc))
        yield from _words(node.body[0].lineno, _without_fences(doc), for_users=True)
    for part in node.body:
        targets = getattr(part, "targets", None) or [getattr(part, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(part, "value", None)
        if any(name.startswith(TEMPLATES) for name in names) and value is not None:
            for constant in ast.walk(value):
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                    yield from _long(constant.lineno, constant.value)
                    yield from _words(constant.lineno, constant.value, for_users=True)


def _words(line: int, text: str, *, for_users: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the banned words of a text that begins on a line."""
    prose = re.sub(r"``.*?``|`[^`\n]*`", "`", text)
    for pattern in (BANNED, BANNED_FOR_USERS) if for_users else (BANNED,):
        for match in pattern.finditer(prose):
            yield line + prose.count("\n", 0, match.start()), f"{match[0]!r}"


def _long(line: int, text: str) -> Iterator[tuple[int, str]]:
    """Yield the sentences of a text that have more than `LONGEST` words."""
    prose = re.sub(r"``.*?``|`[^`\n]*`|\{[^{}]*\}", "x", text)
    prose = re.sub(r"(?m)^#+ .*$|\n\s*\n|^\s*[-*] |https?://\S+", ". ", prose)
    for sentence in re.split(r"[.!?](?:\s|$)|[:;]\s", prose):
        words = re.findall(r"[\w'’/.-]+", sentence)
        if len(words) > LONGEST:
            yield line, f"{len(words)} words in one sentence: {' '.join(words[:8])} …"


def _without_fences(text: str) -> str:
    """Return a text with its code blocks blanked, so that lines keep their numbers."""
    return re.sub(r"(?s)```.*?```", lambda m: "\n" * m[0].count("\n"), text)


def files() -> list[Path]:
    """Return the files whose prose is held: the package, the rules, the README and the manual."""
    return [
        *sorted((ROOT / "gradlint").rglob("*.py")),
        *sorted((ROOT / "rules").glob("*.py")),
        ROOT / "README.md",
        ROOT / "gradlint/cli/manual.md",
    ]


def main(arguments: list[str]) -> int:
    """Print the faults of the files that are named, or of all."""
    named = [Path(name).resolve() for name in arguments]
    count = 0
    for path in [file for place in named for file in sorted(place.rglob("*.py")) or [place]] or files():
        for line, fault in faults(path):
            print(f"{path.relative_to(ROOT).as_posix()}:{line}: {fault}")
            count += 1
    return int(bool(count))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
