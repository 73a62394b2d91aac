"""A build() out of a running script: its own statements, those that the training step needs.

When the run is over, the frames of the script are still there. The innermost loop that trains becomes the step, and
what comes before it in the frames above is kept as far as the step needs it. Plain values are written down as they
are, and batches as tensors of the same shapes.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from gradlint.runner.draft_syntax import (
    argument_of,
    bound_by,
    call_of,
    last_name,
    loaded,
    merged_imports,
    path_to,
    read_first_by,
    root_of,
)
from gradlint.runner.literals import data, literal
from gradlint.source.files import source_text
from gradlint.source.script import is_main_guard, parsed_at_import
from gradlint.system import reading
from gradlint.traces.sites import is_project

_TRAINED = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
_CHANGED = (*_TRAINED, torch.Tensor)
_ABOUT = frozenset(
    "add_histogram add_image add_scalar append debug dump error flush format info join log log_metrics plot print save "
    "save_checkpoint set_description set_postfix show synchronize update_bar warning write writerow".split()
)
"""Names of calls that report or save, which a step does not need."""
_NOWHERE = object()


class NoDraft(Exception):
    """There is nothing to write, for the reason in the message."""


@dataclass
class _Level:
    """One function of the script that has not returned, and the statements in it before the line that runs."""

    frame: FrameType
    before: list[ast.stmt]
    """Those before the line, in their order, of all blocks around it."""
    line: ast.stmt
    """The statement that runs: the loop, or the call of the next function."""
    values: dict[str, Any] = field(default_factory=dict)
    kept: list[ast.stmt] = field(default_factory=list)

    def value(self, name: str) -> Any:
        """Return the value of a name, `_NOWHERE` if it has none."""
        if name in self.values:
            return self.values[name]
        return self.frame.f_globals.get(name, getattr(builtins, name, _NOWHERE))

    @property
    def is_module(self) -> bool:
        return self.frame.f_code.co_name == "<module>"


def draft(
    frame: FrameType, models: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], script: str
) -> str:
    """Return the text of a file with a build() like the training that runs.

    Args:
        frame: the innermost frame of the script.
        models: those that were recorded, by name.
        optimizers: those that were recorded, by name.
        script: the file of the script.

    Raises:
        NoDraft: there is no loop to be seen, or no name for a part of it.
    """
    return _Draft(frame, models, list(optimizers.values()), os.path.abspath(script)).text()


class _Draft:
    def __init__(
        self, frame: FrameType, models: Mapping[str, nn.Module], optimizers: list[torch.optim.Optimizer], script: str
    ) -> None:
        self._script = script
        self._trees: dict[str, ast.Module] = {}
        self._levels = list(self._levels_above(frame))
        if not self._levels:
            raise NoDraft("the loop that trains is not in the script's own code")
        self._inner = self._levels[0]
        self._models = {name: self._name_of(model, "model") for name, model in models.items()}
        self._optimizers = [self._name_of(optimizer, "optimizer") for optimizer in optimizers]
        self._imports: dict[str, None] = {}
        self._plain: dict[str, str] = {}
        """Name → expression, for the head of build()."""
        self._definitions: list[ast.stmt] = []
        self._is_importable = self._script_is_importable()

    # -- what runs ------------------------------------------------------------------------------------------------

    def _levels_above(self, frame: FrameType | None) -> Iterator[_Level]:
        """Yield the functions that have not returned, from the one with the loop to the module.

        The loop is the innermost one that runs backward and steps, else the innermost one.
        """
        start = self._frame_with(frame, is_whole=True) or self._frame_with(frame, is_whole=False)
        if start is None:
            return
        frame, loop = start
        found = False
        while frame is not None:
            code = frame.f_code
            if is_project(code.co_filename) and os.path.isfile(code.co_filename):
                body = self._body(code.co_filename, code.co_name, code.co_firstlineno)
                path = path_to(body, frame.f_lineno) if body is not None else []
                if not path:
                    raise NoDraft(f"{code.co_name}() is not found in {os.path.basename(code.co_filename)}")
                if not found:
                    path = path[: [statement for _, statement in path].index(loop) + 1]
                before = [s for block, at in path for s in block[: block.index(at)]]
                yield _Level(frame, before, path[-1][1], dict(frame.f_locals))
                found = True
                if code.co_name == "<module>":
                    return
            frame = frame.f_back

    def _frame_with(self, frame: FrameType | None, *, is_whole: bool) -> tuple[FrameType, ast.stmt] | None:
        """Return the innermost frame whose line is in a loop, with the loop; None without one.

        With `is_whole`, the loop must call `backward` and `step` itself.
        """
        while frame is not None:
            code = frame.f_code
            if is_project(code.co_filename) and os.path.isfile(code.co_filename):
                body = self._body(code.co_filename, code.co_name, code.co_firstlineno)
                path = path_to(body, frame.f_lineno) if body is not None else []
                for _, statement in reversed(path):
                    if isinstance(statement, (ast.For, ast.While)):
                        calls = {last_name(n.func) for n in ast.walk(statement) if isinstance(n, ast.Call)}
                        if not is_whole or {"backward", "step"} <= calls:
                            return frame, statement
            frame = frame.f_back
        return None

    def _body(self, file: str, name: str, first: int) -> list[ast.stmt] | None:
        if file not in self._trees:
            self._trees[file] = source_text(file, reading.read(file)).parsed()
        tree = self._trees[file]
        if name == "<module>":
            return tree.body
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
                if first in (node.lineno, *(d.lineno for d in node.decorator_list)):
                    return node.body
        return None

    def _script_is_importable(self) -> bool:
        """Return True if importing the script neither trains nor parses arguments."""
        outer = self._levels[-1]
        path = path_to(self._trees[outer.frame.f_code.co_filename].body, outer.frame.f_lineno)
        return outer.is_module and bool(path) and is_main_guard(path[0][1]) and parsed_at_import(
            self._trees[outer.frame.f_code.co_filename]
        ) is None  # fmt: skip

    def _name_of(self, wanted: Any, what: str) -> str:
        for level in self._levels:
            for name, value in level.values.items():
                if value is wanted and name.isidentifier():
                    return name
                held = getattr(value, "__dict__", None) if not isinstance(value, (ModuleType, type)) else None
                if isinstance(held, dict) and not isinstance(value, _TRAINED):
                    inside = next((key for key, part in held.items() if part is wanted), None)
                    if inside is not None:
                        return f"{name}.{inside}"
        raise NoDraft(f"no variable of the script holds its {what} ({type(wanted).__name__})")

    # -- what is kept ---------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the whole file."""
        loop = self._inner.line
        assert isinstance(loop, (ast.For, ast.While))
        step = self._filtered(loop.body, self._inner)
        if not step:
            raise NoDraft("nothing of the loop is left that trains")
        step = [_Unlooped().visit(statement) for statement in step]
        step = [part for statement in step for part in self._folded(statement, self._inner)]
        bound = set(bound_by(step))
        needed = loaded(step) | {name.partition(".")[0] for name in (*self._models.values(), *self._optimizers)}
        read_first = bound & read_first_by(step)
        needed = self._settled((needed - bound) | read_first, self._inner)
        for number, level in enumerate(self._levels):
            needed = self._slice(level, needed)
            if number + 1 < len(self._levels):
                needed = self._passed(level, self._levels[number + 1], needed)
        return self._file(step, sorted(read_first & set(bound_by(step))))

    def _slice(self, level: _Level, needed: set[str]) -> set[str]:
        """Keep the statements of a function that bind or change what is needed.

        Returns what these need from outside.
        """
        inside = level.is_module and self._is_importable
        for statement in reversed(level.before):
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)) and inside:
                continue
            if not self._is_kept(statement, needed, level):
                continue
            is_block = isinstance(statement, (ast.If, ast.With))
            for whole in self._filtered([statement], level) if is_block else [statement]:
                parts = self._folded(whole, level)
                level.kept[:0] = parts
                for part in reversed(parts):
                    if isinstance(part, (ast.Assign, ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
                        needed = needed - set(bound_by([part], plain=True))
                    needed |= self._settled(loaded([part]), level)
        if inside or not level.is_module:
            needed = {name for name in needed if not self._from_outside(name, level)}
        return needed

    def _is_kept(self, statement: ast.stmt, needed: set[str], level: _Level) -> bool:
        if set(bound_by([statement])) & needed:
            return True
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if last_name(call.func) in _ABOUT or not self._is_training_call(call, level):
                return False
            return bool(loaded([statement]) & needed)
        if isinstance(statement, ast.For) and loaded([statement.iter]) & needed:  # for p in model.parameters(): ...
            needed = needed | set(bound_by([statement], plain=True))
        if isinstance(statement, (ast.If, ast.For, ast.With, ast.Try, ast.While)):
            blocks = [part for name in ("body", "orelse", "finalbody") for part in getattr(statement, name, [])]
            return any(self._is_kept(part, needed, level) for part in blocks)
        if isinstance(statement, (ast.Assign, ast.AugAssign)):  # model.head = ..., x[0] = ...
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            return any(not isinstance(t, ast.Name) and root_of(t) in needed for t in targets)
        return False

    def _filtered(self, statements: Sequence[ast.stmt], level: _Level) -> list[ast.stmt]:
        """Return statements without those that report, save or only fetch data."""
        kept: list[ast.stmt] = []
        for statement in statements:
            if isinstance(statement, ast.Expr):
                if isinstance(statement.value, ast.Call) and self._is_training_call(statement.value, level):
                    kept.append(statement)
            elif isinstance(statement, (ast.If, ast.With, ast.For)):
                body = self._filtered(statement.body, level)
                other = self._filtered(getattr(statement, "orelse", []), level)
                if any(not isinstance(s, (ast.Break, ast.Continue)) for s in (*body, *other)):
                    fields = {**dict(ast.iter_fields(statement)), "body": body or [ast.Pass()]}
                    if "orelse" in fields:
                        fields["orelse"] = other
                    kept.append(ast.copy_location(type(statement)(**fields), statement))
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and self._is_data(statement, level):
                continue
            elif not isinstance(statement, (ast.Pass, ast.Import, ast.ImportFrom, ast.Assert, ast.Delete)):
                kept.append(statement)
        return kept

    def _is_training_call(self, call: ast.Call, level: _Level) -> bool:
        """Return True if a call may change a model, an optimizer or gradients."""
        name = last_name(call.func)
        if name in _ABOUT:
            return False
        if name in ("backward", "step", "zero_grad", "update", "unscale_", "clip_grad_norm_"):
            return not (name == "update" and "tqdm" in type(level.value(root_of(call.func))).__module__)
        if isinstance(call.func, ast.Attribute) and isinstance(_evaluated(call.func.value, level), _CHANGED):
            return True
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        return any(isinstance(_evaluated(argument, level), _TRAINED) for argument in given)

    def _is_data(self, statement: ast.Assign | ast.AnnAssign, level: _Level) -> bool:
        """Return True if a statement of the loop only makes data.

        Data is written by its shape instead.
        """
        names = list(bound_by([statement], plain=True))
        if not names or statement.value is None:
            return False
        if any(isinstance(level.value(n), _TRAINED) for n in loaded([statement])):
            return False
        return all(self._has_data(name, level) for name in names)

    def _has_data(self, name: str, level: _Level) -> bool:
        value = level.values.get(name, _NOWHERE)
        return value is not _NOWHERE and literal(value) is None and data(value) is not None

    def _settled(self, names: Iterable[str], level: _Level) -> set[str]:
        """Return the names that statements must bind; write down the others as they are."""
        left = set()
        inner = level is self._inner
        loop_bound = set(bound_by([self._inner.line])) if inner else set()
        for name in names:
            value = level.value(name)
            if value is _NOWHERE and not hasattr(builtins, name):
                left.add(name)
            elif name in level.values or name in level.frame.f_globals:
                expression = literal(value)
                if expression is None and name in loop_bound:
                    expression = data(value)
                    if expression is None and not isinstance(value, _TRAINED) and not _has_grad(value):
                        raise NoDraft(f"{name} in the loop is {type(value).__name__}, which is no plain tensor")
                if expression is None:
                    left.add(name)
                else:
                    self._plain.setdefault(name, expression)
        return left

    def _folded(self, statement: ast.stmt, level: _Level) -> list[ast.stmt]:
        """Return a statement with the plain values of settings in the place of their attributes.

        Of a branch that these decide, the statements that ran are left.
        """
        folded = _Fold(level).visit(statement)
        statements = folded if isinstance(folded, list) else [folded]
        return [ast.fix_missing_locations(part) for part in statements if not isinstance(part, ast.Pass)]

    def _passed(self, level: _Level, above: _Level, needed: set[str]) -> set[str]:
        """Return what a function needs from its caller.

        The arguments of the call are bound to its parameters.
        """
        code = level.frame.f_code
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        call = call_of(above.line, code.co_name)
        outside: set[str] = needed - set(parameters)
        bindings: list[ast.stmt] = []
        for position, name in enumerate(parameters):
            if name not in needed:
                continue
            expression = argument_of(call, position, name, bool(parameters) and parameters[0] == "self")
            if expression is None:
                raise NoDraft(f"the call of {code.co_name}() does not show what its {name} is")
            expression = _Fold(above).visit(expression)
            if not (isinstance(expression, ast.Name) and expression.id == name):
                bindings.append(ast.Assign([ast.Name(name, ast.Store())], expression))
            outside |= self._settled(loaded([ast.Expr(expression)]), above)
        level.kept[:0] = [ast.fix_missing_locations(ast.copy_location(b, above.line)) for b in bindings]
        return outside

    def _from_outside(self, name: str, level: _Level) -> bool:
        """Import a global name of a function; return False if the script's statements must bind it."""
        if name in level.values and not level.is_module:
            return False
        globals_ = level.frame.f_globals
        if name not in globals_:
            return False
        value, module = globals_[name], globals_.get("__name__", "")
        if isinstance(value, ModuleType):
            self._import(f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else ""))
            return True
        if module == "__main__" and not self._is_importable:
            return False
        origin = getattr(value, "__module__", None)
        if module == "__main__" and isinstance(origin, str) and origin != "__main__" and self._is_named(value, origin):
            self._import(f"from {origin} import {value.__name__}" + (f" as {name}" if value.__name__ != name else ""))
        else:
            stem = os.path.splitext(os.path.basename(self._script))[0] if module == "__main__" else module
            if not all(part.isidentifier() for part in stem.split(".")):
                raise NoDraft(f"{stem} is no module name, so nothing can import it")
            self._import(f"from {stem} import {name}")
        return True

    def _is_named(self, value: Any, module: str) -> bool:
        name = getattr(value, "__name__", None)
        return isinstance(name, str) and getattr(sys.modules.get(module), name, None) is value

    def _import(self, line: str) -> None:
        self._imports[line] = None

    # -- the text -------------------------------------------------------------------------------------------------

    def _file(self, step: list[ast.stmt], outer: list[str]) -> str:
        kept = [statement for level in reversed(self._levels) for statement in level.kept]
        heads = [s for s in kept if isinstance(s, (ast.Import, ast.ImportFrom))]
        definitions = [s for s in kept if isinstance(s, (ast.FunctionDef, ast.ClassDef)) and s.col_offset == 0]
        rest = [s for s in kept if s not in heads and s not in definitions]
        read = loaded(definitions)
        above = sorted(f"{name} = {text}" for name, text in self._plain.items() if name in read)
        plain = sorted(f"{name} = {text}" for name, text in self._plain.items() if name not in read)
        for module in ("torch", "argparse", "pathlib"):
            if any(f"{module}." in line for line in (*above, *plain)):
                self._import(f"import {module}")
        imports = merged_imports([*self._imports, *map(ast.unparse, heads)])
        body = [*plain, *(line for s in rest for line in ast.unparse(s).splitlines())]
        inside = [f"nonlocal {', '.join(outer)}"] if outer else []
        inside += [line for s in step for line in ast.unparse(s).splitlines()]
        names = list(self._models.items())
        model = names[0][1] if len(names) == 1 else "{" + ", ".join(f"{n!r}: {v}" for n, v in names) + "}"
        optimizers = self._optimizers
        optimizer = optimizers[0] if len(optimizers) == 1 else f"[{', '.join(optimizers)}]"
        function = [
            "def build():",
            *(f"    {line}" if line else "" for line in body),
            "",
            "    def step():",
            *(f"        {line}" if line else "" for line in inside),
            "",
            f'    return {{"model": {model}, "optimizer": {optimizer}, "step": step}}',
        ]
        head = "\n".join(imports) + ("\n\n" + "\n".join(above) if above else "")
        return "\n\n\n".join([head, *map(ast.unparse, definitions), "\n".join(function)]) + "\n"


class _Fold(ast.NodeTransformer):
    """Puts plain values in the place of attributes, members and lengths of settings and data."""

    def __init__(self, level: _Level) -> None:
        self._level = level

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self._value(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return self._value(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return (node.body if node.test.value else node.orelse) or [ast.copy_location(ast.Pass(), node)]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "len" and len(node.args) == 1:
            return self._value(node)
        return self.generic_visit(node)

    def _value(self, node: ast.expr) -> ast.AST:
        if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            return self.generic_visit(node)
        try:
            value = self._read(node)
        except Exception:  # whatever a property of user code raises
            value = _NOWHERE
        text = literal(value) if value is not _NOWHERE else None
        if text is None or ("." in text and not isinstance(value, (float, str))):
            return self.generic_visit(node)
        return ast.parse(text, mode="eval").body

    def _read(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            value = self._level.value(node.id)
            if value is _NOWHERE or isinstance(value, (*_TRAINED, torch.Tensor, ModuleType, type)):
                return _NOWHERE
            return value
        if isinstance(node, ast.Attribute):
            inside = self._read(node.value)
            is_setting = inside is not _NOWHERE and not isinstance(inside, _CHANGED)
            return getattr(inside, node.attr) if is_setting else _NOWHERE
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            inside = self._read(node.value)
            key: Any = node.slice.value
            return inside[key] if isinstance(inside, (dict, list, tuple)) else _NOWHERE
        if isinstance(node, ast.Call):
            inside = self._read(node.args[0])
            return _NOWHERE if inside is _NOWHERE else len(inside)
        return _NOWHERE


def _evaluated(node: ast.expr, level: _Level) -> Any:
    """Return the value of a name or of attributes of one.

    Of a call, it is that of what is called upon.
    """
    if isinstance(node, ast.Name):
        return level.value(node.id)
    if isinstance(node, ast.Attribute):
        inside = _evaluated(node.value, level)
        if inside is _NOWHERE:
            return _NOWHERE
        try:
            return getattr(inside, node.attr)
        except Exception:  # whatever a property of user code raises
            return _NOWHERE
    if isinstance(node, ast.Subscript):
        return _evaluated(node.value, level)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _evaluated(node.func.value, level)
    return _NOWHERE


class _Unlooped(ast.NodeTransformer):
    """Ends the step where the loop went on or ended."""

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return ast.copy_location(ast.Return(None), node)

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return ast.copy_location(ast.Return(None), node)

    def visit_For(self, node: ast.For) -> ast.AST:
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node


def _has_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad
