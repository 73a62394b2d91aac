"""The command line: arguments to engine calls, findings to exit codes, stdout kept for the report.

The engine is replaced: what is tested here needs no torch. One test at the end runs the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import each

from gradlint.cli import main
from gradlint.cli.targets import builders, missing_attribute
from gradlint.engine.options import Options
from gradlint.errors import GradlintError, TargetError
from gradlint.findings import Failure, Finding, Report, Severity, Skipped, TargetSummary
from gradlint.report.explanation import Explanation, Section, Step
from gradlint.rulekit import registry

ROOT = Path(__file__).resolve().parent.parent
RULE = '''
from gradlint.findings import Severity
from gradlint.rulekit.rule import Rule

class {cls}(Rule):
    """Says {name}.

    What it does
    Why it is bad
    Example
    Use instead
    Known limits
    References
    """
    code = "{code}"
    name = "{name}"
    severity = Severity.ERROR
    MESSAGE = "wrong"

    def check(self, context):
        return []
'''


def found(target: str, code: str, severity: Severity) -> Report:
    seen = TargetSummary(target, "float32[2]", "output", 3, 3, 0, 0, 0, 3, 9)
    findings = [Finding(target, code, "some-rule", severity, f"{code} here", None)]
    return Report(findings=findings, targets=[seen], skipped=[Skipped(target, "GL301", "no optimizer given")])


class Engine:
    """Answers by what the target is called, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], Options]] = []

    def check_target(self, target: str, rules: Any, options: Options) -> Report:
        self.calls.append((target, [rule.code for rule in rules], options))
        answer = ANSWERS[target.rpartition(":")[2]]
        return answer(target)


def fail(error: BaseException) -> Callable[[str], Report]:
    def answer(target: str) -> Report:
        raise error

    return answer


def prints(target: str) -> Report:
    print("noise from print")
    os.write(1, b"noise from C\n")
    subprocess.run(["echo", "noise from a child"], check=True)
    return found(target, "GL401", Severity.ERROR)


ANSWERS: dict[str, Callable[[str], Report]] = {
    "clean": lambda target: Report(targets=found(target, "", Severity.INFO).targets),
    "info": lambda target: found(target, "GL401", Severity.INFO),
    "warning": lambda target: found(target, "GL401", Severity.WARNING),
    "error": lambda target: found(target, "GL401", Severity.ERROR),
    "unseen": lambda target: found(target, "GL003", Severity.WARNING),
    "broken": lambda target: Report(errors=[Failure(target, "build() raised ValueError: no", "Traceback of the user")]),
    "raises": fail(TargetError("it cannot be loaded", "Traceback of the user")),
    "refuses": fail(GradlintError("an input makes no sense")),
    "bug": fail(ZeroDivisionError("division by zero")),
    "exits": fail(SystemExit(3)),
    "interrupted": fail(KeyboardInterrupt()),
    "prints": prints,
}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    for code, name in (("GL301", "frozen-parameter-in-optimizer"), ("GL401", "detached-upstream")):
        path = tmp_path / "rules" / f"{name.replace('-', '_')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(RULE.format(cls=name.title().replace("-", ""), code=code, name=name))
    monkeypatch.setattr(registry, "builtin_folder", lambda: tmp_path / "rules")
    monkeypatch.chdir(tmp_path)
    fake = Engine()
    module = types.ModuleType("gradlint.engine.check")
    module.__dict__.update(check_target=fake.check_target)
    monkeypatch.setitem(sys.modules, "gradlint.engine.check", module)
    return fake


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run(engine: Engine, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        code = main(arguments)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


Run = Callable[..., Result]


@each(
    ("arguments", "code"),
    [
        (["m:clean"], 0),
        (["m:info"], 0),
        (["m:info", "--show-info"], 0),
        (["m:info", "--fail-on", "info"], 1),
        (["m:warning"], 1),
        (["m:warning", "--fail-on", "error"], 0),
        (["m:error", "--fail-on", "error"], 1),
        (["m:clean", "m:error"], 1),
        (["m:error", "--ignore", "GL4"], 0),
        (["m:broken"], 2),
        (["m:broken", "m:error"], 2),
        (["m:raises"], 2),
        (["m:refuses"], 2),
        (["m:bug"], 2),
        (["m:exits"], 2),
        (["m:interrupted"], 130),
        (["m"], 2),
        ([], 0),
        (["m:clean", "--nonsense"], 2),
        (["m:clean", "--select", "GL999"], 2),
        (["m:clean", "--rules-dir", "nowhere"], 2),
        (["m:clean", "--output-format", "xml"], 2),
    ],
)
def test_exit_code(run: Run, arguments: list[str], code: int) -> None:
    given = {form: run("check", "--output-format", form, *arguments).code for form in ("full", "concise", "json")}
    assert given == dict.fromkeys(given, code)


@each(
    ("arguments", "error"),
    [
        (["m:clean"], None),
        (["m:error"], None),
        (["m:prints"], None),
        (["m:broken"], "build() raised ValueError: no"),
        (["m:raises"], "it cannot be loaded"),
        (["m:bug"], "please report it"),
        (["m:exits"], "sys.exit(3)"),
        (["m:interrupted"], "interrupted"),
        (["m"], "needs an attribute"),
        (["m:clean", "--nonsense"], "No such option"),
        (["m:clean", "--select", "GL999"], "GL999"),
        (["m:clean", "--rules-dir", "nowhere"], "there is no such folder"),
        (["m:clean", "--fail-on", "never"], "'never' is not one of"),
    ],
)
def test_json_in_every_case(run: Run, arguments: list[str], error: str | None) -> None:
    for spelling in (["--output-format", "json"], ["--output-format=json"]):
        errors = json.loads(run("check", *spelling, *arguments).out)["errors"]
        assert [error in found["message"] for found in errors] == ([] if error is None else [True]), spelling


@each("arguments, error", [(["m:clean", "--nonsense"], "No such option"), (["m:bug"], "m:bug: ")])
def test_sarif_in_every_case(run: Run, arguments: list[str], error: str) -> None:
    (invocation,) = json.loads(run("check", "--output-format", "sarif", *arguments).out)["runs"][0]["invocations"]
    (told,) = invocation["toolExecutionNotifications"]
    assert not invocation["executionSuccessful"] and told["message"]["text"].startswith(error)


@each("command", [["rules"], ["rule", "GL401"], ["check", "m:clean"], ["check", "m:error"]])
def test_nothing_but_the_report_is_printed(run: Run, command: list[str]) -> None:
    assert run(*command).err == ""


def test_fault_of_one_target_does_not_stop_the_others(run: Run) -> None:
    document = json.loads(run("check", "m:bug", "m:exits", "m", "m:error", "--output-format", "json").out)
    assert [entry["target"] for entry in document["errors"]] == ["m:bug", "m:exits", "m"]
    assert [entry["target"] for entry in document["findings"]] == ["m:error"]


def test_interrupt_keeps_what_was_found(run: Run) -> None:
    document = json.loads(run("check", "m:error", "m:interrupted", "m:clean", "--output-format", "json").out)
    assert [entry["target"] for entry in document["findings"]] == ["m:error"]


def test_interrupt_says_one_line(run: Run) -> None:
    assert run("check", "m:error", "m:interrupted") == Result(130, "", "gradlint: interrupted\n")


@each("output_format", ["full", "concise", "json"])
def test_what_user_code_prints_goes_to_stderr(run: Run, output_format: str) -> None:
    result = run("check", "m:prints", "--output-format", output_format)
    assert "noise" not in result.out
    assert [f"noise from {who}" in result.err for who in ("print", "C", "a child")] == [True] * 3


@each(("output_format", "stream"), [("full", "out"), ("concise", "err"), ("json", "err")])
def test_users_traceback_is_shown(run: Run, output_format: str, stream: str) -> None:
    for target in ("m:broken", "m:raises"):
        result = run("check", target, "--output-format", output_format)
        assert "Traceback of the user" in getattr(result, stream), target
        assert "session.py" not in result.out + result.err, target


def test_options_reach_the_engine(run: Run, engine: Engine) -> None:
    run("check", "m:clean", "--input", "2,3", "--input", "mask=2:bool", "--strict", "--select", "detached-upstream")
    assert engine.calls == [("m:clean", ["GL401"], Options(("2,3", "mask=2:bool"), True))]


def test_a_wrong_format_in_the_configuration_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gradlint.toml").write_text('output-format = "jsn"')
    result = run("check", "m:clean")
    assert (result.code, "must be one of full, concise, json" in result.err, "did you mean json?" in result.err) == (
        2,
        True,
        True,
    )


def test_numeric_reaches_the_engine(run: Run, engine: Engine) -> None:
    run("check", "m:clean", "--numeric", "--select", "detached-upstream")
    assert engine.calls == [("m:clean", ["GL401"], Options((), numeric=True))]


def test_repeated_target_is_checked_once(run: Run, engine: Engine) -> None:
    run("check", "m:clean", "m:error", "m:clean")
    assert [target for target, *_ in engine.calls] == ["m:clean", "m:error"]


@each(
    ("arguments", "shown"),
    [([], False), (["--show-info"], True), (["--fail-on", "info"], True), (["--select", "GL401"], True),
     (["--select", "GL4"], False), (["--extend-select", "detached-upstream"], True)],
)  # fmt: skip
def test_info_is_shown_when_asked_for(run: Run, arguments: list[str], shown: bool) -> None:
    assert ("GL401 here" in run("check", "m:info", *arguments).out) is shown


def test_own_finding_passes_the_selection(run: Run) -> None:
    assert "GL003 here" in run("check", "m:unseen").out


def test_rules_dir_adds_rules(run: Run, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_rule.py").write_text(RULE.format(cls="MyRule", code="ME101", name="my-rule"))
    run("check", "m:clean", "--rules-dir", "mine")
    assert engine.calls[0][1] == ["GL301", "GL401", "ME101"]


@pytest.mark.parametrize("arguments", [["rules"], ["rule", "ME101"], ["rules", "--config", "pyproject.toml"]])
def test_the_configured_rules_are_known_to_the_catalogue(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_rule.py").write_text(RULE.format(cls="MyRule", code="ME101", name="my-rule"))
    (tmp_path / "pyproject.toml").write_text('[tool.gradlint]\nrules-dirs = ["mine"]\n')
    (tmp_path / "own" / "gradlint").mkdir(parents=True)
    (tmp_path / "own" / "gradlint" / "gradlint.toml").write_text(f"trusted = ['{tmp_path}']")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    assert "ME101" in run(*arguments).out


def test_an_isolated_catalogue_knows_the_built_in_rules_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.gradlint]\nrules-dirs = ["gone"]\n')
    assert "GL401" in run("rules", "--isolated").out


def test_verbose_says_what_was_skipped(run: Run) -> None:
    assert "skipped: GL301 (no optimizer given)" in run("check", "m:error", "-v").out


@each(
    ("arguments", "hint"),
    [
        (["chek"], "Did you mean `gradlint check`?"),
        (["m.py:build"], "Did you mean `gradlint check m.py:build`?"),
        (["check", "m:clean", "--selct", "GL4"], "'--select'"),
        (["check", "m:clean", "--select", "GL410"], "did you mean GL401?"),
        (["check", "m:clean", "--ignore", "detached-upsteam"], "did you mean detached-upstream?"),
        (["rule", "GL410"], "did you mean GL401?"),
    ],
)
def test_nearest_match(run: Run, arguments: list[str], hint: str) -> None:
    assert hint in run(*arguments).err


@each(
    ("environment", "option", "colored"),
    [
        ({}, [], False),
        ({"FORCE_COLOR": "1"}, [], True),
        ({"FORCE_COLOR": "0"}, [], False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, [], False),
        ({"NO_COLOR": "1"}, ["--color", "always"], True),
        ({"FORCE_COLOR": "1"}, ["--color", "never"], False),
    ],
)
def test_color(
    run: Run, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], option: list[str], colored: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in run("check", "m:error", *option).out) is colored


def test_rules_lists_every_code(run: Run) -> None:
    expected = ["GL001", "GL002", "GL003", "GL301", "GL401", "GL704"]
    assert [line.split()[0] for line in run("rules").out.splitlines()] == expected


def test_rules_as_json(run: Run) -> None:
    rules = json.loads(run("rules", "--output-format", "json").out)["rules"]
    assert rules[4]["summary"] == "Says detached-upstream."


@each("name", ["GL401", "gl401", "detached-upstream"])
def test_rule_prints_its_documentation(run: Run, name: str) -> None:
    expected = "GL401 detached-upstream (error)\n\nSays detached-upstream.\n\nWhat it does\n"
    shown = run("rule", name).out
    assert shown.startswith(expected) and shown.endswith("\n\n## Messages\n\n- wrong\n"), shown


def test_own_code_has_documentation(run: Run) -> None:
    assert run("rule", "GL003").out.startswith("GL003 partial-recording (warning)\n")


@pytest.fixture
def why(monkeypatch: pytest.MonkeyPatch) -> None:
    def explain(target: str, pattern: str, options: Options) -> list[Any]:
        way = Section("path to the loss", [Step("cut by detach()", None, True)])
        names = ("enc.w", "enc.v") if pattern == "*" else ("enc.w",)
        known = [Explanation(name, "no gradient", "3x3", [way]) for name in names]
        if target.endswith(":raises"):
            raise TargetError("it cannot be loaded", "Traceback of the user")
        return known

    module = types.ModuleType("gradlint.api.explain")
    module.__dict__.update(explain=explain)
    monkeypatch.setitem(sys.modules, "gradlint.api.explain", module)


@each(
    ("arguments", "expected"),
    [
        (("m:build", "enc.*"), Result(0, "enc.w: no gradient\n  3x3\n  path to the loss:\n    cut by detach()\n", "")),
        (
            ("m:build", "*"),
            Result(0, "enc.* (2 tensors): no gradient\n  3x3\n  path to the loss:\n    cut by detach()\n", ""),
        ),
        (("m:raises", "enc.*"), Result(2, "", "Traceback of the user\nerror: m:raises: it cannot be loaded\n")),
    ],
)
def test_why(run: Run, why: None, arguments: tuple[str, str], expected: Result) -> None:
    assert run("why", *arguments) == expected


def test_why_as_json(run: Run, why: None) -> None:
    content = json.loads(run("why", "m:build", "*", "--output-format", "json").out)
    assert [each["parameter"] for each in content["parameters"]] == ["enc.w", "enc.v"]
    assert content["parameters"][0]["sections"][0]["steps"][0]["text"] == "cut by detach()"


# Targets without an attribute


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "net.py").write_text("def make_net(): ...\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_text("def build(:\n")
    (tmp_path / "model.py").write_text(
        textwrap.dedent("""
            raise RuntimeError("never imported")
            def helper(x): return x
            def other(): return 1
            def create_model(width=3): return width
            def build_small(): return 1
            def build(): return create_model()
            def make_layer(width): return width
            class Model: ...
        """)
    )
    return tmp_path


@each("target", ["model.py:build", "model.py:Model.small", "pkg.mod:build", "src/net.py:make_net", "C:\\m.py:build"])
def test_target_with_an_attribute(project: Path, target: str) -> None:
    assert missing_attribute(target) is None


@each(
    ("target", "hint"),
    [
        ("model.py", "try model.py:build (it also has build_small, create_model)"),
        ("model.py:", "try model.py:build (it also has build_small, create_model)"),
        ("./model.py", "try ./model.py:build"),
        ("plain.py", "as in plain.py:build; no function in it looks like one"),
        ("bad.py", "as in bad.py:build; no function in it looks like one"),
        ("src", "src is a folder; name the function in it that builds what you train: try src/net.py:make_net"),
        ("empty", "as in empty/model.py:build"),
        ("gone.py", "there is no file gone.py"),
        ("C:\\gone\\m.py", "there is no file"),
        ("pkg.mod", "try pkg.mod:build"),
        ("", "write it as in model.py:build"),
    ],
)
def test_target_without_an_attribute(project: Path, target: str, hint: str) -> None:
    assert hint in (missing_attribute(target) or "")


def test_builders_are_found_without_importing(project: Path) -> None:
    assert builders(project / "model.py") == ["build", "build_small", "create_model"]


# The real process


DRIVER = """
import atexit, os, signal, sys, types
from gradlint.findings import Report

def check_target(target, rules, options):
    atexit.register(print, "noise at exit")
    print("noise")
    os.write(1, b"raw noise")
    sys.__stdout__.write("noise past the redirection")
    {action}
    return Report()

engine = types.ModuleType("gradlint.engine.check")
engine.check_target = check_target
sys.modules["gradlint.engine.check"] = engine
from gradlint.rulekit import registry
registry._all_rules = lambda *_: []
from gradlint.cli import console_script
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
console_script()
"""


def drive(*arguments: str, action: str = "pass", **more: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", DRIVER.format(action=action), *arguments]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120, **more)


def test_stdout_of_the_process_is_json_alone() -> None:
    assert json.loads(drive("check", "m:build", "--output-format", "json").stdout)["schema"] == 1


def test_noise_of_the_process_is_kept_on_stderr() -> None:
    assert drive("check", "m:build", "--output-format", "json").stderr.count(b"noise") == 4


@pytest.mark.parametrize("action", ["os.close(1)", "os.close(2)", "sys.stdout = None", "sys.stderr = None"])
def test_stdout_survives_what_user_code_does_to_it(action: str) -> None:
    assert json.loads(drive("check", "m:build", "--output-format", "json", action=action).stdout)["schema"] == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_encoding_of_stdout_does_not_matter(encoding: str) -> None:
    done = drive("check", "日本.py", "--color", "always", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


def test_version_names_the_distribution() -> None:
    done = subprocess.run([sys.executable, "-m", "gradlint", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("torch-gradlint ")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c() -> None:
    done = drive("check", "m:build", action="os.killpg(0, 2); import time; time.sleep(9)", start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr.count(b"gradlint: interrupted\n")) == (130, b"", 1)


def test_shipped_example_end_to_end() -> None:
    target = "fixtures/founding/detach_in_chain.py:build"
    command = [sys.executable, "-m", "gradlint", "check", target, "--output-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    findings = json.loads(done.stdout)["findings"]
    assert (done.returncode, [finding["code"] for finding in findings]) == (1, ["GL401"])


@each(
    ("option", "expected"),
    [
        (["--kind", "step"], {"step"}),
        (["--kind", "source", "--kind", "step"], {"source", "step"}),
    ],
)
def test_the_catalogue_is_filtered_by_kind(
    option: list[str], expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["rules", "--isolated", "--output-format", "json", *option])
    listed = json.loads(capsys.readouterr().out)["rules"]
    assert listed and all(set(rule["kinds"]) & expected for rule in listed)


def test_the_catalogue_is_filtered_by_severity_selector_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    main(["rules", "--isolated", "--select", "GL1", "--severity", "error", "--fixable"])
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["GL102", "requires-grad-on-module", "error"],
        ["GL103", "misspelled-requires-grad", "error"],
        ["GL104", "unregistered-submodule", "error"],
    ]


def test_the_options_in_help_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--help"])
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Selection:", "Inputs and recording:", "Output:", "Fixing:", "Files, configuration and cache:", "Other:",
    ]  # fmt: skip
    assert text.index("--no-cache") > text.index("Files, configuration and cache:")
