"""The order in which code clears, computes and applies gradient, and switches between train and eval mode.

Calls of functions of the same file count with what they do there.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gradlint.source.file import SourceModule
from gradlint.source.kinds import Kind
from gradlint.source.scopes import FUNCTIONS, Function, dotted_text, last_name, own_nodes, self_name

Loop: TypeAlias = ast.For | ast.AsyncFor | ast.While


_MAX_DEPTH = 4


_MAX_CALLS = 300
"""Number of calls that are followed from one function; further ones count as unknown."""


_CLEARS = frozenset("zero_grad clear_grad clear_gradients clear_grads zero_gradients zero_grads cleargrads".split())


_SAME_MODEL = frozenset("module _orig_mod".split())
"""Attributes of wrappers that give the wrapped model."""


_PLAIN_METHODS = frozenset(
    "item append extend tolist detach cpu cuda to numpy clone size numel format join keys items values get write flush "
    "add_scalar add_scalars info debug warning set_description set_postfix is_available synchronize time perf_counter "
    "parameters named_parameters modules buffers children state_dict autocast scale unscale_ "
    "clip_grad_norm_ clip_grad_value_ scale_loss float half sum mean".split()
)
"""Methods that touch no gradient, of whatever object."""


_PLAIN_FUNCTIONS = frozenset(
    "print len float int str round range enumerate zip sum min max abs isinstance next iter list tuple dict".split()
)


_GRADIENT_FUNCTIONS = ("torch.autograd.", "torch.nn.utils.", "torch.func.")


_COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)


_MODELS = re.compile(r"(^|[._])(self|cls|\w*model|\w*net|agent|policy|trainer|learner|engine|state)$", re.I)
"""Names of what may contain a model or an optimizer."""


_CALLBACKS = re.compile(r"callback|hook|trainer|learner|runner|event|inherited:", re.I)
"""Names of what may act on a model that no argument shows."""


class EffectKind(enum.Enum):
    """What code does to gradients or modes."""

    BACKWARD = enum.auto()
    STEP = enum.auto()
    CLEAR_GRAD = enum.auto()
    ACCESS_GRAD = enum.auto()
    """``.grad`` is read or written by hand."""
    TRAIN_MODE = enum.auto()
    EVAL_MODE = enum.auto()
    CALL = enum.auto()
    """An object is called: the forward of a model, perhaps."""
    UNKNOWN = enum.auto()
    """A call of code that is not in the file."""


@dataclass(frozen=True)
class CodeEffect:
    """What one expression does to one optimizer or model."""

    kind: EffectKind
    object_name: str
    """Text of the optimizer or model, as the judged function writes it; empty if unknown."""
    node: ast.expr
    argument_names: frozenset[str] = frozenset()
    """Texts of the arguments of an unknown call."""
    is_unconditional: bool = True
    """True if it runs whenever the statement that was asked about runs."""
    is_known_optimizer: bool = True
    """Of a step: True if the file shows that the object is an optimizer of torch."""
    trained_model: str = ""
    """Of a step: text of the model whose parameters the optimizer was made of; empty if unknown."""
    is_before_exit: bool = False
    """True if the function or loop around it ends in the same block."""
    is_grad_enabled: bool = True
    """True unless it runs in a region with grad mode off."""
    is_own: bool = True
    """True if the judged function itself contains it."""

    def may_affect(self, objects: Collection[str]) -> bool:
        """Return True if it is an unknown call that may change one of some optimizers or models.

        One of them, or an object that may contain it, is an argument.
        """
        if self.kind is not EffectKind.UNKNOWN:
            return False
        if _CALLBACKS.search(self.object_name):
            return True
        return any(
            _MODELS.search(name) or any(o == name or o.startswith(f"{name}.") for o in objects)
            for name in self.argument_names
        )


@dataclass(frozen=True)
class _Argument:
    """An argument of a call that is followed."""

    text: str
    """Its text in the judged function."""
    value: ast.expr
    """The expression that the first caller passes."""


class FunctionEffects:
    """What the statements of one function do, and what the functions do that they call."""

    def __init__(self, module: SourceModule, function: ast.Module | Function) -> None:
        self.module = module
        self.function = function
        self._effects: dict[ast.stmt, list[CodeEffect]] = {}
        self._followed = 0

    def of(self, statement: ast.stmt) -> list[CodeEffect]:
        """Return the effects of a statement, in order."""
        if statement not in self._effects:
            self._effects[statement] = list(self._effects_of(statement, {}, (self.function,)))
        return self._effects[statement]

    def own_statements(self) -> Iterator[ast.stmt]:
        """Yield the simple statements of the function."""
        return (n for n in own_nodes(self.function) if isinstance(n, ast.Expr | ast.Assign))

    def own_steps(self) -> Iterator[CodeEffect]:
        """Yield the steps of optimizers that the function itself takes."""
        for statement in self.own_statements():
            yield from (e for e in self.of(statement) if e.kind is EffectKind.STEP and e.is_own)

    def of_body(self, loop: Loop) -> list[CodeEffect]:
        """Return the effects of one iteration of a loop, in order."""
        return [effect for statement in loop.body for effect in self.of(statement)]

    def _effects_of(
        self, root: ast.stmt, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> Iterator[CodeEffect]:
        for node in own_nodes(ast.Module(body=[root], type_ignores=[])):
            if isinstance(node, ast.Attribute) and node.attr == "grad" and not self._is_only_measured(node):
                yield self._effect(EffectKind.ACCESS_GRAD, "", node, root)
            elif isinstance(node, ast.Attribute) and node.attr in _CLEARS and not self._is_uncalled(node):
                yield self._effect(EffectKind.CLEAR_GRAD, self._text(node.value, arguments, call_stack), node, root)
            elif isinstance(node, ast.Attribute) and node.attr == "training" and isinstance(node.ctx, ast.Store):
                yield self._effect(EffectKind.TRAIN_MODE, self._text(node.value, arguments, call_stack), node, root)
            elif isinstance(node, ast.Call):
                for effect in self._effects_of_call(node, arguments, call_stack):
                    yield dataclasses.replace(
                        effect,
                        is_unconditional=effect.is_unconditional and self._is_unconditional(node, root),
                        is_before_exit=effect.is_before_exit or self._is_before_exit(node, root),
                        is_grad_enabled=effect.is_grad_enabled and not self._is_grad_off(node),
                    )

    def _effect(self, kind: EffectKind, object_name: str, node: ast.expr, root: ast.stmt) -> CodeEffect:
        return CodeEffect(kind, object_name, node, is_unconditional=self._is_unconditional(node, root))

    def _effects_of_call(
        self, call: ast.Call, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> Iterator[CodeEffect]:
        callee = self._callee(call.func)
        may_follow = len(call_stack) <= _MAX_DEPTH and self._followed < _MAX_CALLS
        if callee is not None and callee not in call_stack and may_follow:
            self._followed += 1
            yield from self._effects_of_callee(call, callee, arguments, call_stack)
            return
        if isinstance(call.func, ast.Attribute):
            known = self._effects_of_method(call, call.func, arguments, call_stack)
            if known is not None:
                yield from known
                return
        full = self.module.qualified(call.func)
        if full.startswith("torch.") and not full.startswith(_GRADIENT_FUNCTIONS):
            return
        if full.startswith("torch.nn.utils.clip_grad"):
            return
        if isinstance(call.func, ast.Name) and not self.module.tree.bindings(call.func):
            if call.func.id in _PLAIN_FUNCTIONS:
                return
        name = self._text(call.func, arguments, call_stack)
        argument_names = self._argument_names(call, arguments, call_stack)
        if not full:
            yield CodeEffect(EffectKind.CALL, name, call, argument_names)
        inherited = "inherited:" if self._is_inherited(call.func) else ""
        yield CodeEffect(EffectKind.UNKNOWN, inherited + name, call, argument_names)

    def _effects_of_method(
        self, call: ast.Call, method: ast.Attribute, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> list[CodeEffect] | None:
        """Return the effects of a call by the method's name; None if the name says nothing."""
        object_name = self._text(method.value, arguments, call_stack)
        takes_arguments = bool(call.args or call.keywords)
        if method.attr.endswith("backward"):
            is_of_tensor = all(k.arg in ("retain_graph", "create_graph", "gradient", "loss") for k in call.keywords)
            kind = EffectKind.BACKWARD if is_of_tensor else EffectKind.UNKNOWN
            return [CodeEffect(kind, "", call, self._argument_names(call, arguments, call_stack) | {object_name})]
        if method.attr in _CLEARS:
            return []  # its attribute is seen by itself
        if method.attr == "step":
            return self._effects_of_step(call, method, arguments, call_stack)
        if method.attr == "eval" and not takes_arguments:
            return [CodeEffect(EffectKind.EVAL_MODE, object_name, call)]
        if method.attr == "train":
            off = [a for a in _arguments(call) if getattr(a, "value", True) is False]
            return [CodeEffect(EffectKind.EVAL_MODE if off else EffectKind.TRAIN_MODE, object_name, call)]
        return [] if method.attr in _PLAIN_METHODS else None

    def _effects_of_step(
        self, call: ast.Call, method: ast.Attribute, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> list[CodeEffect]:
        """Return the effects of ``optimizer.step()`` or ``scaler.step(optimizer)``."""
        takes_arguments = bool(call.args or call.keywords)
        optimizer = (call.args or [method.value])[0] if takes_arguments else method.value
        made = optimizer
        if isinstance(optimizer, ast.Name) and optimizer.id in arguments:
            made = arguments[optimizer.id].value
        is_optimizer, is_known = self._recognized_optimizer(made)
        if not is_known:
            is_optimizer = self._recognized_optimizer(optimizer)[0]
        if is_optimizer and (not takes_arguments or _is_scaler(method.value)):
            name, model = self._text(optimizer, arguments, call_stack), self._trained_by(made, call_stack)
            return [CodeEffect(EffectKind.STEP, name, call, is_known_optimizer=is_known, trained_model=model)]
        if takes_arguments:
            names = self._argument_names(call, arguments, call_stack)
            return [CodeEffect(EffectKind.UNKNOWN, "", call, names | {self._text(method.value, arguments, call_stack)})]
        return []

    def _argument_names(
        self, call: ast.Call, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> frozenset[str]:
        return frozenset(filter(None, (self._text(a, arguments, call_stack) for a in _arguments(call))))

    def _effects_of_callee(
        self, call: ast.Call, callee: Function, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> Iterator[CodeEffect]:
        parameters = [a.arg for a in (*callee.args.posonlyargs, *callee.args.args)]
        arguments_of_callee: dict[str, _Argument] = {}
        is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in callee.decorator_list)
        if self.module.tree.owner(callee) is not None and isinstance(call.func, ast.Attribute) and not is_static:
            arguments_of_callee[self_name(callee)] = self._argument(call.func.value, arguments, call_stack)
            parameters = parameters[1:]
        for parameter, value in zip(parameters, call.args, strict=False):
            arguments_of_callee[parameter] = self._argument(value, arguments, call_stack)
        arguments_of_callee.update(
            {k.arg: self._argument(k.value, arguments, call_stack) for k in call.keywords if k.arg}
        )
        is_generator = any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own_nodes(callee))
        for statement in callee.body:
            for effect in self._effects_of(statement, arguments_of_callee, (*call_stack, callee)):
                yield dataclasses.replace(
                    effect,
                    is_unconditional=effect.is_unconditional
                    and not is_generator
                    and not _may_return_before(callee, statement),
                    is_grad_enabled=effect.is_grad_enabled and not _is_decorated_grad_off(callee),
                    is_own=False,
                )

    def _argument(
        self, value: ast.expr, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]
    ) -> _Argument:
        if isinstance(value, ast.Name) and value.id in arguments:
            return arguments[value.id]
        return _Argument(self._text(value, arguments, call_stack), value)

    def _callee(self, function: ast.expr) -> Function | None:
        """Return the function or method of this file that a call runs, or None if unknown."""
        tree = self.module.tree
        if isinstance(function, ast.Name):
            bindings = tree.bindings(function)
            node = bindings[0] if len(bindings) == 1 else None
            return node if isinstance(node, ast.FunctionDef) else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            around = tree.method_of(function)
            if around is not None and function.value.id == self_name(around[1]):
                method = self.module.kinds.method(around[0], function.attr)
                return method if isinstance(method, ast.FunctionDef) else None
        return None

    def _is_inherited(self, function: ast.expr) -> bool:
        """Return True if a call on ``self`` is of nothing that the file defines or assigns."""
        if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
            return False
        around = self.module.tree.method_of(function)
        if around is None or function.value.id != self_name(around[1]):
            return False
        return function.attr not in self.module.kinds.attributes(around[0])

    def _text(self, node: ast.expr, arguments: Mapping[str, _Argument], call_stack: tuple[ast.AST, ...]) -> str:
        """Return the text of an object in the judged function; empty if it has no name."""
        node = node.value if isinstance(node, ast.Starred) else node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("parameters", "named_parameters", "modules"):
                return self._text(node.func.value, arguments, call_stack)
        while isinstance(node, ast.Attribute) and node.attr in _SAME_MODEL:
            node = node.value
        root: ast.expr = node
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if not isinstance(root, ast.Name):
            return ""
        text = dotted_text(node)
        if len(call_stack) == 1:
            return text
        if root.id in arguments:
            outer = arguments[root.id].text
            return outer + text.removeprefix(root.id) if outer else ""
        callee = call_stack[-1]
        is_local = any(self.module.tree.scope_of(b).node is callee for b in self.module.tree.bindings(root))
        return f"{getattr(callee, 'name', '')}:{text}" if is_local else text

    def _recognized_optimizer(self, node: ast.expr) -> tuple[bool, bool]:
        """Return (is it an optimizer, does the file show it) for an expression."""
        kinds = self._kinds(node)
        if kinds and None not in kinds:
            is_optimizer = all(kind is not None and kind.what == "optimizer" for kind in kinds)
            return is_optimizer, is_optimizer
        name = last_name(node).lower()
        is_named = "sched" not in name and ("optim" in name or name in ("opt", "opts") or name.endswith("_opt"))
        return (is_named or name.startswith("opt_")) and self._has_plain_class(node), False

    def _kinds(self, node: ast.expr) -> list[Kind | None]:
        kind = self.module.kind(node)
        return (
            [kind]
            if kind is not None or isinstance(node, ast.Name)
            else list(map(self.module.kind, self._values(node)))
        )

    def _values(self, node: ast.expr) -> list[ast.expr | None]:
        """Return what a name or an attribute of ``self`` is assigned."""
        if isinstance(node, ast.Name):
            return [self.module.kinds.value_given(b) for b in self.module.tree.bindings(node)]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            around = self.module.tree.method_of(node)
            if around is not None and node.value.id == self_name(around[1]):
                return self.module.kinds.attributes(around[0]).get(node.attr, [])
        return []

    def _has_plain_class(self, node: ast.expr) -> bool:
        """Return False if an object is made by a class of this file, which may clear by itself."""
        values = self._values(node)
        return all(not isinstance(v, ast.Call) or self.module.kinds.class_of(v.func) is None for v in values)

    def _trained_by(self, optimizer: ast.expr, call_stack: tuple[ast.AST, ...]) -> str:
        """Return the text of the model whose ``parameters()`` an optimizer was made of."""
        constructors = [k.made for k in self._kinds(optimizer) if k is not None] or self._values(optimizer)
        models = [m.args[0] if isinstance(m, ast.Call) and m.args else None for m in constructors]
        texts = {self._text(a, {}, call_stack[:1]) for a in models if isinstance(a, ast.Call)}
        return texts.pop() if len(texts) == 1 and len(models) == 1 else ""

    # Where a call stands

    def _is_unconditional(self, node: ast.AST, root: ast.stmt) -> bool:
        """Return True if a node runs whenever the statement around it runs."""
        child: ast.AST = node
        for around in self.module.tree.above(node) if node is not root else ():
            if isinstance(around, _COMPOUND) and child in getattr(around, "body", ()):
                return False
            if isinstance(around, ast.If | ast.While | ast.For | ast.AsyncFor) and child in around.orelse:
                return False
            if isinstance(around, ast.IfExp | ast.BoolOp | ast.ExceptHandler | ast.match_case):
                return False
            if around is root:
                break
            child = around
        return True

    def _is_before_exit(self, node: ast.AST, root: ast.stmt) -> bool:
        """Return True if a loop or function ends in the block of a call."""
        tree = self.module.tree
        statement = tree.statement(node)
        while statement is not None:
            if any(isinstance(s, ast.Break | ast.Return | ast.Raise) for s in tree.block(statement)):
                parent = tree.parents.get(statement)
                if not isinstance(parent, FUNCTIONS):
                    return True
            if statement is root:
                return False
            above = tree.parents.get(statement)
            statement = above if isinstance(above, ast.stmt) else tree.statement(above) if above else None
            if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
                return False
        return False

    def _is_grad_off(self, node: ast.AST) -> bool:
        for around in self.module.tree.above(node):
            if isinstance(around, ast.With) and any(_switches_off(item.context_expr) for item in around.items):
                return True
            if isinstance(around, FUNCTIONS):
                return _is_decorated_grad_off(around)
        return False

    def _is_uncalled(self, node: ast.Attribute) -> bool:
        """Return True if a method is named in a statement of its own, and not called."""
        return isinstance(self.module.tree.parents.get(node), ast.Expr)

    def _is_only_measured(self, node: ast.Attribute) -> bool:
        """Return True if a gradient is only compared, or measured for a log."""
        parent = self.module.tree.parents.get(node)
        if isinstance(parent, ast.Compare):
            return True
        return isinstance(node.ctx, ast.Load) and isinstance(parent, ast.Attribute) and parent.attr in _MEASURES


_MEASURES = frozenset("norm shape abs sum mean max min std dtype device".split())


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(k.value for k in call.keywords)]


def _is_scaler(node: ast.expr) -> bool:
    return "scaler" in last_name(node).lower()


def _switches_off(expression: ast.expr) -> bool:
    called = expression.func if isinstance(expression, ast.Call) else expression
    return last_name(called) in ("no_grad", "inference_mode", "set_grad_enabled")


def _is_decorated_grad_off(function: ast.AST) -> bool:
    return any(_switches_off(d) for d in getattr(function, "decorator_list", ()))


def _may_return_before(function: Function, statement: ast.stmt) -> bool:
    """Return True if a function may return before one of its top statements."""
    before = function.body[: function.body.index(statement)]
    return any(isinstance(n, ast.Return | ast.Raise) for n in own_nodes(ast.Module(body=before, type_ignores=[])))
