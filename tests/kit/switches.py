"""Switches for the conditions of modules: each condition can be deleted while the program runs.

`install` makes the modules that are imported after it ask a switch at every condition. As long as `deleted` is none of
them, they do what they did. Every guard, every operand of ``and`` and ``or``, every filter of a comprehension and both
arms of a conditional expression are a switch each. `felt` collects the switches whose deletion could have changed
something since it was last cleared: the condition was asked, and did not answer what would stand in its place. Where a
run does not feel a switch, the run need not be repeated without its condition.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

NONE = -1
_JUMPS = (ast.Continue, ast.Break, ast.Return)
_CHANGES = frozenset("add append discard extend insert pop popitem remove setdefault update".split())
"""Methods that change something while a condition is asked."""


@dataclass(frozen=True)
class Switch:
    """One condition that can be deleted."""

    number: int
    path: Path
    line: int
    what: str
    """What its deletion does to the file."""
    instead: bool
    """What stands in its place."""
    always_felt: bool
    """Whether something else than its truth may matter."""
    once: bool
    """Whether it is asked while the module is imported, and never again."""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}: {self.what}"


switches: list[Switch] = []
"""All switches of the modules imported so far, by number."""
deleted = NONE
"""Number of the condition that is deleted now."""
felt: set[int] = set()
"""Numbers of the switches that were felt."""


def install(*modules: str) -> None:
    """Give the conditions of modules and packages switches when they are imported.

    Raises:
        RuntimeError: one of them is imported already.
    """
    known = [name for name in sys.modules if any(_belongs(name, module) for module in modules)]
    if known:
        raise RuntimeError(f"already imported: {', '.join(known)}")
    sys.meta_path.insert(0, _Finder(modules))


def delete(number: int) -> None:
    """Delete a condition from now on, and put the one back that was deleted; `NONE` deletes none."""
    global deleted
    deleted = number


def _belongs(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _is_deleted(number: int) -> bool:
    return number == deleted


def _answered(number: int, answer: Any) -> Any:
    """Note whether the deletion of a condition could be felt, and return what the condition answered."""
    switch = switches[number]
    if switch.always_felt or bool(answer) is not switch.instead:
        felt.add(number)
    return answer


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not any(_belongs(name, module) for module in self._modules):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if (
            spec is not None
            and spec.origin is not None
            and isinstance(spec.loader, importlib.machinery.SourceFileLoader)
        ):
            spec.loader = _Loader(name, spec.origin)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        return compile(switched(Path(self.path)), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(_gl_is_deleted=_is_deleted, _gl_answered=_answered)
        super().exec_module(module)


def switched(path: Path) -> ast.Module:
    """Return the tree of a file whose conditions ask switches, which are added to `switches`."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return ast.fix_missing_locations(_Switching(path).visit(tree))


class _Switching(ast.NodeTransformer):
    """Puts switches around the conditions of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.AST) -> ast.AST:
        self._depth += 1
        try:
            return self.generic_visit(node)
        finally:
            self._depth -= 1

    def visit_If(self, node: ast.If) -> ast.AST:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return node
        is_guard = isinstance(node.body[-1], _JUMPS) and not node.orelse
        number = self._add(node.test, f"{'never' if is_guard else 'always'} {ast.unparse(node.test)}", not is_guard)
        self.generic_visit(node)
        node.test = self._asked(node.test, number)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        text = ast.unparse(node)
        numbers = [
            self._add(node.test, f"always the {arm} arm of {text}", arm == "first") for arm in ("first", "second")
        ]
        self.generic_visit(node)
        for number in numbers:
            node.test = self._asked(node.test, number)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        is_and = isinstance(node.op, ast.And)
        numbers = [
            self._add(v, f"without {ast.unparse(v)} in {'and' if is_and else 'or'}", is_and, v is node.values[-1])
            for v in node.values
        ]
        self.generic_visit(node)
        node.values = [self._asked(value, number) for value, number in zip(node.values, numbers, strict=True)]
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        numbers = [self._add(test, f"without the filter {ast.unparse(test)}", True) for test in node.ifs]
        self.generic_visit(node)
        node.ifs = [self._asked(test, number) for test, number in zip(node.ifs, numbers, strict=True)]
        return node

    def _add(self, test: ast.expr, what: str, instead: bool, is_value: bool = False) -> int:
        """Add a switch.

        Args:
            test: the condition.
            what: what its deletion does.
            instead: what stands in its place.
            is_value: whether its answer may be read as a value.
        """
        acts = any(
            isinstance(n, ast.NamedExpr) or (isinstance(n, ast.Attribute) and n.attr in _CHANGES)
            for n in ast.walk(test)
        )
        is_value = is_value and not isinstance(test, ast.Compare) and not _is_negation(test)
        number = len(switches)
        switches.append(Switch(number, self._path, test.lineno, what, instead, acts or is_value, once=not self._depth))
        return number

    def _asked(self, test: ast.expr, number: int) -> ast.expr:
        """Return ``instead if _gl_is_deleted(number) else _gl_answered(number, test)``."""
        is_deleted = ast.Call(ast.Name("_gl_is_deleted", ast.Load()), [ast.Constant(number)], [])
        answered = ast.Call(ast.Name("_gl_answered", ast.Load()), [ast.Constant(number), test], [])
        return ast.copy_location(ast.IfExp(is_deleted, ast.Constant(switches[number].instead), answered), test)


def _is_negation(test: ast.expr) -> bool:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
