"""GL210 freeze-never-ran."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceModule, Trace
from gradlint.rulekit import executed_nodes, list_of
from gradlint.source import Function
from gradlint.traces import Freeze

_NAMED = frozenset(("named_parameters", "named_modules", "named_children"))
_ON_NAMES = frozenset("startswith endswith split lower upper find count strip replace match search fullmatch".split())
"""Methods of a name, and functions of ``re``."""
_BUILTINS = frozenset("any all len str int re".split())
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
    Only tests of names against texts in the same file are judged, outside of any other condition. Not reported for
    tests for norm layers if the model has none.

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
                for statement, test in _freezes_by_name(module, node):
                    place = module.location(statement)
                    if (place.path, place.line) in ran or not _may_match(trace, test):
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


def _freezes_by_name(module: SourceModule, loop: ast.For) -> Iterator[tuple[ast.stmt, ast.expr]]:
    """Yield (statement, test) for each freeze in a loop that a test of names decides about."""
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
        tests = [a.test for a in module.tree.above(statement) if isinstance(a, ast.If) and loop in module.tree.above(a)]
        tests += in_iter
        if isinstance(value, ast.Constant):
            if value.value is not False:
                continue
        else:
            tests.append(value)
        if tests and all(_is_about_names(module, test, names) for test in tests):
            yield statement, tests[0]


def _flags_given(root: ast.AST) -> Iterator[tuple[ast.stmt, ast.expr]]:
    """Yield (statement, value) for each value that a statement gives to ``requires_grad``."""
    for node in ast.walk(root):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr="requires_grad")], value=value):
                yield node, value
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="requires_grad_"), args=[value])):
                yield node, value


def _is_about_names(module: SourceModule, test: ast.expr, names: set[str]) -> bool:
    """Return True if a test does nothing but compare names of a loop with texts of the file."""
    inner = [c.target for c in ast.walk(test) if isinstance(c, ast.comprehension)]
    known = names | {n.id for target in inner for n in ast.walk(target) if isinstance(n, ast.Name)}
    uses_name = False
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute) and node.attr not in _ON_NAMES:
            return False
        if isinstance(node, ast.Name):
            uses_name = uses_name or node.id in names
            bindings = module.tree.bindings(node)
            value = module.kinds.value_given(bindings[0]) if len(bindings) == 1 else None
            if node.id not in known | _BUILTINS and not _is_literal(value):
                return False
    return uses_name


def _is_literal(value: ast.expr | None) -> bool:
    """Return True if a value is a text, or a list of texts that is not empty."""
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        return bool(value.elts) and all(map(_is_literal, value.elts))
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _may_match(trace: Trace, test: ast.expr) -> bool:
    """Return False if a test looks for norm layers, and the model has none."""
    texts = [n.value for n in ast.walk(test) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    if not texts:
        return True
    return not all(map(_NORMS.match, texts)) or any("Norm" in m.type.name for m in trace.modules)


def _is_freezing_method(module: SourceModule, name: str) -> bool:
    """Return True if a file defines a method of this name whose body freezes."""
    for method in module.tree.nodes(ast.FunctionDef):
        if method.name == name and not method.decorator_list:
            return any(isinstance(v, ast.Constant) and v.value is False for _, v in _flags_given(method))
    return False
