"""The source of the user's functions that ran while recording."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from gradlint.location import Location
from gradlint.source.attributes import Write, idle_flag_statement, write_of
from gradlint.source.file import SourceModule
from gradlint.source.iterators import consumed_whole
from gradlint.source.lookup import Function, call_at, function_of, name_parts, source_module
from gradlint.source.order import surely_before
from gradlint.source.scopes import last_name
from gradlint.traces.events import Unfreeze
from gradlint.traces.ids import SiteId
from gradlint.traces.sites import Frame, is_project
from gradlint.traces.trace import Parameter, Trace

_CONTAINERS = ("ModuleList", "ModuleDict", "Sequential")
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def executed_functions(trace: Trace) -> list[Function]:
    """Return the user's functions that ran while recording, in the order of their first run."""
    functions = (function_of(code) for code in trace.executed if is_project(code.co_filename))
    return list(dict.fromkeys(function for function in functions if function is not None))


def executed_nodes(trace: Trace) -> Iterator[tuple[Function, ast.AST]]:
    """Yield (function, node) of all executed code, in the order of the functions' first run."""
    for function in executed_functions(trace):
        for node in function.nodes():
            yield function, node


def executed_writes(trace: Trace, attribute: str) -> list[Write]:
    """Return the executed writes to an attribute of this name, of any object."""
    return [write for f, node in executed_nodes(trace) for write in write_of(f.module, node, attribute)]


def had_flag_until_later(trace: Trace, parameter: Parameter, value: bool, write: Write) -> bool:
    """Return True if a parameter really had a flag, and lost it no earlier than at a write.

    If the write and the change are in different functions, their order is unknown: the change may be a phase of the
    training.
    """
    changes = parameter.flag_changes
    flags = [isinstance(change, Unfreeze) for change in changes]
    if value not in flags or flags[-1] is value:
        return False
    function = write.module.tree.function(write.node) or write.module.syntax
    for frame in trace.sites.chain(changes[-1].site):
        caller = function_of(frame.code) if frame.project else None
        if caller is not None and caller.node is function:
            return frame.location.line >= write.location.line
    return True


def executed_idle_flags(trace: Trace) -> Iterator[Write]:
    """Yield the executed statements that only name ``requires_grad`` or ``requires_grad_``."""
    for function, node in executed_nodes(trace):
        write = idle_flag_statement(function.module, node)
        if write is not None:
            yield write


def uncalled_method_statements(trace: Trace, method: str) -> list[Location]:
    """Return the executed statements that name a method without a call: ``optimizer.zero_grad``."""
    return [
        function.module.location(node)
        for function, node in executed_nodes(trace)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute) and node.value.attr == method
    ]


def is_repeated(trace: Trace, call: SiteId, once: SiteId) -> bool:
    """Return True if a loop repeats a call, and not another call that was made before it.

    Both calls are followed up to the function that leads to both. A loop counts though it ran once.
    """
    ways = [list(trace.sites.links(site))[::-1] for site in (call, once)]
    shared = 0
    while shared < min(map(len, ways)) - 1 and ways[0][shared + 1][1] == ways[1][shared + 1][1]:
        shared += 1
    (inner, _), (other, _) = ways[0][shared], ways[1][shared]
    line = other.location.line if other.code == inner.code else 0
    if any(line not in lines for lines in _loops_around(inner)):
        return True
    return any(_loops_around(frame) for frame, _ in ways[0][shared + 1 :])


def _loops_around(frame: Frame) -> list[range]:
    """Return the lines of each loop around a frame's line, in its own function."""
    function = function_of(frame.code)
    loops = [n for n in function.nodes() if isinstance(n, _LOOPS)] if function is not None else []
    ranges = [range(loop.lineno, (loop.end_lineno or loop.lineno) + 1) for loop in loops]
    return [lines for lines in ranges if frame.location.line in lines]


def cleared_gradients(trace: Trace) -> list[Location]:
    """Return the executed statements that set or delete the ``grad`` of a tensor."""
    statements = [(f.module, node) for f, node in executed_nodes(trace) if isinstance(node, ast.Assign | ast.Delete)]
    return [
        module.location(node)
        for module, node in statements
        if any(isinstance(target, ast.Attribute) and target.attr == "grad" for target in node.targets)
    ]


def attribute_location(
    trace: Trace, classes: Collection[str], attribute: str, value: Location | None = None
) -> Location | None:
    """Return where executed code assigns an attribute of instances.

    The statement that computes the `value` comes first, then their own methods. `classes` are the names of the class
    and its bases. None if no function that ran assigns it.
    """
    own: Location | None = None
    elsewhere: Location | None = None
    for function, node in executed_nodes(trace):
        for target in _targets(node):
            if not isinstance(target, ast.Attribute) or target.attr != attribute:
                continue
            where = function.module.location(node)
            if value is not None and where.path == value.path and where.line <= value.line <= (where.end_line or 0):
                return where
            if not isinstance(target.value, ast.Name) or target.value.id != function.self_name:
                elsewhere = elsewhere or where
            elif function.owner in classes:
                own = own or where
    return own or elsewhere


def variable_of(trace: Trace, site: SiteId) -> str:
    """Return the name that a statement assigns the value of a call to; empty without one.

    The call may be an argument within the value: ``layer = nn.Sequential(nn.Linear(2, 2))``.
    """
    function, line = _function_at(trace, site)
    for statement in _assignments_at(function, line):
        target = statement.targets[0]
        if isinstance(statement.value, ast.Call) and isinstance(target, ast.Name | ast.Attribute):
            return target.id if isinstance(target, ast.Name) else target.attr
    return ""


def _function_at(trace: Trace, site: SiteId) -> tuple[Function | None, int]:
    """Return (function around a site, line in it); (None, 0) outside of user code."""
    frame = trace.frame(site)
    if frame is None or not frame.project:
        return None, 0
    return function_of(frame.code), frame.location.line


def _assignments_at(function: Function | None, line: int) -> list[ast.Assign]:
    """Return the assignments of a function that a line belongs to."""
    nodes = function.nodes() if function is not None else ()
    return [n for n in nodes if isinstance(n, ast.Assign) and n.lineno <= line <= (n.end_lineno or n.lineno)]


def _call_at(trace: Trace, site: SiteId, names: Collection[str] = ()) -> tuple[SourceModule, ast.Call] | None:
    """Return (file, call at a site); None outside of user code."""
    frame = trace.frame(site)
    if frame is None or not frame.project:
        return None
    call, module = call_at(frame.path, frame.location, names), source_module(frame.path)
    return (module, call) if module is not None and call is not None else None


def iterator_places(trace: Trace, site: SiteId) -> tuple[Location | None, Location | None]:
    """Return where the iterator that a call is given was made, and where it was exhausted.

    Each is None if it is not in the function that makes the call.
    """
    found = _call_at(trace, site)
    if found is None:
        return None, None
    module, call = found
    tree = module.tree
    made_only: Location | None = None
    given = [*call.args[:1], *(k.value for k in call.keywords if k.arg in ("params", "parameters"))]
    for name in (n for argument in given for n in ast.walk(argument) if isinstance(n, ast.Name)):
        bindings = tree.bindings(name)
        made = module.kinds.value_given(bindings[0]) if len(bindings) == 1 else None
        kind = module.kind(made) if made is not None else None
        if made is None or not (kind.once if kind is not None else name in given and isinstance(made, ast.Call)):
            continue
        uses = [use for use in tree.loads.get(name.id, ()) if tree.bindings(use) is bindings and use is not name]
        whole = [use for use in uses if consumed_whole(module, use) and surely_before(tree, use, name)]
        before = whole or [use for use in uses if use.lineno < name.lineno]
        if before:
            return module.location(made), module.location(before[0])
        made_only = made_only or module.location(made)
    return made_only, None


def variable_location(trace: Trace, name: str) -> Location | None:
    """Return where executed code first assigns a variable, or None if it never does."""
    for function, node in executed_nodes(trace):
        if any(isinstance(part, ast.Name) and part.id == name for t in _targets(node) for part in ast.walk(t)):
            return function.module.location(node)
    return None


def _targets(node: ast.AST) -> list[ast.expr]:
    """Return the targets of an assignment, and the elements of those that are tuples."""
    if isinstance(node, ast.AnnAssign):
        return [node.target] if node.value is not None else []
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]


def repeats_a_call(trace: Trace, site: SiteId) -> bool:
    """Return True if the list that a call is given repeats a call.

    For example ``nn.ModuleList([nn.Linear(2, 2)] * 3)``. So does ``dict.fromkeys(names, nn.Linear(2, 2))``.
    The list may have a name.
    """
    found = _call_at(trace, site, _CONTAINERS)
    if found is None:
        return False
    module, call = found
    for argument in call.args:
        given: ast.expr | None = argument.value if isinstance(argument, ast.Starred) else argument
        if isinstance(given, ast.Name) and len(bindings := module.tree.bindings(given)) == 1:
            given = module.kinds.value_given(bindings[0])
        if isinstance(given, ast.BinOp) and isinstance(given.op, ast.Mult):
            lists = [side for side in (given.left, given.right) if isinstance(side, ast.List | ast.Tuple)]
            if lists and all(isinstance(element, ast.Call) for element in lists[0].elts):
                return True
        if isinstance(given, ast.Call) and name_parts(given.func) == ["dict", "fromkeys"]:
            return isinstance(given.args[-1], ast.Call)
    return False


def argument_list_location(trace: Trace, site: SiteId) -> Location | None:
    """Return where the list that a call unpacks was made.

    For ``nn.Sequential(*layers)`` that is ``layers = [...]``. None if the call does not name the list.
    """
    found = _call_at(trace, site, _CONTAINERS)
    function, _ = _function_at(trace, site)
    if function is None or found is None:
        return None
    _, call = found
    lists = [a.value for a in call.args if isinstance(a, ast.Starred)] or (call.args if len(call.args) == 1 else [])
    names = {a.id for a in lists if isinstance(a, ast.Name)}
    location = None
    for node in function.nodes():
        if isinstance(node, ast.Assign) and node.lineno < call.lineno:
            if any(isinstance(t, ast.Name) and t.id in names for t in node.targets):
                location = function.module.location(node)
    return location


def allocated_by_constructor(trace: Trace, parameter: Parameter) -> bool:
    """Return True for ``nn.Parameter(torch.Tensor(4, 8))`` that was never written.

    The constructor passes no hook of torch. Two sizes, or an unpacked shape, cannot be values.
    """
    made = parameter.created_by
    if made is None or not parameter.is_untouched or parameter.written or parameter.copied_from or parameter.writes:
        return False
    statements = _assignments_at(*_function_at(trace, made.site))
    outer = statements[0].value if len(statements) == 1 else None
    if not isinstance(outer, ast.Call) or last_name(outer.func) != "Parameter" or not outer.args:
        return False
    inner = outer.args[0]
    if not isinstance(inner, ast.Call) or inner.keywords:
        return False
    sizes = len(inner.args) > 1 or any(isinstance(a, ast.Starred) or _is_number(a) for a in inner.args)
    return sizes and name_parts(inner.func) in [["torch", "Tensor"], ["torch", "FloatTensor"]]


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def choice_location(trace: Trace, site: SiteId) -> Location | None:
    """Return the test that decides whether a statement runs.

    It belongs to the ``if`` around it, or to a ``continue`` before it. None if its function has no such test.
    """
    function, line = _function_at(trace, site)
    if function is None:
        return None
    nearest = None
    for node in function.nodes():
        if not isinstance(node, ast.If) or node.lineno >= line:
            continue
        block = function.module.tree.block(node)
        is_skip = isinstance(node.body[-1], ast.Continue) and line <= (block[-1].end_lineno or 0)
        if is_skip or line <= (node.end_lineno or 0):
            nearest = node.test
    return function.module.location(nearest) if nearest is not None else None
