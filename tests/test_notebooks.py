"""Notebooks in the source pass: what is judged, where it is reported, and what a fix writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cases import each
from snippets import FROZEN_WRONG, HEAD, Run, folder, run, write

from gradlint.source.magics import plain_lines
from gradlint.source.notebook import NotebookText

__all__ = ["folder", "run"]

NET = FROZEN_WRONG.removeprefix(HEAD)
"""One GL102, in line 5, with a safe fix."""
FIXED = NET.replace("requires_grad = False", "requires_grad_(False)")


def cell(source: str | list[str], kind: str = "code") -> dict[str, Any]:
    """A cell as JupyterLab writes it."""
    code = {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["é\n"]}]}
    return {
        "cell_type": kind,
        **(code if kind == "code" else {}),
        "metadata": {"tags": ["a"]},
        "source": source,
    }


def document(*cells: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4, **more}


def three(net: str | list[str] = NET, last: str = "") -> dict[str, Any]:
    """A notebook whose mistake is in cell 3."""
    return document(cell("# Title\n\n```python\ntorch\n```", "markdown"), cell(HEAD), cell(net), cell(last))


def lab(of: dict[str, Any]) -> bytes:
    """The bytes that Jupyter writes: an indent of one, lines in lists, a final line end."""
    for one in of["cells"]:
        if isinstance(one["source"], str):
            one["source"] = one["source"].splitlines(keepends=True)
    return (json.dumps(of, indent=1, ensure_ascii=False) + "\n").encode()


def found(run: Run, *arguments: str) -> list[str]:
    return [line.split(" ")[0] + " " + line.split(" ")[1] + " " + line.split(" ")[2]
            for line in run("check", *arguments, "--output-format", "concise").out.splitlines()]  # fmt: skip


@each("argument", ["nb.ipynb", "."])
def test_a_finding_names_cell_line_and_column(run: Run, folder: Path, argument: str) -> None:
    write(folder / "nb.ipynb", lab(three()))
    assert found(run, argument) == ["nb.ipynb:cell 3:5:9: GL102"]


def test_the_excerpt_ends_with_the_cell(run: Run, folder: Path) -> None:
    write(folder / "nb.ipynb", lab(three("%matplotlib inline\n" + NET.split("        self.head")[0])))
    out = run("check", "nb.ipynb").out
    assert "nb.ipynb:cell 3:6:9\n" in out
    assert "  4 |         super().__init__()\n  5 |         self.body = nn.Linear(3, 3)\n  6 |" in out
    assert "\n  7 |" not in out


def test_json_has_the_cell_and_its_lines(run: Run, folder: Path) -> None:
    write(folder / "nb.ipynb", lab(three()))
    [made] = json.loads(run("check", "nb.ipynb", "--output-format", "json").out)["findings"]
    assert (made["path"], made["cell"], made["line"], made["end_line"]) == ("nb.ipynb", 3, 5, 5)
    assert made["fix"]["edits"] == [
        {"path": "nb.ipynb", "cell": 3, "start": [5, 9], "end": [5, 40], "text": "self.body.requires_grad_(False)"}
    ]


def test_json_of_other_files_has_cell_0(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    [made] = json.loads(run("check", "m.py", "--output-format", "json").out)["findings"]
    assert (made["cell"], made["line"]) == (0, 9)


def line_of(data: bytes, text: str) -> int:
    return next(number for number, line in enumerate(data.decode().split("\n"), 1) if text in line)


def test_sarif_points_into_the_file(run: Run, folder: Path) -> None:
    data = lab(three())
    write(folder / "nb.ipynb", data)
    [result] = json.loads(run("check", "nb.ipynb", "--output-format", "sarif").out)["runs"][0]["results"]
    [place] = result["locations"]
    line = line_of(data, "requires_grad = False")
    start = data.decode().split("\n")[line - 1].index("self.body") + 1
    assert place["physicalLocation"]["region"] == {
        "startLine": line, "startColumn": start, "endLine": line, "endColumn": start + 31,
    }  # fmt: skip
    assert place["logicalLocations"] == [{"name": "cell 3:5:9", "kind": "member"}]


def test_github_points_into_the_file(run: Run, folder: Path) -> None:
    data = lab(three())
    write(folder / "nb.ipynb", data)
    line = run("check", "nb.ipynb", "--output-format", "github").out
    assert f"file=nb.ipynb,line={line_of(data, 'requires_grad = False')}," in line
    assert "::nb.ipynb:cell 3:5:9: GL102 " in line


def test_a_place_behind_escapes_in_the_file() -> None:
    text = '{"nbformat":4,"cells":[{"cell_type":"code","source":["a\\n","\\ud83d\\ude00 \\"\\u00e9\\" x"]}]}'
    book = NotebookText("nb.ipynb", text.encode())
    assert book.place_in_file(2, book.text.split("\n")[1].index("x") + 1) == (1, text.index("x") + 1)


STYLES = {
    "JupyterLab": lab(three()),
    "VS Code, no final line end": lab(three()).rstrip(b"\n"),
    "Colab: indent 2, escapes": json.dumps(json.loads(lab(three())), indent=2).replace("<", "\\u003c").encode(),
    "source as one text": json.dumps(three(), indent=1, ensure_ascii=False).encode(),
    "minified": json.dumps(json.loads(lab(three())), separators=(",", ":"), ensure_ascii=False).encode(),
    "tabs, CRLF": json.dumps(json.loads(lab(three())), indent="\t").replace("\n", "\r\n").encode(),
    "byte-order mark": b"\xef\xbb\xbf" + lab(three()),
    "CRLF in cells": json.dumps(three(NET.replace("\n", "\r\n")), indent=1).encode(),
}


@each("style", STYLES)
def test_a_fix_changes_one_line_of_the_file(run: Run, folder: Path, style: str) -> None:
    path = write(folder / "nb.ipynb", STYLES[style])
    assert run("check", "nb.ipynb", "--fix").code == 0
    assert path.read_bytes() == STYLES[style].replace(b"requires_grad = False", b"requires_grad_(False)")


def test_a_diff_names_the_cell_and_writes_nothing(run: Run, folder: Path) -> None:
    path = write(folder / "nb.ipynb", lab(three()))
    out = run("check", "nb.ipynb", "--diff").out
    assert out.startswith("--- a/nb.ipynb:cell 3\n+++ b/nb.ipynb:cell 3\n@@ -2,7 +2,7 @@\n")
    assert path.read_bytes() == lab(three())


def test_a_fix_leaves_magics_as_they_are(run: Run, folder: Path) -> None:
    magics = "%load_ext autoreload\n!pip install torch\nfiles = !ls\n"
    path = write(folder / "nb.ipynb", lab(three(magics + NET, "%time net = Net()\n%%bash")))
    run("check", "nb.ipynb", "--fix")
    assert path.read_bytes() == lab(three(magics + FIXED, "%time net = Net()\n%%bash"))


def test_a_comment_suppresses(run: Run, folder: Path) -> None:
    commented = NET.replace("= False", "= False  # gradlint: ignore[GL102]")
    write(folder / "nb.ipynb", lab(three(commented)))
    assert found(run, "nb.ipynb") == []


def test_an_idle_comment_is_removed(run: Run, folder: Path) -> None:
    path = write(folder / "nb.ipynb", lab(three(FIXED, "x = 1  # gradlint: ignore[GL102]\n")))
    assert found(run, "nb.ipynb") == ["nb.ipynb:cell 4:1:8: GL001"]
    run("check", "nb.ipynb", "--fix")
    assert path.read_bytes() == lab(three(FIXED, "x = 1\n"))


def test_add_ignores(run: Run, folder: Path) -> None:
    path = write(folder / "nb.ipynb", lab(three()))
    assert run("check", "nb.ipynb", "--add-ignores").code == 0
    assert path.read_bytes() == lab(three(NET.replace("= False", "= False  # gradlint: ignore[GL102]")))


def test_a_baseline_lists_it_wherever_its_cell_goes(run: Run, folder: Path) -> None:
    write(folder / "nb.ipynb", lab(three()))
    run("check", "nb.ipynb", "--write-baseline", "base.json")
    moved = three()
    moved["cells"].insert(0, cell("import os"))
    write(folder / "nb.ipynb", lab(moved))
    assert run("check", "nb.ipynb", "--baseline", "base.json").code == 0


def test_the_cache_knows_it(run: Run, folder: Path) -> None:
    write(folder / "nb.ipynb", lab(three()))
    first = run("check", "nb.ipynb", "--output-format", "json").out
    again = json.loads(run("check", "nb.ipynb", "--output-format", "json").out)
    assert (again["findings"], again["sources"]["cached"]) == (json.loads(first)["findings"], 1)


def test_stdin(run: Run, folder: Path) -> None:
    result = run("check", "-", "--stdin-filename", "nb.ipynb", "--output-format", "concise", stdin=lab(three()))
    assert result.out.startswith("nb.ipynb:cell 3:5:9: GL102")


OLD = {"nbformat": 3, "worksheets": [{"cells": []}]}
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "1:1: GL002 This notebook cannot be read: it is empty."),
    "no JSON": (
        b'{"cells": [\n  torch',
        "2:3: GL002 This notebook cannot be read: it is not valid JSON: E",
    ),
    "not UTF-8": (b'{"a": "\n\xff"}', "2:1: GL002 This notebook cannot be read: it is not UTF-8: invalid start byte."),
    "no object": (b"[1]", "it is JSON, and no notebook"),
    "format 3": (json.dumps(OLD).encode(), "its format is 3, and 4 is the oldest"),
    "no cells": (b'{"nbformat": 4, "metadata": {}}', "it has no list of cells"),
    "cells no list": (b'{"nbformat": 4, "cells": {}}', "it has no list of cells"),
    "cell no object": (b'{"nbformat": 4, "cells": [1]}', "cell 1 has no type"),
    "source a number": (json.dumps(document(cell("x"), cell(3))).encode(), "the source of cell 2 is neither"),  # type: ignore[arg-type]
    "source of numbers": (json.dumps(document(cell([3]))).encode(), "the source of cell 1 is neither"),  # type: ignore[list-item]
    "nested": (b"[" * 100_000, "its JSON is nested too deeply"),
    "R": (json.dumps(document(metadata={"kernelspec": {"language": "R"}})).encode(), "its code is r, not Python"),
}


@each("what", BROKEN)
def test_a_broken_notebook_is_a_finding(run: Run, folder: Path, what: str) -> None:
    data, said = BROKEN[what]
    write(folder / "nb.ipynb", data)
    result = run("check", "nb.ipynb", "--output-format", "concise")
    assert (result.code, said in result.out, "Traceback" in result.err) == (1, True, False)


def test_a_folder_may_hold_notebooks_in_other_languages(run: Run, folder: Path) -> None:
    r = document(cell("library(torch)"), metadata={"language_info": {"name": "R"}})
    write(folder / "nb.ipynb", lab(r))
    assert run("check", ".").code == 0


def test_a_syntax_error_is_named_in_its_cell(run: Run, folder: Path) -> None:
    write(folder / "nb.ipynb", lab(three("x = (1,\n", "y = torch.ones(1)\n")))
    assert found(run, "nb.ipynb") == ["nb.ipynb:cell 3:1:5: GL002"]


def test_a_notebook_without_code_is_clean(run: Run, folder: Path) -> None:
    write(folder / "nb.ipynb", lab(document(cell("# torch", "markdown"))))
    assert run("check", "nb.ipynb").code == 0


MAGICS = {
    "line magic": ("%matplotlib inline\nx = 1", "#matplotlib inline\nx = 1"),
    "shell": ("!ls -l", "#ls -l"),
    "in a block": ("if x:\n    !ls\n    %pip install a", "if x:\n    0  \n    0             "),
    "timed": ("%time loss.backward()", "pass; loss.backward()"),
    "timed with options": ("%timeit -n 10 -q f(x)", "pass;            f(x)"),
    "timed compound": ("%time for x in y: pass", "#time for x in y: pass"),
    "assigned": ("files = !ls *.py\na, b = %sx ls", "files = []      \na, b = []    "),
    "question": ("model?\n?model\nnn.Linear??\nmodel", "#odel?\n#model\n#n.Linear??\nmodel"),
    "backslash": ("!ls \\\n  -l\nx", "#ls \\\n    \nx"),
    "cell of Python": ("%%time\nx = 1", "#%time\nx = 1"),
    "cells of Python": ("\n%%time\n%%capture out\nx = 1", "\n#%time\n#%capture out\nx = 1"),
    "cell of another language": ("%%bash\nls # gradlint: x\n\nif", "#%bash\n                \n\n  "),
    "modulo in brackets": ("x = (a\n% b\n)\ny", "x = (a\n% b\n)\ny"),
    "modulo after backslash": ("x = a \\\n% b", "x = a \\\n% b"),
    "text": ("x = '''\n%time\n!ls\n'''", "x = '''\n%time\n!ls\n'''"),
    "quotes in comments": ("x = 1  # it's\n%time", "x = 1  # it's\n#time"),
    "brackets in text": ("x = '('\n!ls", "x = '('\n#ls"),
    "question in text": ("x = 'why?'\nprint('why?')", "x = 'why?'\nprint('why?')"),
    "percent": ("x = 5 % 3\nx %= 2", "x = 5 % 3\nx %= 2"),
    "comparison": ("x != y\nx = y != z", "x != y\nx = y != z"),
}


@each("what", MAGICS)
def test_magics_become_python_of_the_same_length(what: str) -> None:
    before, after = MAGICS[what]
    made = list(plain_lines(before.split("\n")))
    assert made == after.split("\n")
    assert [len(line) for line in made] == [len(line) for line in before.split("\n")]


def test_an_edit_into_a_magic_is_refused() -> None:
    book = NotebookText("nb.ipynb", lab(document(cell("%matplotlib inline\nx = 1"))))
    with pytest.raises(UnicodeError, match="magic"):
        book.encoded(book.text.replace("#matplotlib", "y = 2 "))


def test_an_edit_behind_what_a_magic_runs_is_written() -> None:
    book = NotebookText("nb.ipynb", lab(document(cell("%time f(x)"))))
    assert book.encoded(f"{book.text}  # why") == lab(document(cell("%time f(x)  # why")))
