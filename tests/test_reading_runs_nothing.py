"""Reading never runs: nothing that lies in a checked tree is executed, unless the user allows it from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write
from test_cli import RULE

__all__ = ["folder", "run"]

ROOT = Path(__file__).resolve().parent.parent
CONFIGURED = '[tool.gradlint]\nrules-dirs = ["rules"]\n'
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs symbolic links and colons in names")


class Tree:
    """A hostile repository in the working directory. All of its code leaves a mark when it runs."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.mark = top.parent / "ran"
        self.mine = f"with open({str(self.mark)!r}, 'a') as mark: mark.write(__name__ + ' ')\n"
        write(top / "a.py", FROZEN_WRONG + self.mine)

    def put(self, *paths: str) -> None:
        """Put Python files that leave the mark."""
        for path in paths:
            write(self.top / path, self.mine)

    def rule(self, path: str) -> None:
        """Put a rule that leaves the mark."""
        name = Path(path).stem.replace("_", "-")
        write(self.top / path, self.mine + RULE.format(cls="Planted", code="ZZ100", name=name))

    def dist(self, place: str, entry: str, group: str = "gradlint.rules", suffix: str = "dist-info") -> None:
        """Put the metadata of an installed package that names an entry point."""
        info = self.top / place / f"evil-1.{suffix}"
        about = "METADATA" if suffix == "dist-info" else "PKG-INFO"
        write(info / about, "Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
        write(info / "entry_points.txt", f"[{group}]\nx = {entry}\n")

    @property
    def ran(self) -> str:
        """The names of the modules that ran."""
        return self.mark.read_text() if self.mark.exists() else ""


@pytest.fixture
def tree(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree, with a user's own configuration outside and a path that is put back."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.parent / "own"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("evil")]:
        monkeypatch.delitem(sys.modules, name)
    return Tree(folder)


def trust(tree: Tree, *folders: Path) -> None:
    """Write the user's own configuration."""
    write(tree.top.parent / "own/gradlint/gradlint.toml", f"trusted = {[str(folder) for folder in folders]}\n")


# -- rules that a configuration names ----------------------------------------------------------------------------------


def nested(tree: Tree) -> None:
    """Rules of a vendored package."""
    write(tree.top / "vendor/package/pyproject.toml", CONFIGURED)
    write(tree.top / "vendor/package/a.py", FROZEN_WRONG)
    tree.rule("vendor/package/rules/evil_rule.py")


def top(tree: Tree) -> None:
    """Rules of the project itself."""
    write(tree.top / "pyproject.toml", CONFIGURED)
    tree.rule("rules/evil_rule.py")


def hidden(tree: Tree) -> None:
    """Rules that a hidden file names."""
    write(tree.top / ".gradlint.toml", 'rules-dirs = ["rules"]\n')
    tree.rule("rules/evil_rule.py")


def absolute(tree: Tree) -> None:
    """Rules under an absolute path."""
    tree.rule("rules/evil_rule.py")
    write(tree.top / "gradlint.toml", f"rules-dirs = ['{tree.top / 'rules'}']\n")


def upward(tree: Tree) -> None:
    """Rules in a folder above."""
    tree.rule("rules/evil_rule.py")
    write(tree.top / "sub/gradlint.toml", "rules-dirs = ['../rules']\n")
    write(tree.top / "sub/a.py", FROZEN_WRONG)


def above(tree: Tree) -> None:
    """Rules that a file above the working directory names."""
    tree.rule("../rules/evil_rule.py")
    write(tree.top.parent / "gradlint.toml", "rules-dirs = ['rules']\n")


def linked(tree: Tree) -> None:
    """Rules behind a symbolic link."""
    tree.rule("elsewhere/evil_rule.py")
    (tree.top / "rules").symlink_to(tree.top / "elsewhere")
    write(tree.top / "gradlint.toml", "rules-dirs = ['rules']\n")


def builtin(tree: Tree) -> None:
    """Rules where gradlint's own would lie in a checkout."""
    tree.put("gradlint/rules/evil_rule.py", "rules/evil_rule.py")


# -- installed packs ---------------------------------------------------------------------------------------------------


def listed_in_tree(tree: Tree) -> None:
    """An entry point in the tree, which lies on the path."""
    tree.put("evil.py")
    tree.dist(".", "evil")
    sys.path.insert(0, str(tree.top))


def egg_of_an_editable_install(tree: Tree) -> None:
    """An entry point beside the sources, as older tools write it."""
    tree.put("src/evil/__init__.py")
    tree.rule("src/evil/evil_rule.py")
    tree.dist("src", "evil", suffix="egg-info")
    sys.path.append(str(tree.top / "src"))


def module_in_tree(tree: Tree) -> None:
    """An installed package whose module the tree shadows."""
    tree.put("evil.py")
    tree.dist("../site", "evil")
    sys.path[:0] = [str(tree.top), str(tree.top.parent / "site")]


def part_in_tree(tree: Tree) -> None:
    """A namespace package with a part in the tree."""
    tree.put("evil_space/rules/__init__.py")
    write(tree.top.parent / "site/evil_space/other/__init__.py", "")
    tree.dist("../site", "evil_space.rules")
    sys.path[:0] = [str(tree.top.parent / "site"), str(tree.top)]


def reached_by_a_package(tree: Tree) -> None:
    """An installed package that looks for its parts in the tree."""
    tree.put("more/rules.py")
    write(tree.top.parent / "site/evil_pack/__init__.py", f"__path__.append({str(tree.top / 'more')!r})\n")
    tree.dist("../site", "evil_pack.rules")
    sys.path.insert(0, str(tree.top.parent / "site"))


def linked_into_tree(tree: Tree) -> None:
    """An installed module that is a symbolic link into the tree."""
    tree.put("evil.py")
    tree.dist("../site", "evil")
    (tree.top.parent / "site/evil.py").symlink_to(tree.top / "evil.py")
    sys.path.insert(0, str(tree.top.parent / "site"))


def other_plugins(tree: Tree) -> None:
    """Entry points of other groups."""
    tree.put("evil.py")
    for number, group in enumerate(("pytest11", "pygments.lexers", "click_plugins", "console_scripts", "gradlint")):
        tree.dist(f"plugins{number}", "evil", group)
        sys.path.append(str(tree.top / f"plugins{number}"))
    sys.path.append(str(tree.top))


# -- what else Python or gradlint might load ---------------------------------------------------------------------------


def start_files(tree: Tree) -> None:
    """Files that Python and its tools run at a start."""
    tree.put("sitecustomize.py", "usercustomize.py", "conftest.py", "setup.py", "__init__.py", "__main__.py")
    write(tree.top / "x.pth", f"import os; {tree.mine}")


def shadows(tree: Tree) -> None:
    """Files that are called like the modules gradlint uses."""
    tree.put("click.py", "rich/__init__.py", "pathspec.py", "platformdirs.py", "json.py", "multiprocessing/__init__.py")


def codec(tree: Tree) -> None:
    """Encodings that are called like modules of the tree."""
    tree.put("evil.py", "encodings/evil.py", "encodings/__init__.py")
    write(tree.top / "b.py", "# coding: evil\nimport torch\n")
    write(tree.top / "c.py", "# coding: encodings.evil\nimport torch\n")


def targets(tree: Tree) -> None:
    """Targets that the configuration names, for commands that are asked for files."""
    write(tree.top / "gradlint.toml", "targets = ['a.py:build', 'a:build']\n")


def lock(tree: Tree) -> None:
    """Targets that a lock names."""
    write(tree.top / "gradlint.lock", "# gradlint lock, version 2\n\n[a.py:build]\nw  2x2  trains\n")


def cache(tree: Tree) -> None:
    """A cache that holds pickles and bytecode."""
    write(tree.top / "gradlint.toml", "cache-dir = '.cache'\n")
    pickled = f"cbuiltins\nexec\n(S{tree.mine[:-1]!r}\ntR.".encode()
    for name in ("findings.pkl", "cache.db", "0.json", "__pycache__/a.cpython-311.pyc"):
        write(tree.top / ".cache" / name, pickled)


def target_that_is_a_link(tree: Tree) -> None:
    """Links without an end that are called like targets."""
    (tree.top / "a.py:build.py").symlink_to(tree.top / "gone")
    (tree.top / "a.py:build").symlink_to(tree.top / "gone")


WAYS: dict[str, Callable[[Tree], None]] = {
    way.__name__.replace("_", " "): way
    for way in (
        nested, top, hidden, absolute, upward, above, linked, builtin, listed_in_tree, egg_of_an_editable_install,
        module_in_tree, part_in_tree, reached_by_a_package, linked_into_tree, other_plugins, start_files, shadows,
        codec, targets, lock, cache, target_that_is_a_link,
    )
}  # fmt: skip
READING: dict[str, list[str]] = {
    "a folder": ["check", "."],
    "from outside": ["check", "../work", "--no-cache"],
    "the hook": ["check", "--force-exclude", "*"],
    "a baseline": ["check", ".", "--write-baseline", "../b.json"],
    "stdin": ["check", "-", "--stdin-filename", "vendor/package/x.py"],
    "the rules": ["rules"],
    "init": ["init", "a.py", "-o", "-"],
    "two locks": ["diff", "gradlint.lock", "gradlint.lock"],
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_the_tree_runs(run: Run, tree: Tree, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    WAYS[way](tree)
    elsewhere = write(tree.top.parent / "elsewhere/x", "").parent
    names = sorted(str(path.relative_to(tree.top)) for path in tree.top.rglob("*") if not path.is_dir())
    ran = {}
    for command, arguments in READING.items():
        monkeypatch.chdir(elsewhere if command == "from outside" else tree.top)
        run(*(arguments if arguments[-1] != "*" else [*arguments[:-1], *names]), stdin=FROZEN_WRONG)
        ran[command] = tree.ran
    assert not any(ran.values()), ran


# -- what the user allows ----------------------------------------------------------------------------------------------


def loaded(run: Run, *arguments: str) -> set[str]:
    """The codes of third-party rules that a command knows."""
    return {line.split()[0] for line in run("rules", *arguments).out.splitlines() if line.startswith("ZZ")}


def test_an_option_loads_the_rules_of_a_project(run: Run, tree: Tree) -> None:
    top(tree)
    assert loaded(run, "--rules-dir", "rules") == {"ZZ100"}


def test_a_trusted_folder_loads_the_rules_of_a_project(run: Run, tree: Tree) -> None:
    top(tree)
    trust(tree, tree.top)
    assert loaded(run) == {"ZZ100"}


def test_a_link_to_a_trusted_folder_is_that_folder(run: Run, tree: Tree) -> None:
    top(tree)
    (tree.top.parent / "link").symlink_to(tree.top)
    trust(tree, tree.top.parent / "link")
    assert loaded(run) == {"ZZ100"}


def test_a_project_below_a_trusted_folder_is_not_trusted(run: Run, tree: Tree) -> None:
    nested(tree)
    trust(tree, tree.top)
    run("check", ".")
    assert tree.ran == ""


def test_a_trusted_folder_loads_a_pack_in_it(run: Run, tree: Tree) -> None:
    tree.rule("evil_rule.py")
    tree.dist(".", "evil_rule")
    sys.path.append(str(tree.top))
    trust(tree, tree.top)
    assert loaded(run) == {"ZZ100"}


def test_a_pack_outside_of_the_tree_is_loaded(run: Run, tree: Tree) -> None:
    tree.rule("../site/evil_rule.py")
    tree.dist("../site", "evil_rule")
    sys.path.append(str(tree.top.parent / "site"))
    assert loaded(run) == {"ZZ100"}


@each("form", ["full", "concise", "github", "sarif", "json"])
def test_rules_that_are_not_loaded_are_named(run: Run, tree: Tree, form: str) -> None:
    nested(tree)
    result = run("check", ".", "--output-format", form)
    words = " ".join((result.out + result.err).split())
    assert "rules-dirs of vendor/package/pyproject.toml is not loaded" in words
    assert "--rules-dir vendor/package/rules" in words


def test_a_pack_that_is_not_loaded_is_named(run: Run, tree: Tree) -> None:
    listed_in_tree(tree)
    assert "rule pack x (evil) in" in run("check", ".").out


def test_nothing_is_said_about_rules_that_are_loaded(run: Run, tree: Tree) -> None:
    top(tree)
    assert "not loaded" not in run("check", ".", "--rules-dir", "rules").out


@each(
    "line",
    [
        'select = ["GL1", "ZZ100"]',
        'ignore = ["ZZ"]',
        'per-file-ignores = {"x.py" = ["ZZ100"]}',
        'ignore-parameters = {ZZ100 = ["x"]}',
        'severity = {ZZ100 = "info"}',
    ],
)
def test_rules_that_are_not_loaded_may_be_configured(run: Run, tree: Tree, line: str) -> None:
    write(tree.top / "pyproject.toml", CONFIGURED + line)
    assert "GL102" in run("check", ".").out


def test_only_rules_that_are_not_loaded_are_selected(run: Run, tree: Tree) -> None:
    write(tree.top / "pyproject.toml", CONFIGURED + 'select = ["ZZ100"]\n')
    assert "GL102" not in run("check", ".").out


def test_an_option_cannot_select_a_rule_that_is_not_loaded(run: Run, tree: Tree) -> None:
    write(tree.top / "pyproject.toml", CONFIGURED)
    result = run("check", ".", "--select", "ZZ100")
    assert (result.code, "ZZ100" in result.err, "give --rules-dir rules" in result.err) == (2, True, True)


def test_a_comment_about_a_rule_that_is_not_loaded_is_left_alone(run: Run, tree: Tree) -> None:
    write(tree.top / "pyproject.toml", CONFIGURED)
    write(tree.top / "a.py", "import torch\nx = 1  # gradlint: ignore[ZZ100]\n")
    assert run("check", "a.py").code == 0


@each(
    ("text", "problem"),
    [
        ("trust = []", "unknown key trust"),
        ("trusted = 'x'", "trusted must be an array of strings"),
        ("trusted = ['x']", "'x' is not absolute"),
        ("trusted", "is no valid TOML"),
        pytest.param("trusted = " + "[" * 5000, "is no valid TOML", id="brackets without end"),
    ],
)
def test_a_wrong_trust_list_is_an_error(run: Run, tree: Tree, text: str, problem: str) -> None:
    write(tree.top.parent / "own/gradlint/gradlint.toml", text)
    result = run("check", ".")
    assert (result.code, problem in result.err) == (2, True), result.err


# -- other ways --------------------------------------------------------------------------------------------------------


@each("name", ["--rules-dir=rules.py", "--config=x.py", "--output-file=a.py", "-q"])
def test_a_file_that_is_called_like_an_option_is_refused(run: Run, tree: Tree, name: str) -> None:
    tree.put("rules.py/evil_rule.py")
    write(tree.top / name, "import torch\n")
    result = run("check", "--force-exclude", name, "a.py")
    assert (result.code, "put -- before file names" in result.err) == (2, True)


def test_a_file_that_is_called_like_an_option_can_be_checked(run: Run, tree: Tree) -> None:
    write(tree.top / "--fix.py", FROZEN_WRONG)
    assert "--fix.py:9:9" in run("check", "--", "--fix.py").out


@each("text", [pytest.param("[" * 100_000, id="deep"), pytest.param(None, id="other types")])
def test_a_planted_cache_counts_as_empty(run: Run, tree: Tree, text: str | None) -> None:
    arguments = ("check", "a.py", "--cache-dir", "planted", "--output-format", "concise")
    before = run(*arguments).out
    for path in (tree.top / "planted").glob("*.json"):
        path.write_text(text or path.read_text().replace('"line":9', '"line":"9"'))
    assert run(*arguments).out == before != ""


@each("name", ["gradlint.toml", "b.json"])
def test_a_file_that_is_nested_without_end_is_an_error(run: Run, tree: Tree, name: str) -> None:
    write(tree.top / name, "select = " * name.endswith("toml") + "[" * 100_000)
    arguments = ["--baseline", name] if name.endswith("json") else []
    result = run("check", "a.py", *arguments)
    assert (result.code, "gradlint itself failed" in result.err) == (2, False), result.err


# -- new processes -----------------------------------------------------------------------------------------------------


def plant_by_name(tree: Tree) -> None:
    """Plant a module for each one that gradlint may import, except those that Python takes to start a package."""
    code = "import runpy, pkgutil, sys; print(*sys.modules)"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {"click", "rich", "pathspec", "platformdirs", "tomli", "torch", "numpy"}
    names = {*sys.stdlib_module_names, *others} - {name.partition(".")[0] for name in started}
    tree.put(*(f"{name}.py" for name in sorted(names)))


@pytest.mark.parametrize("command", ["check .", "rules", "--version"])
def test_the_working_directory_gives_no_modules(tree: Tree, command: str) -> None:
    plant_by_name(tree)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "gradlint", *command.split()]
    done = subprocess.run(arguments, cwd=tree.top, env=environment, capture_output=True, text=True)
    assert (tree.ran, done.returncode in (0, 1)) == ("", True), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_other_processes_take_no_modules_from_the_working_directory(tree: Tree, method: str) -> None:
    plant_by_name(tree)
    for number in range(4):
        write(tree.top / f"large{number}.py", "import torch\n" + "x = torch.nn.Linear(1, 1)\n" * 4_000)
    program = f"""
        import multiprocessing
        import sys

        if __name__ == "__main__":
            from gradlint.cli import main
            from gradlint.engine import source_pass

            multiprocessing.set_start_method({method!r})
            source_pass.WORTH_A_PROCESS = 1000
            sys.exit(main(["check", ".", "--no-cache"]))
    """
    write(tree.top.parent / "main.py", textwrap.dedent(program))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "../main.py"]
    done = subprocess.run(arguments, cwd=tree.top, env=environment, capture_output=True, text=True)
    assert (tree.ran, "source rules apply to" in done.stdout) == ("", True), done.stdout + done.stderr
