"""The source pass on whatever a file may hold: never a crash, and the other files are still checked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import table
from cases import each
from hypothesis import given, settings
from hypothesis import strategies as st
from snippets import FROZEN_WRONG, Run, folder, run, write

from gradlint.engine.source_file import judge_bytes
from gradlint.rulekit import registry
from gradlint.source.text import SourceText, Unreadable
from gradlint.triage.suppressions import FileSuppressions

__all__ = ["folder", "run"]

RULES = tuple(rule for rule in registry.load(packs=False).rules if rule.judges_source())
SEEDS = [path.read_bytes() for path in table.fixture_files()]
BITS = [
    b"self.", b".requires_grad = False", b"with torch.no_grad():\n", b"\n", b"    ", b"(", b")", b"lambda: ",
    b"# gradlint: ignore[", b"F.softmax(x, dim=1)", b"for p in p.parameters():", b"x = x", b" for x in x", b"*", b":=",
    b"class A(A):\n", b"total += loss\n", b"\\\n", b'"""', b"f'{", b"\xff", b"\x00", b"\r", b"\xef\xbb\xbf",
    b"global x\n", b"del x\n", b"match x:\n", b"async ",
]  # fmt: skip

AWKWARD = {
    "nothing": b"",
    "a null byte": b"import torch\nx = '\x00'\n",
    "only a byte-order mark": b"\xef\xbb\xbf",
    "two byte-order marks": b"\xef\xbb\xbf\xef\xbb\xbfimport torch\n",
    "no UTF-8": b"import torch\nx = '\xff'\n",
    "an unknown encoding": b"# coding: nonsense\nimport torch\n",
    "an encoding of bytes": b"# coding: hex\nimport torch\n",
    "two encodings": b"\xef\xbb\xbf# coding: latin-1\nimport torch\n",
    "UTF-16": "import torch\n".encode("utf-16"),
    "a surrogate": b"# coding: utf-7\nimport torch\nx = '+2AA-'\n",
    "a form feed": b"import torch\n\x0cx = torch.nn.Linear(1, 1)\nx.requires_grad = False\n",
    "no end of line": b"import torch\nx = 1",
    "carriage returns": b"import torch\rx = torch.nn.Linear(1, 1)\rx.requires_grad = False\r",
    "deep brackets": b"import torch\nx = " + b"(" * 5000 + b")" * 5000,
    "deep unary": b"import torch\nx = " + b"-" * 20000 + b"1\n",
    "deep attributes": b"import torch\nx" + b".a" * 20000 + b".requires_grad = False\n",
    "deep calls": b"import torch\nx" + b"()" * 20000 + b"\n",
    "a long sum": b"import torch\nx = " + b"+".join([b"F.softmax(x)"] * 3000) + b"\n",
    "deep blocks": b"import torch\n" + b"".join(b" " * i + b"if x:\n" for i in range(150)) + b" " * 150 + b"pass\n",
    "many elifs": b"import torch\nif x: pass\n" + b"elif x: pass\n" * 3000,
    "a long line": b"import torch\nx = '" + b"a" * 10_000_000 + b"'\n",
    "a long list": b"import torch\nx = [" + b"1, " * 300_000 + b"]\n",
    "a long comment": b"import torch\n# gradlint: ignore[" + b"GL102, " * 100_000 + b"]\n",
    "names in a ring": b"import torch\na = b\nb = c\nc = a\na.requires_grad = False\na.softmax(1)\n",
    "classes in a ring": b"import torch\nclass A(B): pass\nclass B(A):\n    def f(self): self.requires_grad = False\n",
    "a class that is its own base": b"import torch\nclass A(A):\n    def f(self): self.x.requires_grad = False\n",
}


def judged(data: bytes) -> None:
    """Judge bytes, and read their comments, as the command does."""
    for finding in judge_bytes("m.py", data, RULES):
        assert finding.location is not None and finding.location.line >= 1 and finding.location.column >= 1
    try:
        comments = FileSuppressions(SourceText("m.py", data))
    except Unreadable:
        return
    list(comments.unused(lambda code, line, text: "why not"))


@each("what", AWKWARD)
def test_awkward_file_does_not_stop_the_others(run: Run, folder: Path, what: str) -> None:
    write(folder / "a.py", AWKWARD[what])
    write(folder / "z.py", FROZEN_WRONG)
    result = run("check", "a.py", "z.py", "--output-format", "json")
    document = json.loads(result.out)
    assert ("GL102", "z.py") in {(row["code"], row["path"]) for row in document["findings"]}
    assert [e["message"] for e in document["errors"] if "gradlint itself failed" in e["message"]] == []
    assert result.code in (1, 2)


@each("what", ["a null byte", "no UTF-8", "an unknown encoding", "two encodings", "UTF-16", "deep brackets"])
def test_what_cannot_be_parsed_is_a_finding(run: Run, folder: Path, what: str) -> None:
    write(folder / "a.py", AWKWARD[what])
    assert [r["code"] for r in json.loads(run("check", "a.py", "--output-format", "json").out)["findings"]] == ["GL002"]


@each(("text", "place"), [("x = (\n", "1:5"), ("def f(:\n", "1:7"), ("a = 1\nb = = 2\n", "2:5"), ("ü = 'x\n", "1:5")])
def test_syntax_error_is_placed(run: Run, folder: Path, text: str, place: str) -> None:
    write(folder / "a.py", text)
    assert run("check", "a.py", "--output-format", "concise").out.startswith(f"a.py:{place}: GL002 Python ")


def test_syntax_error_is_fatal_to_no_fix(run: Run, folder: Path) -> None:
    write(folder / "a.py", "x = (\n")
    path = write(folder / "m.py", FROZEN_WRONG)
    assert (run("check", ".", "a.py", "--fix").code, "requires_grad_(False)" in path.read_text()) == (1, True)


@pytest.mark.skipif(not hasattr(Path, "chmod"), reason="POSIX modes")
def test_unreadable_file_is_an_error_and_the_others_are_checked(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    (folder / "dangling.py").symlink_to(folder / "gone")
    document = json.loads((result := run("check", "dangling.py", "m.py", "--output-format", "json")).out)
    assert (result.code, len(document["findings"]), len(document["errors"])) == (2, 1, 1)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    judged(b"import torch, requires_grad\n" + data)


@given(st.lists(st.sampled_from(BITS), max_size=30))
def test_any_bits_of_source(bits: list[bytes]) -> None:
    judged(b"import torch\nimport torch.nn.functional as F\n" + b"".join(bits))


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from(SEEDS))
def test_any_mutation_of_a_fixture(chance: random.Random, seed: bytes) -> None:
    lines = seed.split(b"\n")
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(lines))
        action = chance.randrange(4)
        if action == 0:
            lines[place] = chance.choice(BITS) + lines[place]
        elif action == 1:
            del lines[place : place + chance.randint(1, 3)]
            lines = lines or [b""]
        elif action == 2:
            lines.insert(place, lines[chance.randrange(len(lines))])
        else:
            at = chance.randint(0, len(lines[place]))
            lines[place] = lines[place][:at] + chance.choice(BITS) + lines[place][at:]
    judged(b"\n".join(lines))


@each(
    "encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "gb18030", "shift_jis", "euc-kr", "utf-8-sig", "utf-7", "big5"]
)
def test_every_declared_encoding(encoding: str) -> None:
    text = f"# coding: {encoding}\n{FROZEN_WRONG}"
    assert [(f.code, f.location.line) for f in judge_bytes("m.py", text.encode(encoding), RULES) if f.location] == [
        ("GL102", 10)
    ]
