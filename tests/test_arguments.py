"""Arguments of build(): what is given, what the parameters get, and what is said where they do not fit."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, Optional

import pytest
from cases import each
from snippets import Run, folder, run, write

from gradlint.errors import TargetError, UsageError
from gradlint.load.arguments import files
from gradlint.load.arguments.fill import filled
from gradlint.load.arguments.given import configured, given

__all__ = ["folder", "run"]


class Kind(Enum):
    SGD = "sgd"
    ADAM = "adam"


@dataclass
class Rate:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass
class Config:
    hidden: int
    rate: Rate = field(default_factory=lambda: Rate(lr=0.5))
    kind: Kind = Kind.SGD
    note: str | None = None


class Size(NamedTuple):
    width: int
    height: int = 1


FILES = {
    "a.json": '{"hidden": 3, "rate": {"lr": 0.25}}',
    "a.toml": 'hidden = 3\nkind = "adam"',
    "a.yaml": "hidden: 3\nrate:\n  lr: 1e-2\n",
    "broken.json": "{",
    "broken.yaml": "a: [",
}


def config(cfg: Config) -> None: ...
def begun(cfg: Config = Config(7)) -> None: ...  # noqa: B008
def untyped(cfg, lr=1.0, out_path=None): ...  # type: ignore[no-untyped-def]
def typed(a: str = "", b: int = 0, c: float = 0, d: bool = False, e: Path = Path(), f: Optional[int] = 1,  # noqa: UP045
          g: list[float] = [], h: Literal["x", "y"] = "x", i: Kind = Kind.SGD, j: Annotated[int, "n"] = 1,  # noqa: B006
          k: "dict[str, Any] | str" = "", m: Size = Size(1)) -> None: ...  # fmt: skip # noqa: B008, UP037
def only(*, n: int, **more: Any) -> None: ...
def space(ns: SimpleNamespace, args: argparse.Namespace) -> None: ...


FITTED: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "JSON into a dataclass": (config, ["cfg=a.json"], {"cfg": Config(3, Rate(0.25))}),
    "TOML, a member by its value": (config, ["cfg=a.toml"], {"cfg": Config(3, kind=Kind.ADAM)}),
    "YAML, a number without a point": (config, ["cfg=a.yaml"], {"cfg": Config(3, Rate(0.01))}),
    "a key over a file": (config, ["cfg=a.json", "cfg.rate.lr=1"], {"cfg": Config(3, Rate(1.0))}),
    "the default of a field stays": (
        config, ["cfg.hidden=3", "cfg.rate.betas=[0, 1]"], {"cfg": Config(3, Rate(0.5, (0.0, 1.0)))},
    ),
    "the default of the parameter stays": (begun, ["cfg.note=3"], {"cfg": Config(7, note="3")}),
    "None": (begun, ["cfg.note=null"], {"cfg": Config(7)}),
    "without an annotation": (
        untyped, ["cfg=a.json", "lr=2e-1", "out_path=a.json"], {"lr": 0.2, "out_path": "a.json"},
    ),
    "texts stay texts": (typed, ["a=3", "e=a/b.json"], {"a": "3", "e": Path("a/b.json")}),
    "numbers": (typed, ["b=3", "c=1", "d=True", "f=None", "j=4"], {"b": 3, "c": 1.0, "d": True, "f": None, "j": 4}),
    "lists and choices": (typed, ["g=[1, 2]", "h=y", "i=ADAM"], {"g": [1.0, 2.0], "h": "y", "i": Kind.ADAM}),
    "a union": (typed, ["k.a.b=1"], {"k": {"a": {"b": 1}}}),
    "a named tuple": (typed, ["m.width=2"], {"m": Size(2)}),
    "any keyword": (only, ["n=1", "x=[true]"], {"n": 1, "more": {"x": [True]}}),
    "namespaces": (
        space, ["ns.a=1", "args.lr=x"], {"ns": SimpleNamespace(a=1), "args": argparse.Namespace(lr="x")},
    ),
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each("name", FITTED)
def test_a_value_is_what_the_parameter_asks_for(data: Path, name: str) -> None:
    function, texts, expected = FITTED[name]
    made = filled(function, given(texts).tree(), "build").arguments
    assert {key: made[key] for key in expected} == expected
    assert all(type(made[key]) is type(value) for key, value in expected.items())


def test_a_table_without_an_annotation_has_keys_and_attributes(data: Path) -> None:
    cfg = filled(untyped, given(["cfg=a.json"]).tree(), "build").arguments["cfg"]
    assert (cfg.rate.lr, cfg["rate"]["lr"]) == (0.25, 0.25)


REFUSED: dict[str, tuple[Any, list[str], str]] = {
    "unknown": (config, ["cgf=1", "cfg=a.json"], "build takes no argument 'cgf'; did you mean cfg?"),
    "unknown field": (config, ["cfg.hiden=1"], "cfg: Config has no 'hiden'; did you mean hidden?"),
    "missing field": (config, ["cfg.rate.lr=1"], "cfg: Config needs hidden: give --arg cfg.hidden=VALUE"),
    "missing": (config, [], "build needs arguments (cfg): give --arg cfg=conf.yaml, or args in"),
    "wrong kind": (config, ["cfg.hidden=x"], "cfg.hidden needs a whole number, and 'x' is given"),
    "no number": (typed, ["c=x"], "c needs a number, and 'x' is given"),
    "no list": (typed, ["g=1"], "g needs a list, and 1 is given: write it as in --arg g='[1, 2]'"),
    "no choice": (typed, ["h=z"], "h must be one of 'x', 'y', not 'z'"),
    "no table": (config, ["cfg=3"], "cfg needs a Config, and 3 is given: give a table or a file of one"),
    "no keys": (config, ["cfg=3", "cfg.hidden=1"], "cfg.hidden: cfg is 3, which has no keys"),
    "no file": (config, ["cfg=b.json"], "the argument cfg: b.json cannot be read: No such file"),
    "broken JSON": (config, ["cfg=broken.json"], "the argument cfg: broken.json cannot be parsed: Expecting"),
    "broken YAML": (config, ["cfg=broken.yaml"], "the argument cfg: broken.yaml cannot be parsed: while parsing"),
}


@each("name", REFUSED)
def test_a_value_that_does_not_fit_is_named(data: Path, name: str) -> None:
    function, texts, expected = REFUSED[name]
    with pytest.raises(TargetError) as raised:
        filled(function, given(texts).tree(), "build")
    assert expected in str(raised.value)


def test_yaml_without_pyyaml_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(TargetError, match=r"pip install 'torch-gradlint\[yaml\]', or write JSON or TOML"):
        files.content("a.yaml", "cfg")


def test_yaml_runs_nothing(data: Path) -> None:
    (data / "c.yaml").write_text("!!python/object/apply:os.mkdir [made]")
    with pytest.raises(TargetError, match="could not determine a constructor"):
        files.content("c.yaml", "cfg")
    assert not (data / "made").exists()


@each("text", ["lr", "=1", "a b=1", "a..b=1", "1=2"])
def test_an_argument_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write NAME=VALUE"):
        given([text])


def test_the_command_line_changes_the_configuration(data: Path) -> None:
    below = configured([("cfg", "a.json"), ("lr", "3")], ["--x"], str(data))
    both = given(["cfg.hidden=4"]).over(below)
    made = filled(untyped, both.tree(), "build").arguments
    assert (made["cfg"], made["lr"], both.argv) == ({"hidden": 4, "rate": {"lr": 0.25}}, "3", ("--x",))
    assert given([], "a 'b c'").over(below).argv == ("a", "b c")


def test_omegaconf_where_the_annotation_asks_for_it(data: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")

    def build(cfg: omegaconf.DictConfig) -> None: ...

    build.__annotations__["cfg"] = omegaconf.DictConfig
    (data / "i.yaml").write_text("base: 3\nhidden: ${base}\n")
    cfg = filled(build, given(["cfg=i.yaml", "cfg.lr=0.1"]).tree(), "build").arguments["cfg"]
    assert isinstance(cfg, omegaconf.DictConfig) and (cfg.hidden, cfg.lr) == (3, 0.1)
    with pytest.raises(TargetError, match="prints with --cfg job"):
        filled(build, given(['cfg.defaults=["a"]']).tree(), "build")


MODEL = """
import argparse
import sys
import torch

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, required=True)
width = parser.parse_args().width


def build(lr: float, freeze=False):
    model = torch.nn.Sequential(torch.nn.Linear(width, 2), torch.nn.Linear(2, 2))
    if freeze:
        model[0].requires_grad_(False)
    print("width", width, "lr", lr, file=sys.stderr)
    return model, torch.optim.SGD(model.parameters(), lr)
"""


@pytest.mark.slow
def test_every_command_on_targets_gives_arguments(run: Run) -> None:
    write(Path("m.py"), MODEL)
    target = ("m.py:build", "--arg", "lr=0.5", "--argv", "--width 3")
    for command in (("check", *target), ("summary", *target), ("cost", *target), ("lock", *target),
                    ("why", target[0], "0.*", *target[1:]), ("map", "-o", "m.svg", *target)):  # fmt: skip
        made = run(*command)
        assert (command, made.code, "width 3 lr 0.5" in made.err) == (command, 0, True), made.err
    assert "GL301" in run("check", *target, "--arg", "freeze=true").out
    write(
        Path("gradlint.toml"), '[targets."m.py:build"]\nargs = { lr = 0.5, freeze = true }\nargv = ["--width", "4"]\n'
    )
    assert "width 4 lr 0.5" in (made := run("check")).err and "GL301" in made.out
    assert run("show-settings").out.endswith('args = { "lr" = 0.5, "freeze" = true }\nargv = ["--width", "4"]\n')


def test_arguments_without_a_target_are_refused(run: Run) -> None:
    write(Path("m.py"), "x = 1\n")
    made = run("check", "m.py", "--arg", "lr=1")
    assert (made.code, made.err) == (
        2, "error: --arg and --argv are for targets, as in model.py:build, and none is named\n",
    )  # fmt: skip
