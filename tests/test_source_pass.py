"""The source pass: what a syntax tree proves, what it leaves alone, and which files it reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import claims
import pytest
import table
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, source, write

from gradlint.engine.source_file import judge_bytes
from gradlint.findings import Finding
from gradlint.rulekit import registry

__all__ = ["folder", "run"]

RULES = tuple(rule for rule in registry.load(packs=False).rules if rule.judges_source())


def judge(text: str, path: str = "m.py") -> list[Finding]:
    return judge_bytes(path, text.encode(), RULES)


def found(text: str) -> list[tuple[str, int]]:
    """(code, line) of what the rules find."""
    return [(f.code, f.location.line if f.location else 0) for f in judge(text)]


# Fixtures: what the recording finds in them is announced in them


def _announced() -> dict[Path, set[tuple[str, int]]]:
    codes = {rule.name: rule.code for rule in registry.load(packs=False).rules}
    same = {other: rule.code for rule in registry.load(packs=False).rules for other in rule.same_mistake_as}
    files = [*table.fixture_files(), *sorted(table.FIXTURES.glob("*/*.py"))]
    return {
        path: {
            (code, note.line)
            for note in table.annotations(path.read_text(encoding="utf-8"))
            for code in (codes.get(note.rule, ""), same.get(codes.get(note.rule, ""), ""))
        }
        for path in files
    }


ANNOUNCED = _announced()
UNREACHED = re.compile(r"# source: \[([a-z-]+)\]")
"""Marks a mistake in a function that no builder runs, which only the source tells."""


@each("path", ANNOUNCED, ids=lambda path: path.stem)
def test_source_rules_say_nothing_that_fixtures_do_not_announce(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    said = [(f.code, f.location.line) for f in judge_bytes(str(path), path.read_bytes(), RULES) if f.location]
    assert [(c, n) for c, n in said if (c, n) not in ANNOUNCED[path] and not UNREACHED.search(lines[n - 1])] == []


@each("rule", RULES, ids=lambda rule: rule.name)
def test_source_rule_finds_its_own_example(rule: type) -> None:
    by_others = {"GL403", "GL110", "GL601", "GL602", "GL603", "GL607", "GL610"}  # their examples need the recording
    assert rule.code in by_others or rule.code in {code for code, _ in found(claims.example(rule, "Example"))}


@each("rule", RULES, ids=lambda rule: rule.name)
def test_source_rule_is_silent_on_its_replacement(rule: type) -> None:
    assert found(claims.example(rule, "Use instead")) == []


# What is proven, and what is left alone


def cases(part: str) -> dict[str, str]:
    """Title → source of the blocks under one heading of source_cases.md."""
    text = (Path(__file__).parent / "source_cases.md").read_text(encoding="utf-8")
    [section] = re.findall(rf"^# {part}\n(.*?)(?=^# |\Z)", re.sub(r"(?ms)```.*?```", _hidden, text), re.M | re.S)
    return {title: _shown(body) for title, body in re.findall(r"^## (.+)\n\n(\S+)", section, re.M)}


def _hidden(block: re.Match[str]) -> str:
    """A block as one word: the headings of the file are not to be mistaken for comments of the blocks."""
    return block[0].encode().hex()


def _shown(word: str) -> str:
    return bytes.fromhex(word).decode().removeprefix("```python\n").removesuffix("```")


BAD, GOOD = cases("Proven"), cases("Left alone")


@each("what", BAD)
def test_proven(what: str) -> None:
    lines = BAD[what].splitlines()
    marked = [(mark[1], n) for n, line in enumerate(lines, 1) if (mark := re.search(r"# found: (GL\d+)$", line))]
    assert marked and found(BAD[what]) == marked


@each("what", GOOD)
def test_left_alone(what: str) -> None:
    compile(GOOD[what], what, "exec")
    assert found(GOOD[what]) == []


WEIGHED = {(what, text) for what in ("info", "warning", "error") for text in cases(f"Weighs an? {what}").values()}


@each(("what", "text"), sorted(WEIGHED))
def test_weighs(what: str, text: str) -> None:
    assert [str(f.severity) for f in judge(text)] == [what]


@each(
    "imports",
    [
        "import torch.nn.functional as fun\n",
        "from torch.nn import functional as fun\n",
        "from torch import nn\nfun = nn.functional\n",
        "try:\n    import torch.nn.functional as fun\nexcept ImportError:\n    fun = None\n",
        "import torch\nfun = torch.nn.functional\n",
    ],
)
def test_names_are_followed(imports: str) -> None:
    assert [
        c for c, _ in found(f"{imports}\ndef loss(x, y):\n    return fun.cross_entropy(fun.softmax(x, 1), y)\n")
    ] == ["GL601"]


@each("shadow", ["def loss(x, y, F):\n", "F = object()\ndef loss(x, y):\n", "def loss(x, y):\n    F = x.functions\n"])
def test_names_that_are_bound_anew_are_not(shadow: str) -> None:
    assert found(source(f"{shadow}    return F.cross_entropy(F.softmax(x, 1), y)\n")) == []


# Files


def test_file_says_that_only_source_rules_ran(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG + "\ndef build():\n    return Net()\n")
    shown = run("check", "m.py").out
    assert "only the source rules ran" in shown and "gradlint check m.py:build" in " ".join(shown.split())


def test_file_without_a_builder_is_offered_one(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    assert "gradlint init m.py" in " ".join(run("check", "m.py").out.split())


def paths(result: str) -> list[str]:
    return sorted({row["path"] for row in json.loads(result)["findings"]})


@pytest.fixture
def project(folder: Path) -> Path:
    for name in (
        "a.py",
        "src/b.py",
        "src/c.pyi",
        "venv/d.py",
        ".hidden/e.py",
        "gen/f.py",
        "gen/keep.py",
        "src/deep/g.py",
        "build/h.py",
        "notes.txt",
    ):
        write(folder / name, FROZEN_WRONG)
    (folder / ".git").mkdir()
    write(folder / ".gitignore", "gen/*\n!gen/keep.py\n")
    write(folder / "src" / ".gitignore", "/deep\n")
    return folder


ALL = ["a.py", "gen/keep.py", "src/b.py", "src/c.pyi"]


@each(
    ("arguments", "expected"),
    [
        (["."], ALL),
        (["src", "a.py"], ["a.py", "src/b.py", "src/c.pyi"]),
        (["venv"], ["venv/d.py"]),
        (["gen"], ["gen/keep.py"]),
        (["src/deep"], ["src/deep/g.py"]),
        (["gen/f.py"], ["gen/f.py"]),
        (["build/h.py", "--force-exclude"], []),
        ([".", "--extend-exclude", "b.py"], ["a.py", "gen/keep.py", "src/c.pyi"]),
        ([".", "--extend-exclude", "src/b.*"], ["a.py", "gen/keep.py", "src/c.pyi"]),
        (["src", "./src/b.py", "src/../src"], ["src/b.py", "src/c.pyi"]),
        (["notes.txt"], ["notes.txt"]),
    ],
)  # fmt: skip
def test_files_that_are_read(run: Run, project: Path, arguments: list[str], expected: list[str]) -> None:
    assert paths(run("check", *arguments, "--output-format", "json").out) == expected


@each(
    ("settings", "expected"),
    [
        ("respect-gitignore = false", [*ALL[:1], "gen/f.py", *ALL[1:], "src/deep/g.py"]),
        ("exclude = []", [".hidden/e.py", "a.py", "build/h.py", "gen/keep.py", "src/b.py", "src/c.pyi", "venv/d.py"]),
        ("extend-exclude = ['src']", ["a.py", "gen/keep.py"]),
    ],
)
def test_files_that_the_configuration_names(run: Run, project: Path, settings: str, expected: list[str]) -> None:
    write(project / "gradlint.toml", settings)
    assert paths(run("check", ".", "--output-format", "json").out) == expected


def test_nearest_configuration_counts_for_each_file(run: Run, folder: Path) -> None:
    for name in ("a.py", "sub/b.py"):
        write(folder / name, FROZEN_WRONG)
    write(folder / "gradlint.toml", "ignore = ['GL102']\n")
    write(folder / "sub" / "gradlint.toml", "severity = { GL102 = 'info' }\nshow-info = true\n")
    assert run("check", ".", "--output-format", "json", "--show-info").out.count('"severity": "info"') == 1


@each(
    ("settings", "codes"),
    [
        ("", ["GL102"]),
        ("select = ['GL4']", []),
        ("ignore = ['requires-grad-on-module']", []),
        ("per-file-ignores = { 'm.py' = ['GL1'] }", []),
        ("per-file-ignores = { 'other/**' = ['GL1'] }", ["GL102"]),
        ("severity = { GL1 = 'info' }", []),
    ],
)
def test_configuration_decides(run: Run, folder: Path, settings: str, codes: list[str]) -> None:
    write(folder / "pyproject.toml", f"[tool.gradlint]\n{settings}\n")
    write(folder / "m.py", FROZEN_WRONG)
    assert [r["code"] for r in json.loads(run("check", "m.py", "--output-format", "json").out)["findings"]] == codes


@each(
    ("settings", "said"),
    [
        ("select = ['GL9']", "gradlint.toml: select: no rule has the code, the prefix or the name 'GL9'"),
        ("per-file-ignores = { 'a' = ['GL499'] }", "gradlint.toml: no rule has the code"),
        ("slect = []", "unknown key slect; did you mean select?"),
    ],
)
def test_wrong_configuration_is_an_error(run: Run, folder: Path, settings: str, said: str) -> None:
    write(folder / "gradlint.toml", settings)
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", "m.py")
    assert (result.code, said in result.err) == (2, True), result.err


def test_option_takes_the_place_of_configured_selection(run: Run, folder: Path) -> None:
    write(folder / "gradlint.toml", "select = ['GL4']\nignore = ['GL102']\n")
    write(folder / "m.py", FROZEN_WRONG)
    assert run("check", "m.py", "--select", "GL102").code == 1


def test_missing_file_does_not_stop_the_others(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    document = json.loads((result := run("check", "gone.py", "m.py", "--output-format", "json")).out)
    assert (result.code, len(document["findings"]), document["errors"][0]["target"]) == (2, 1, "gone.py")


def test_without_a_target_the_files_below_are_checked(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    document = json.loads((result := run("check", "--output-format", "json")).out)
    assert (result.code, [f["path"] for f in document["findings"]]) == (1, ["m.py"])


def test_an_empty_folder_says_so_and_is_clean(run: Run, folder: Path) -> None:
    (folder / "empty").mkdir()
    result = run("check", "empty")
    assert result.code == 0 and "no Python files or notebooks were found" in result.out


# stdin


def test_stdin_is_read(run: Run) -> None:
    result = run("check", "-", "--stdin-filename", "src/net.py", "--output-format", "concise", stdin=FROZEN_WRONG)
    assert (result.code, result.out.split(": ")[0]) == (1, "src/net.py:9:9")


def test_stdin_without_a_name(run: Run) -> None:
    assert run("check", "-", "--output-format", "concise", stdin=FROZEN_WRONG).out.startswith("<stdin>:9:9: GL102")


def test_stdin_shows_its_source(run: Run) -> None:
    assert "9 |         self.body.requires_grad = False" in run("check", "-", stdin=FROZEN_WRONG).out


def test_excluded_stdin_is_left_alone(run: Run, folder: Path) -> None:
    write(folder / "gradlint.toml", "exclude = ['gen']\nforce-exclude = true\n")
    assert run("check", "-", "--stdin-filename", "gen/net.py", stdin=FROZEN_WRONG).code == 0


def test_stdin_is_fixed_to_stdout(run: Run) -> None:
    result = run("check", "-", "--fix", stdin=FROZEN_WRONG)
    assert (result.code, result.out) == (0, FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)"))


# Cache and processes


def sources(result: str) -> dict[str, int]:
    read: dict[str, int] = json.loads(result)["sources"]
    return read


def test_second_run_remembers(run: Run, folder: Path) -> None:
    for number in range(3):
        write(folder / f"m{number}.py", FROZEN_WRONG + f"x = {number}\n")
    first, second = (run("check", ".", "--output-format", "json").out for _ in range(2))
    assert (sources(first)["cached"], sources(second)["cached"]) == (0, 3)
    assert json.loads(first)["findings"] == json.loads(second)["findings"]


@pytest.mark.parametrize("change", ["content", "selection", "suffix"])
def test_what_changes_is_judged_again(run: Run, folder: Path, change: str) -> None:
    path = write(folder / "m.py", FROZEN_WRONG)
    run("check", ".")
    if change == "content":
        write(path, FROZEN_WRONG + "\n")
    elif change == "suffix":
        path.rename(folder / "m.pyi")
    more = ["--ignore", "GL103"] if change == "selection" else []
    assert sources(run("check", ".", "--output-format", "json", *more).out)["cached"] == 0


@each("damage", [b"", b"{", b"[1]", b'{"x": 3}', b"\xff\xfe"])
def test_damaged_cache_is_as_good_as_none(run: Run, folder: Path, damage: bytes) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", ".")
    [file] = (folder.parent / "cache").glob("*.json")
    file.write_bytes(damage)
    assert run("check", ".").code == 1


def test_clean_removes_the_cache(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", ".")
    assert (run("clean").code, (folder.parent / "cache").exists()) == (0, False)


def test_clean_leaves_other_folders_alone(run: Run, folder: Path) -> None:
    write(folder / "mine" / "thesis.txt", "x")
    assert (run("clean", "--cache-dir", "mine").code, (folder / "mine" / "thesis.txt").exists()) == (2, True)


@pytest.mark.parametrize("option", [["--no-cache"], ["--cache-dir", "elsewhere"]])
def test_cache_goes_where_it_is_told(run: Run, folder: Path, option: list[str]) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", ".", *option)
    assert not (folder.parent / "cache").exists()
    assert (folder / "elsewhere").exists() is (len(option) == 2)


def test_several_processes_find_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlint.config.discover import discover
    from gradlint.config.settings import Configuration
    from gradlint.engine import source_pass as passes

    for number in range(6):
        write(folder / f"m{number}.py", FROZEN_WRONG + f"x = {number}\n")
    files = list(discover(["."], Configuration(isolated=True)))
    alone = passes.check_files(files, lambda file: passes.RuleSet(RULES, packs=False), jobs=1)
    monkeypatch.setattr(passes, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(passes, "CHUNK", 1)
    together = passes.check_files(files, lambda file: passes.RuleSet(RULES, packs=False), jobs=3)
    assert (len(together.results), together.results) == (6, alone.results)
