"""The syntax of code that ran: the file at a path, the function of a code object, the call at a place."""

from __future__ import annotations

import ast
from pathlib import Path
from types import CodeType

import pytest
from cases import each

from gradlint.location import Location
from gradlint.source import lookup

TEXT = """
import functools

def plain(self):
    return lambda: 0

class Net:
    @functools.no_grad()
    @functools.wraps(
        plain
    )
    def method(this, x):
        def inner(self):
            return f(g(x), h.k(x))
        return inner

    async def later(me):
        pass
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "code.py"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


def codes(path: str) -> dict[str, CodeType]:
    """Return the code objects of the file by name."""
    found: dict[str, CodeType] = {}
    pending = [compile(TEXT, path, "exec")]
    while pending:
        code = pending.pop()
        found[code.co_name] = code
        pending += [const for const in code.co_consts if isinstance(const, CodeType)]
    return found


def test_file_that_cannot_be_read_has_no_syntax(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.py")
    assert lookup.syntax_tree(path).body == []
    assert lookup.call_at(path, Location(path, 1, 1, 1, 2)) is None


def test_syntax_of_a_file(path: str) -> None:
    assert len(lookup.syntax_tree(path).body) == 3


@each(
    ("name", "node", "owner", "self_name", "has_class", "is_def"),
    [
        ("<module>", "Module", "", "", False, False),
        ("plain", "FunctionDef", "", "", False, True),
        ("<lambda>", "Lambda", "", "", False, False),
        ("method", "FunctionDef", "Net", "this", True, True),
        ("inner", "FunctionDef", "", "", False, True),
        ("later", "AsyncFunctionDef", "Net", "me", True, True),
    ],
)
def test_function_of_code(
    path: str, name: str, node: str, owner: str, self_name: str, has_class: bool, is_def: bool
) -> None:
    code = codes(path)[name]
    function = lookup.function_of(code)
    assert function is not None
    assert (type(function.node).__name__, function.owner, function.self_name) == (node, owner, self_name)
    assert (lookup.class_of(code) is not None) is has_class
    assert (lookup.enclosing_function(code) is not None) is is_def


def test_code_of_no_file_has_no_function() -> None:
    [code] = [c for c in compile("def f(): pass", "/nowhere/at/all.py", "exec").co_consts if isinstance(c, CodeType)]
    assert lookup.function_of(code) is None
    assert lookup.class_of(code) is None
    assert lookup.enclosing_function(code) is None


def test_code_that_the_file_has_no_longer_has_no_function(path: str) -> None:
    [old] = [c for c in compile("def other(): pass", path, "exec").co_consts if isinstance(c, CodeType)]
    assert lookup.function_of(old) is None


def test_definition_is_at_its_def_line(path: str) -> None:
    assert lookup.definition_location(codes(path)["method"]).line == TEXT[: TEXT.index("def method")].count("\n") + 1


def test_definition_of_unknown_code_is_at_its_first_line() -> None:
    assert lookup.definition_location(compile("\nf()", "/nowhere/at/all.py", "exec")).line == 1


@each(("name", "line"), [("no_grad", 8), ("wraps", 9), ("absent", 8)])
def test_place_of_a_decorator(path: str, name: str, line: int) -> None:
    assert lookup.decorator_location(codes(path)["method"], frozenset({name})).line == line


def test_decorator_of_unknown_code_is_at_its_first_line() -> None:
    code = compile("\nf()", "/nowhere/at/all.py", "exec")
    assert lookup.decorator_location(code, frozenset({"no_grad"})).line == 1


@each(
    ("columns", "names", "call"),
    [
        ((22, 26), (), "g(x)"),
        ((20, 38), (), "f(g(x), h.k(x))"),
        ((1, 2), (), "f(g(x), h.k(x))"),
        ((1, 2), ("k",), "h.k(x)"),
        ((1, 2), ("absent",), "f(g(x), h.k(x))"),
    ],
)
def test_call_at_a_place(path: str, columns: tuple[int, int], names: tuple[str, ...], call: str) -> None:
    [line] = [n for n, text in enumerate(TEXT.split("\n"), 1) if "f(g(x)" in text]
    found = lookup.call_at(path, Location(path, line, columns[0], line, columns[1]), names)
    assert found is not None and ast.unparse(found) == call


def test_no_call_at_a_place(path: str) -> None:
    assert lookup.call_at(path, Location(path, 1, 1, 1, 2)) is None
