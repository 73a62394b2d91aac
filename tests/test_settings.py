"""Configuration: what counts where, and what is said of a file that is wrong."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cases import each
from hypothesis import given
from hypothesis import strategies as st

from gradlint.config.settings import Configuration, Settings, TargetSettings, as_toml, forget, read
from gradlint.errors import UsageError
from gradlint.findings import Severity


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


EVERYTHING = """
select = ["GL1", "GL4"]
ignore = ["GL405"]
extend-select = ["softmax-before-cross-entropy"]
fail-on = "error"
show-info = true
strict = true
output-format = "concise"
rules-dirs = ["lint"]
exclude = ["old"]
extend-exclude = ["gen_*.py"]
force-exclude = true
respect-gitignore = false
unsafe-fixes = true
baseline = "baseline.json"
cache-dir = ".cache"
rule-url = "https://example.org/"

[per-file-ignores]
"tests/**" = ["GL1"]

[ignore-parameters]
GL405 = ["aux_head.*"]

[severity]
GL302 = "error"

[targets."model.py:build"]
inputs = ["2,3"]
trains = ["head.*"]
frozen = ["body.*"]
args = { cfg = "conf.yaml", "cfg.lr" = 0.1, flags = [true, 1979-05-27] }
argv = ["--lr", "1"]
"""


ARGUMENTS = (("cfg", "conf.yaml"), ("cfg.lr", 0.1), ("flags", [True, datetime.date(1979, 5, 27)]))


def test_every_key_is_read(folder: Path) -> None:
    settings = read(write(folder / "gradlint.toml", EVERYTHING))
    assert settings == Settings(
        path=folder / "gradlint.toml",
        root=folder,
        targets={"model.py:build": TargetSettings(("2,3",), ("head.*",), ("body.*",), ARGUMENTS, ("--lr", "1"))},
        select=("GL1", "GL4"),
        ignore=("GL405",),
        extend_select=("softmax-before-cross-entropy",),
        per_file_ignores={"tests/**": ("GL1",)},
        ignore_parameters={"GL405": ("aux_head.*",)},
        severity={"GL302": Severity.ERROR},
        fail_on=Severity.ERROR,
        show_info=True,
        strict=True,
        output_format="concise",
        rules_dirs=("lint",),
        exclude=("old",),
        extend_exclude=("gen_*.py",),
        force_exclude=True,
        respect_gitignore=False,
        unsafe_fixes=True,
        baseline="baseline.json",
        cache_dir=".cache",
        rule_url="https://example.org/",
    )


def test_settings_shown_are_read_back_the_same(folder: Path) -> None:
    settings = read(write(folder / "gradlint.toml", EVERYTHING))
    assert read(write(folder / "gradlint.toml", as_toml(settings))) == settings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", '[tool.gradlint]\nselect = ["GL1"]\n'),
        ("gradlint.toml", 'select = ["GL1"]\n'),
        (".gradlint.toml", 'select = ["GL1"]\n'),
        ("pyproject.toml", '\ufeff[tool.gradlint]\nselect = ["GL1"]\n'),
    ],
)
def test_files_that_may_hold_settings(folder: Path, name: str, text: str) -> None:
    write(folder / name, text)
    assert Configuration().near(folder / "src" / "net.py").select == ("GL1",)


def test_nearest_file_wins_and_is_not_merged(folder: Path) -> None:
    write(folder / "pyproject.toml", '[tool.gradlint]\nselect = ["GL1"]\nstrict = true\n')
    write(folder / "sub" / "gradlint.toml", 'select = ["GL4"]\n')
    found = Configuration()
    assert [(found.near(p).select, found.near(p).strict) for p in (folder / "a.py", folder / "sub" / "a.py")] == [
        (("GL1",), True),
        (("GL4",), False),
    ]


def test_pyproject_without_a_table_is_passed_over(folder: Path) -> None:
    write(folder / "gradlint.toml", "strict = true\n")
    write(folder / "sub" / "pyproject.toml", "[project]\nname = 'x'\n")
    assert Configuration().near(folder / "sub" / "a.py").strict


def test_own_file_wins_over_pyproject_beside_it(folder: Path) -> None:
    write(folder / "pyproject.toml", "[tool.gradlint]\nstrict = true\n")
    write(folder / "gradlint.toml", "show-info = true\n")
    settings = Configuration().near(folder)
    assert (settings.strict, settings.show_info) == (False, True)


def test_given_file_counts_everywhere(folder: Path) -> None:
    write(folder / "sub" / "gradlint.toml", "strict = true\n")
    given_file = write(folder / "mine.toml", 'ignore = ["GL1"]\n')
    settings = Configuration(given_file).near(folder / "sub" / "a.py")
    assert (settings.ignore, settings.strict) == (("GL1",), False)


def test_isolated_reads_nothing(folder: Path) -> None:
    write(folder / "gradlint.toml", "no toml at all")
    assert Configuration(isolated=True).near(folder).path is None


@each(
    ("text", "said"),
    [
        ("selct = []", "unknown key selct; did you mean select?"),
        ("fail_on = 'error'", "unknown key fail_on; did you mean fail-on?"),
        ("zzz = 1", "unknown key zzz; known are baseline, "),
        ("select = 'GL1'", "select must be an array of strings, not a string"),
        ("select = ['GL1', 2]", "select[1] must be a string, not an integer"),
        ("strict = 'yes'", "strict must be true or false, not a string"),
        ("strict = 1", "strict must be true or false, not an integer"),
        ("fail-on = 'eror'", "fail-on must be one of error, warning, info, not 'eror'; did you mean error?"),
        ("fail-on = 3", "fail-on must be one of error, warning, info, not an integer"),
        ("severity = {GL301 = 'bad'}", 'severity."GL301" must be one of error, warning, info'),
        ("severity = []", "severity must be a table from rules to severities, not an array"),
        ("per-file-ignores = {'a.py' = 'GL1'}", 'per-file-ignores."a.py" must be an array of strings, not a string'),
        ("targets = {'m.py:b' = {train = []}}", 'targets."m.py:b".train is an unknown key; did you mean trains?'),
        ("targets = {'m.py:b' = {trains = 'x'}}", 'targets."m.py:b".trains must be an array of strings'),
        ("targets = {'m.py:b' = 1}", 'targets."m.py:b" must be a table, not an integer'),
        ("targets = 'm.py:b'", "targets must be a table of targets, or an array of them, not a string"),
        ("baseline = 1.5", "baseline must be a string, not a number"),
        ("select = [", "is no valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(folder: Path, text: str, said: str) -> None:
    file = write(folder / "gradlint.toml", text)
    with pytest.raises(UsageError) as error:
        Configuration().near(folder / "a.py")
    assert str(error.value).startswith(f"{file}: ") and said in str(error.value)


def test_key_in_pyproject_is_named_in_full(folder: Path) -> None:
    write(folder / "pyproject.toml", "[tool.gradlint]\nselct = []\n")
    with pytest.raises(UsageError, match=r"unknown key tool\.gradlint\.selct; did you mean select\?"):
        Configuration().near(folder)


@pytest.mark.parametrize(
    ("text", "wrong"), [("[tool.gradlint\n", True), ("[broken\n", False), ("[tool]\ngradlint = 3\n", True)]
)
def test_pyproject_that_is_wrong(folder: Path, text: str, wrong: bool) -> None:
    write(folder / "pyproject.toml", text)
    if wrong:
        with pytest.raises(UsageError, match=r"pyproject\.toml: "):
            Configuration().near(folder)
    else:
        assert Configuration().near(folder).path is None


@each("file", ["gone.toml", "."])
def test_given_file_that_is_not_there(folder: Path, file: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Configuration(file)


def test_targets_as_an_array(folder: Path) -> None:
    settings = read(write(folder / "gradlint.toml", "targets = ['a.py:build', 'pkg.mod:build']"))
    assert settings.targets == {"a.py:build": TargetSettings(), "pkg.mod:build": TargetSettings()}


@each("text", ["sub/m.py:build", "./sub/m.py:build", "sub/../sub/m.py:build", "{folder}/sub/m.py:build"])
def test_target_is_found_however_it_is_written(folder: Path, text: str) -> None:
    write(folder / "sub" / "gradlint.toml", "[targets.'m.py:build']\ninputs = ['2,3']\n")
    write(folder / "sub" / "m.py", "")
    target = text.replace("{folder}", str(folder))
    assert Configuration().of_target(target).target(target).inputs == ("2,3",)


@each("text", ["sub/m.py:other", "m.py:build", "sub.m:build"])
def test_other_targets_have_the_defaults(folder: Path, text: str) -> None:
    write(folder / "sub" / "gradlint.toml", "[targets.'m.py:build']\ninputs = ['2,3']\n")
    write(folder / "sub" / "m.py", "")
    assert Configuration().of_target(text).target(text) == TargetSettings()


def test_configured_targets_are_named_from_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(write(folder / "gradlint.toml", "targets = ['a.py:build', 'pkg.mod:build', 'sub/b.py:make']"))
    assert settings.configured_targets() == ("a.py:build", "pkg.mod:build", "sub/b.py:make")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert settings.configured_targets()[2] == "b.py:make"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_any_text_survives_being_shown(texts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "gradlint.toml"
        file.write_text(
            as_toml(Settings(exclude=tuple(texts), targets=dict.fromkeys(texts, TargetSettings()))), encoding="utf-8"
        )
        settings = read(file)
    assert (settings.exclude, list(settings.targets)) == (tuple(texts), list(dict.fromkeys(texts)))
