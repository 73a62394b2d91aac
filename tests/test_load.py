"""Targets are parsed, loaded in a sandbox and built; whatever goes wrong is one sentence with the user's traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from cases import each

import gradlint
from gradlint.errors import GradlintError, TargetError, UsageError
from gradlint.load.build import call_build, user_error, user_traceback
from gradlint.load.target import load_target, parse_target
from gradlint.system.undo import Undo

Tree = dict[str, str]


@each(
    ("text", "path", "module", "attribute"),
    [
        ("model.py:build", "model.py", None, "build"),
        ("dir/model.py:build", "dir/model.py", None, "build"),
        ("package.module:build", None, "package.module", "build"),
        ("module:Class.method", None, "module", "Class.method"),
        ("model.py:Class.method", "model.py", None, "Class.method"),
        (r"C:\x\model.py:build", r"C:\x\model.py", None, "build"),
        (r"C:\x\model.py", r"C:\x\model.py", None, None),
        ("C:/x/model.py", "C:/x/model.py", None, None),
        ("mödel/größe.py:baue", "mödel/größe.py", None, "baue"),
        ("my models/a b.py:build", "my models/a b.py", None, "build"),
        ("a:b/model.py:build", "a:b/model.py", None, "build"),
        ("model.py", "model.py", None, None),
        ("src/", "src/", None, None),
        (".", ".", None, None),
        ("package.module", None, "package.module", None),
    ],
)
def test_parse(text: str, path: str | None, module: str | None, attribute: str | None) -> None:
    target = parse_target(text)
    assert (target.text, target.path, target.module, target.attribute) == (
        text,
        Path(path) if path else None,
        module,
        attribute,
    )


@each("text", ["", ":build", "model.py:", "model.py:1x", "model.py:a.", "my model:build", "a-b:c"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(UsageError, match=r"write|neither"):
        parse_target(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, which is the working directory."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(root: Path, tree: Tree) -> None:
    for name, text in tree.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")


def write_alone(root: Path, tree: Tree) -> None:
    """Make a project hold the files of a tree and nothing of an earlier case."""
    for old in root.iterdir():
        if old.name != "pyproject.toml":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    write(root, tree)


def run(text: str) -> Any:
    """Load and build."""
    target = parse_target(text)
    with Undo() as undo, contextlib.ExitStack() as stack:
        obj = load_target(target, undo)
        return call_build(obj, target, stack)


BUILD = "def build():\n    return (1,)\n"
GOOD: dict[str, tuple[Tree, str, Any]] = {
    "function": ({"m.py": BUILD}, "m.py:build", (1,)),
    "in a folder": ({"a/m.py": "import s\ndef build(): return (s.x,)", "a/s.py": "x = 3"}, "a/m.py:build", (3,)),
    "from the root": ({"a/m.py": "import s\ndef build(): return (s.x,)", "s.py": "x = 4"}, "a/m.py:build", (4,)),
    "import inside build": ({"m.py": "def build():\n import s\n return (s.x,)", "s.py": "x = 5"}, "m.py:build", (5,)),
    "module": ({"p/__init__.py": "", "p/m.py": BUILD}, "p.m:build", (1,)),
    "relative import": (
        {"p/__init__.py": "", "p/q/__init__.py": "", "p/s.py": "x = 6", "p/q/m.py": "from ..s import x\nout = (x,)"},
        "p/q/m.py:out",
        (6,),
    ),
    "sibling of a packaged file": (
        {"p/__init__.py": "", "p/s.py": "x = 7", "p/m.py": "from s import x\nout = (x,)"},
        "p/m.py:out",
        (7,),
    ),
    "package itself": ({"p/__init__.py": "from .s import out", "p/s.py": "out = (8,)"}, "p/__init__.py:out", (8,)),
    "library stem random": ({"random.py": "import random\nout = (random.random() < 1,)"}, "random.py:out", (True,)),
    "library stem torch": ({"torch.py": "import torch\nout = (int(torch.ones(1)),)"}, "torch.py:out", (1,)),
    "packaged library stem": (
        {
            "p/__init__.py": "",
            "p/logging.py": "import logging\nfrom .s import x\nout = (logging.INFO + x,)",
            "p/s.py": "x=1",
        },
        "p/logging.py:out",
        (21,),
    ),
    "sibling with a library's name": (
        {"m.py": "import tabnanny\nout = (tabnanny.x,)", "tabnanny.py": "x = 2"},
        "m.py:out",
        (2,),
    ),
    "odd stem": ({"my-model.v2.py": BUILD}, "my-model.v2.py:build", (1,)),
    "non-ASCII": ({"größe é.py": BUILD}, "größe é.py:build", (1,)),
    "main guard": ({"m.py": BUILD + "if __name__ == '__main__':\n    1 / 0"}, "m.py:build", (1,)),
    "argv": ({"m.py": "import sys\nout = tuple(a.rpartition('/')[2] for a in sys.argv)"}, "m.py:out", ("m.py",)),
    "dataclass": (
        {"m.py": "from dataclasses import dataclass\n@dataclass\nclass C:\n x: int = 2\ndef build(): return (C().x,)"},
        "m.py:build",
        (2,),
    ),
    "static method": ({"m.py": "class C:\n @staticmethod\n def f(): return (1,)"}, "m.py:C.f", (1,)),
    "class method": ({"m.py": "class C:\n x = 2\n @classmethod\n def f(cls): return (cls.x,)"}, "m.py:C.f", (2,)),
    "method": ({"m.py": "class C:\n x = 3\n def f(self): return (self.x,)"}, "m.py:C.f", (3,)),
    "async": ({"m.py": "async def build():\n return (4,)"}, "m.py:build", (4,)),
    "generator": ({"m.py": "def build():\n yield (5,)\n"}, "m.py:build", (5,)),
    "async generator": ({"m.py": "async def build():\n yield (6,)\n"}, "m.py:build", (6,)),
    "context manager": (
        {"m.py": "import contextlib\n@contextlib.contextmanager\ndef build():\n yield (7,)"},
        "m.py:build",
        (7,),
    ),
    "optional arguments": ({"m.py": "def build(x=8, *a, **k): return (x,)"}, "m.py:build", (8,)),
    "partial": (
        {"m.py": "import functools\ndef f(x): return (x,)\nbuild = functools.partial(f, 9)"},
        "m.py:build",
        (9,),
    ),
}


@each("name", GOOD)
def test_loads(project: Path, name: str) -> None:
    tree, text, expected = GOOD[name]
    write_alone(project, tree)
    assert run(text) == expected


MODEL = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self, n=2): super().__init__(n, n)\n"


@each("attribute", ["Net", "net", "Net.make"])
def test_models_are_made_or_taken(project: Path, attribute: str) -> None:
    write(project, {"m.py": MODEL + "    @classmethod\n    def make(cls): return cls()\nnet = Net()"})
    assert type(run(f"m.py:{attribute}")).__name__ == "Net"


BAD: dict[str, tuple[Tree, str, str]] = {
    "no file": ({"model.py": ""}, "modle.py:build", "modle.py does not exist: did you mean model.py?"),
    "no folder": ({}, "a/b/m.py:build", "nor does the folder a/b"),
    "folder": ({"a/m.py": ""}, "a/:build", "is a folder"),
    "no module": ({"model.py": ""}, "modell:build", "there is no module 'modell': did you mean model?"),
    "no submodule": ({"p/__init__.py": "", "p/model.py": ""}, "p.modell:build", "did you mean p.model?"),
    "no attribute": ({"m.py": BUILD}, "m.py:biuld", "m.py has no attribute 'biuld': did you mean 'build'?"),
    "candidates": ({"m.py": "def get(): ...\ndef f(x): ..."}, "m.py:build", "It has: get"),
    "no nested attribute": ({"m.py": "class C:\n def make(self): ..."}, "m.py:C.mke", "did you mean 'make'"),
    "attribute not named": ({"m.py": ""}, "m.py", "write m.py:build"),
    "syntax": ({"m.py": "x = 1\ndef build(:\n"}, "m.py:build", "m.py has a syntax error at line 2"),
    "syntax elsewhere": ({"m.py": "import s", "s.py": "def ("}, "m.py:build", "s.py has a syntax error at line 1"),
    "null bytes": ({"m.py": "x = '\0'"}, "m.py:build", "null bytes"),
    "import": ({"m.py": "import nosuchlib"}, "m.py:build", "m.py imports 'nosuchlib', which is not installed here"),
    "import near": ({"m.py": "import layer", "layers.py": ""}, "m.py:build", "did you mean layers?"),
    "import name": ({"m.py": "from os import nosuch"}, "m.py:build", "importing m.py raised ImportError"),
    "exit": ({"m.py": "import sys; sys.exit(2)"}, "m.py:build", "importing m.py called sys.exit(2): put the script"),
    "raises": (
        {"m.py": "raise ValueError('no data\\nat all')"},
        "m.py:build",
        "importing m.py raised ValueError: no data",
    ),
    "build raises": ({"m.py": "def build(): raise KeyError('x')"}, "m.py:build", "build() raised KeyError: 'x'"),
    "build exits": ({"m.py": "def build(): exit()"}, "m.py:build", "build() called sys.exit()"),
    "arguments": (
        {"m.py": "def build(cfg, *, lr, n=1): ..."},
        "m.py:build",
        "build needs arguments (cfg, lr): write a build() without arguments that calls build(cfg, lr)",
    ),
    "class with arguments": ({"m.py": MODEL.replace("n=2", "n")}, "m.py:Net", "Net needs arguments (n)"),
    "class of something else": ({"m.py": "class Config: ..."}, "m.py:Config", "not an nn.Module"),
    "method with arguments": ({"m.py": "class C:\n def f(self, x): ..."}, "m.py:C.f", "C.f needs arguments (x)"),
    "empty generator": ({"m.py": "def build():\n if 0: yield"}, "m.py:build", "yields nothing"),
    "async raises": ({"m.py": "async def build(): raise OSError('y')"}, "m.py:build", "build() raised OSError: y"),
    "teardown raises": (
        {"m.py": "def build():\n try: yield (1,)\n finally: 1 / 0"},
        "m.py:build",
        "the teardown of build() raised ZeroDivisionError",
    ),
}


@each("name", BAD)
def test_one_sentence_says_what_is_wrong(project: Path, name: str) -> None:
    tree, text, expected = BAD[name]
    write_alone(project, tree)
    with pytest.raises(GradlintError) as caught:
        run(text)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@each("name", ["syntax", "import", "exit", "raises", "build raises", "async raises"])
def test_traceback_is_the_users_alone(project: Path, name: str) -> None:
    tree, text, _ = BAD[name]
    write_alone(project, tree)
    with pytest.raises(TargetError) as caught:
        run(text)
    files = [line for line in caught.value.traceback.splitlines() if line.lstrip().startswith("File")]
    assert files and all("m.py" in line for line in files)


def test_missing_torch_says_what_to_install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, {"m.py": BUILD})
    monkeypatch.setitem(sys.modules, "torch", None)
    [failure] = gradlint.check("m.py:build").errors
    assert failure.message.endswith('pip install "torch-gradlint[torch]"')


def test_keyboard_interrupt_passes(project: Path) -> None:
    write(project, {"m.py": "def build(): raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        run("m.py:build")


def state() -> dict[str, Any]:
    return {
        "path": list(sys.path),
        "argv": list(sys.argv),
        "modules": dict(sys.modules),
        "meta_path": list(sys.meta_path),
        "bytecode": sys.dont_write_bytecode,
        "cwd": os.getcwd(),
    }


NOISY = "import sys, os, s\nsys.path.append('x'); sys.argv.append('y'); os.chdir('/')\nsys.modules['json'] = s\n"


@each("end", ["def build(): return ()", "raise ValueError", "raise KeyboardInterrupt"])
def test_everything_is_restored(project: Path, end: str) -> None:
    write(project, {"m.py": NOISY + end, "s.py": ""})
    import json  # noqa: F401  (NOISY replaces it)

    before = state()
    with contextlib.suppress(TargetError, KeyboardInterrupt):
        run("m.py:build")
    assert state() == before


def test_no_bytecode_is_written(project: Path) -> None:
    write(project, {"m.py": "import s\n" + BUILD, "s.py": ""})
    run("m.py:build")
    assert not list(project.rglob("*.pyc"))


def test_executed_afresh(project: Path) -> None:
    write(project, {"m.py": "import s\nout = (s.x,)", "s.py": "x = 1"})
    run("m.py:out")
    write(project, {"s.py": "x = 22"})
    assert run("m.py:out") == (22,)


def test_folders_without_init_are_executed_afresh(project: Path) -> None:
    write(project, {"m.py": "from a.b.c import s\nout = (s.x,)", "a/b/c/s.py": "x = 1"})
    run("m.py:out")
    write(project, {"a/b/c/s.py": "x = 22"})
    assert (run("m.py:out"), [name for name in sys.modules if name.partition(".")[0] == "a"]) == ((22,), [])


def test_two_projects_with_the_same_helper(project: Path) -> None:
    for name in "ab":
        write(
            project / name,
            {"pyproject.toml": "", "m.py": "import helper\nout = (helper.x,)", "helper.py": f"x='{name}'"},
        )
    assert [run("a/m.py:out"), run("b/m.py:out")] == [("a",), ("b",)]


def test_module_of_another_project_is_put_back(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write(other, {"helper_x.py": "x = 'other'"})
    write(project, {"m.py": "import helper_x\nout = (helper_x.x,)", "helper_x.py": "x = 'mine'"})
    sys.path.insert(0, str(other))
    try:
        import helper_x  # type: ignore[import-not-found]

        assert (run("m.py:out"), sys.modules["helper_x"]) == (("mine",), helper_x)
    finally:
        sys.path.remove(str(other))
        sys.modules.pop("helper_x", None)


def test_generator_is_closed_after_use(project: Path) -> None:
    write(project, {"m.py": "log = []\ndef build():\n try: yield log\n finally: log.append('closed')"})
    target = parse_target("m.py:build")
    with Undo() as undo, contextlib.ExitStack() as stack:
        obj = load_target(target, undo)
        log = call_build(obj, target, stack)
        during = list(log)
    assert (during, log) == ([], ["closed"])


def test_traceback_keeps_causes_and_drops_torch_glue() -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self) -> None:
            try:
                raise ValueError("inner")
            except ValueError as error:
                raise KeyError("outer") from error

    with pytest.raises(KeyError) as caught:
        torch.nn.Sequential(Net())[0]()
    text = user_traceback(caught.value)
    assert "ValueError: inner" in text and "direct cause" in text and "_call_impl" not in text


def test_colors_in_the_message_of_an_exception_are_dropped() -> None:
    error = user_error("build()", ValueError("only if \x1b[1myou trust the source\x1b[0m"))
    assert str(error) == "build() raised ValueError: only if you trust the source"
    assert "\x1b" not in error.traceback
