"""The registry: which files are rules, and what is said about those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradlint
from gradlint.errors import GradlintError
from gradlint.findings import Finding, Severity
from gradlint.rulekit import registry
from gradlint.rulekit.context import Context
from gradlint.rulekit.precedence import in_order, run
from gradlint.rulekit.rule import Rule

RULE = '''"""A rule."""

from gradlint.findings import Severity
from gradlint.rulekit.rule import Rule


class {cls}(Rule):
    """What is wrong, in a line.

    ## What it does
    Something.

    ## Why it is bad
    It is.

    ## Example
    ## Use instead
    ## Known limits
    ## References
    """

    code = "{code}"
    name = "{name}"
    severity = Severity.{severity}
    MESSAGE = "wrong"

    def check(self, context):
        return []
'''


def rule_text(name: str = "my-rule", code: str = "XY101", severity: str = "ERROR") -> str:
    return RULE.format(cls="".join(map(str.capitalize, name.split("-"))), code=code, name=name, severity=severity)


def write_rule(folder: Path, name: str, code: str, severity: str = "ERROR") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}.py"
    path.write_text(rule_text(name, code, severity))
    return path


@pytest.fixture
def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "builtin"
    write_rule(folder, "second-rule", "XY202", "WARNING")
    write_rule(folder, "first-rule", "XY101")
    monkeypatch.setattr(registry, "builtin_folder", lambda: folder)
    return folder


def test_rules_are_ordered_by_code(builtin: Path) -> None:
    assert [rule.code for rule in registry.load(packs=False).rules] == ["XY101", "XY202"]


def test_origin_is_the_file(builtin: Path) -> None:
    known = registry.load(packs=False)
    assert known.origins[known.rules[0]] == builtin / "first_rule.py"


def test_loading_twice_gives_the_same_classes(builtin: Path) -> None:
    assert registry.load(packs=False).rules == registry.load(packs=False).rules


def test_rules_dir_adds_rules(builtin: Path, tmp_path: Path) -> None:
    write_rule(tmp_path / "more", "third-rule", "ZZ300")
    assert [rule.code for rule in registry.load([tmp_path / "more"], packs=False).rules] == ["XY101", "XY202", "ZZ300"]


def test_equal_stems_in_two_folders_are_two_modules(builtin: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    write_rule(more, "first-rule", "ZZ300")
    with pytest.raises(GradlintError, match="the name first-rule is taken by"):
        registry.load([more], packs=False)


def test_underscored_files_are_no_rules(builtin: Path) -> None:
    (builtin / "_helper.py").write_text("x = 1\n")
    assert len(registry.load(packs=False).rules) == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        pytest.param('"XY101"', '"XY1"', 22, "three digits", id="code too short"),
        pytest.param('"XY101"', '"xy101"', 22, "capital letters", id="code in lower case"),
        pytest.param('    code = "XY101"\n', "", 7, "its code None", id="no code"),
        pytest.param('"my-rule"', '"my_rule"', 23, "kebab-case", id="name not kebab-case"),
        pytest.param('"my-rule"', '"your-rule"', 23, "must be called your_rule.py", id="file name differs"),
        pytest.param("MESSAGE", "TEXT", 7, "it has no MESSAGE", id="no message"),
        pytest.param("Severity.ERROR", '"error"', 24, "not a gradlint.Severity", id="severity a string"),
        pytest.param("## Known limits", "## Limits", 7, "'Known limits'", id="heading missing"),
        pytest.param("def check", "def inspect", 7, "no check", id="no check"),
        pytest.param('code = "XY101"', 'code = "GL003"', 22, "gradlint's own", id="reserved code"),
        pytest.param("(Rule)", "", 1, "this one 0", id="no rule"),
        pytest.param("def check", "def check(", 27, "SyntaxError", id="syntax error"),
        pytest.param(
            "from gradlint.rulekit.rule", "from gradlint.rulekit.ruel", 4, "ModuleNotFoundError", id="import error"
        ),
        pytest.param("return []", "return []\n\nclass Other(MyRule): pass", 30, "this one 2", id="two rules"),
    ],
)
def test_malformed_rule_stops_the_start(
    builtin: Path, tmp_path: Path, old: str, new: str, line: int, problem: str
) -> None:
    path = tmp_path / "bad" / "my_rule.py"
    path.parent.mkdir()
    assert old in rule_text()
    path.write_text(rule_text().replace(old, new))
    with pytest.raises(GradlintError) as caught:
        registry.load([path.parent], packs=False)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [("third-rule", "XY101", "the code XY101 is taken"), ("first-rule", "XY999", "the name first-rule is taken")],
)
def test_code_and_name_are_unique(builtin: Path, tmp_path: Path, name: str, code: str, problem: str) -> None:
    write_rule(tmp_path / "more", name, code)
    with pytest.raises(GradlintError, match=problem):
        registry.load([tmp_path / "more"], packs=False)


@pytest.mark.parametrize("exists", [True, False])
def test_rules_dir_without_rules_is_an_error(builtin: Path, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "none"
    if exists:
        folder.mkdir()
    with pytest.raises(GradlintError, match="no rule files" if exists else "no such folder"):
        registry.load([folder], packs=False)


@pytest.mark.parametrize("as_package", [True, False])
def test_installed_pack(builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_package: bool) -> None:
    site, name = tmp_path / "site", f"demo_pack_{as_package}".lower()
    if as_package:
        write_rule(site / name, "pack-rule", "PK101")
        (site / name / "__init__.py").write_text("")
        module = name
    else:
        write_rule(site, "pack-rule", "PK101")
        module = "pack_rule"
    info = site / "demo_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gradlint.rules]\ndemo = {module}\n")
    monkeypatch.syspath_prepend(str(site))
    assert "PK101" in [rule.code for rule in registry.load().rules]


@pytest.mark.parametrize(
    ("yields", "problem"),
    [
        ({"XY101": '{"XY202"}', "XY202": '{"XY101"}'}, "rules yield to each other in a circle: XY"),
        ({"XY101": '{"XY999"}'}, "no rule has the code XY999 that it yields to"),
        ({"XY101": '{"XY202"}'}, None),
    ],
)
def test_precedence(builtin: Path, yields: dict[str, str], problem: str | None) -> None:
    for path in builtin.glob("*.py"):
        text = path.read_text()
        for code, others in yields.items():
            text = text.replace(f'code = "{code}"', f'code = "{code}"\n    yields_to = frozenset({others})')
        path.write_text(text)
    if problem is None:
        assert [rule.code for rule in in_order(registry.load(packs=False).rules)] == ["XY202", "XY101"]
    else:
        with pytest.raises(GradlintError, match=rf"_rule\.py:\d+: .*{problem}"):
            registry.load(packs=False)


def test_a_rule_yields_the_parameters_that_another_has_reported() -> None:
    class First(Rule):
        code, name, severity = "XY101", "first", Severity.ERROR

        def check(self, context: Context) -> list[Finding]:
            return [context.finding(self, "first", None, context.trace.parameters[:1])]

    class Second(Rule):
        code, name, severity, yields_to = "XY102", "second", Severity.ERROR, frozenset({"XY101"})

        def check(self, context: Context) -> list[Finding]:
            trace = context.trace
            assert context.unreported(self, trace.parameters) == list(trace.parameters[1:])
            return [context.finding(self, "same", None, trace.parameters[:1]), context.finding(self, "more", None)]

    context = Context(gradlint.trace(torch.nn.Linear(2, 2)), None)  # type: ignore[arg-type]
    assert [f.message for rule in in_order([Second, First]) for f in run(rule(), context)] == ["first", "more"]


def test_the_shipped_rules_load() -> None:
    assert registry.load(packs=False).rules
