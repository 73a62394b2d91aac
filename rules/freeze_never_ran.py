"""GL210 freeze-never-ran."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceModule, Trace
from gradlint.rulekit import executed_nodes, list_of
from gradlint.source import Function, defaults, last_name
from gradlint.traces import Freeze

_NAMED = frozenset(("named_parameters", "named_modules", "named_children"))
_ON_NAMES = frozenset("startswith endswith split lower upper find count strip replace match search fullmatch".split())
"""Methods of a name, and functions of ``re``."""
_BUILTINS = frozenset("any all len str int re tuple list set".split())
_NORMS = re.compile(r"^(?:bn|b_?n_?\d*|.*norm.*|ln.*)$", re.IGNORECASE)


class FreezeNeverRan(Rule):
    """A freeze whose filter of names matches nothing.

    ## What it does
    Finds loops that freeze parameters or modules whose name passes a test, if no name passes and the model has no
    frozen parameter. It also finds statements that name a method for freezing and do not call it.

    ## Why it is bad
    Names change with the model: by a prefix, another library, another version. Then everything trains, and nothing
    says so.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.backbone(x))

    def build():
        model = Net()
        for name, p in model.named_parameters():
            if name.startswith("encoder."):
                p.requires_grad = False
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.backbone(x))

    def build():
        model = Net()
        for name, p in model.named_parameters():
            if name.startswith("backbone."):
                p.requires_grad = False
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Only tests of names against texts in the same file are judged, outside of any other condition. If the texts are an
    argument, each call in the file has to pass some. Not reported for tests for norm layers if the model has none.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.named_parameters
    """

    code = "GL210"
    name = "freeze-never-ran"
    severity = Severity.WARNING
    names_parameters = False

    MESSAGE = "this line freezes nothing: no name of the model passes {test}."
    MESSAGE_NOT_CALLED = "this line names {method} and does not call it: nothing is frozen."
    RELATED_TEST = "the test of names"
    FIX = "Compare the test with the names of the model, which begin with {names}."
    FIX_NOT_CALLED = "Call it: {method}()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if any(isinstance(event, Freeze) for p in trace.parameters for event in p.history):
            return
        sites = {event.site for event in trace.events_of(Freeze)}  # of parameters that were replaced
        ran = {(f.location.path, f.location.line) for site in sites for f in trace.sites.chain(site)}
        # A wrapper around the model is part of the names that it gives out.
        names = [name for p in trace.parameters for name in (p.spelled(p.fqn)[-1], p.fqn)]
        first = list(dict.fromkeys(name.split(".")[0] for name in names))
        for function, node in executed_nodes(trace):
            module = function.module
            if isinstance(node, ast.For) and not _is_conditional(module, function, node):
                for statement, test, texts in _freezes_by_name(module, node):
                    place = module.location(statement)
                    if (place.path, place.line) in ran or not _may_match(trace, texts):
                        continue
                    yield context.finding(
                        self,
                        self.MESSAGE.format(test=module.text(test)),
                        at=place,
                        related=[context.related(self.RELATED_TEST, module.location(test))],
                        fix=Fix(self.FIX.format(names=list_of(first))),
                    )
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute):
                method = node.value.attr
                if not _is_conditional(module, function, node) and _is_freezing_method(module, method):
                    yield context.finding(
                        self,
                        self.MESSAGE_NOT_CALLED.format(method=f"{method}()"),
                        at=module.location(node),
                        fix=Fix(self.FIX_NOT_CALLED.format(method=module.text(node.value))),
                    )


def _is_conditional(module: SourceModule, function: Function, node: ast.stmt) -> bool:
    """Return True if a statement of a function that ran may not have run."""
    for around in module.tree.above(node):
        if around is function.node:
            break
        if not isinstance(around, ast.With):
            return True
    return any(isinstance(part, ast.Return | ast.Raise) and part.lineno < node.lineno for part in function.nodes())


def _freezes_by_name(module: SourceModule, loop: ast.For) -> Iterator[tuple[ast.stmt, ast.expr, list[str]]]:
    """Yield (statement, test, texts) for each freeze that a test of names decides about.

    The texts are those that the names are compared with.
    """
    iterated = {n.attr for n in ast.walk(loop.iter) if isinstance(n, ast.Attribute)}
    if _NAMED.isdisjoint(iterated):
        return
    inner = [c.target for c in ast.walk(loop.iter) if isinstance(c, ast.comprehension)]
    names = {n.id for target in (loop.target, *inner) for n in ast.walk(target) if isinstance(n, ast.Name)}
    in_iter = [test for c in ast.walk(loop.iter) if isinstance(c, ast.comprehension) for test in c.ifs]
    modules = names if "named_parameters" not in iterated else set()
    for statement, value in _flags_given(loop):
        match statement:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=owner))]) if owner in modules:
                continue  # the flag of a module is an attribute like any other
        tests = [*_tests_around(module, loop, statement), *in_iter]
        if isinstance(value, ast.Constant):
            if value.value is not False:
                continue
        else:
            tests.append(value)
        compared = [_texts_compared(module, test, names) for test in tests]
        if tests and all(compared):
            yield statement, tests[0], [*itertools.chain.from_iterable(compared)]


def _tests_around(module: SourceModule, loop: ast.For, statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield the tests in a loop that decide whether a statement runs, nearest first.

    A test that ends the round, ``if "bn" in name: continue``, decides about what follows.
    """
    inside: ast.AST = statement
    for around in module.tree.above(statement):
        if isinstance(around, ast.If):
            yield around.test
        for block in (getattr(around, "body", None), getattr(around, "orelse", None)):
            if isinstance(block, list) and inside in block:
                before = reversed(block[: block.index(inside)])
                yield from (s.test for s in before if isinstance(s, ast.If) and any(map(_leaves, ast.walk(s))))
        if around is loop:
            return
        inside = around


def _leaves(node: ast.AST) -> bool:
    return isinstance(node, ast.Continue | ast.Break)


def _flags_given(root: ast.AST) -> Iterator[tuple[ast.stmt, ast.expr]]:
    """Yield (statement, value) for each value that a statement gives to ``requires_grad``."""
    for node in ast.walk(root):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr="requires_grad")], value=value):
                yield node, value
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="requires_grad_"), args=[value])):
                yield node, value


def _texts_compared(module: SourceModule, test: ast.expr, names: set[str]) -> list[str]:
    """Return the texts that a test compares names of a loop with; none if it does anything else."""
    inner = [c.target for c in ast.walk(test) if isinstance(c, ast.comprehension)]
    known = names | {n.id for target in inner for n in ast.walk(target) if isinstance(n, ast.Name)}
    values: list[ast.expr] = [test]
    uses_name = False
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute) and node.attr not in _ON_NAMES:
            return []
        if isinstance(node, ast.Name):
            uses_name = uses_name or node.id in names
            if node.id in known | _BUILTINS:
                continue
            given = _values_given(module, node)
            if not given or not all(map(_is_literal, given)):
                return []
            values += given
    if not uses_name:
        return []
    constants = (n.value for value in values for n in ast.walk(value) if isinstance(n, ast.Constant))
    return [text for text in constants if isinstance(text, str)]


def _values_given(module: SourceModule, name: ast.Name) -> list[ast.expr]:
    """Return the values that a name may have; none if one of them is not written out.

    They are the one assigned, or those that the calls in the file pass.
    """
    match module.tree.bindings(name):
        case [ast.arg() as argument]:
            return _values_passed(module, argument)
        case [binding]:
            return [*filter(None, [module.kinds.value_given(binding)])]
    return []


def _values_passed(module: SourceModule, argument: ast.arg) -> list[ast.expr]:
    """Return what the calls in a file pass for an argument; none if one is not written out."""
    passed: list[ast.expr | None] = []
    match [*module.tree.above(argument)]:
        case [_, ast.FunctionDef(decorator_list=[]) as function, *_]:
            for call in module.tree.nodes(ast.Call):
                if last_name(call.func) == function.name:
                    passed.append(_value_passed(module, function, call, argument.arg))
    values = [*filter(None, passed)]
    return values if len(values) == len(passed) else []


def _value_passed(module: SourceModule, function: ast.FunctionDef, call: ast.Call, argument: str) -> ast.expr | None:
    """Return the value that a call passes for an argument; None if it is not written out."""
    given = {k.arg: k.value for k in call.keywords}
    if None in given or any(isinstance(a, ast.Starred) for a in call.args):
        return None
    order = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if isinstance(call.func, ast.Attribute) and order[:1] == ["self"]:
        del order[0]
    given.update(zip(order, call.args, strict=False))
    value = given.get(argument, defaults(function).get(argument))
    if isinstance(value, ast.Name) and len(bindings := module.tree.bindings(value)) == 1:
        return module.kinds.value_given(bindings[0])
    return value


def _is_literal(value: ast.expr) -> bool:
    """Return True if a value is a text, or a list of texts that is not empty."""
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        return bool(value.elts) and all(map(_is_literal, value.elts))  # an empty list freezes nothing on purpose
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _may_match(trace: Trace, texts: list[str]) -> bool:
    """Return False if a test looks for norm layers, and the model has none."""
    return not all(map(_NORMS.match, texts)) or any("Norm" in m.type.name for m in trace.modules)


def _is_freezing_method(module: SourceModule, name: str) -> bool:
    """Return True if a file defines a method of this name whose body freezes."""
    for method in module.tree.nodes(ast.FunctionDef):
        if method.name == name and not method.decorator_list:
            return any(isinstance(v, ast.Constant) and v.value is False for _, v in _flags_given(method))
    return False
