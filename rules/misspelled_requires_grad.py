"""GL103 misspelled-requires-grad."""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

from gradlint import (
    Context,
    Edit,
    Finding,
    Fix,
    Location,
    Parameter,
    Rule,
    Severity,
    SourceModule,
    Write,
    attribute_writes,
    best_write,
    freezes,
    idle_statements,
    inflect,
    module_class,
    spelled,
)

_NAMED = re.compile(r"\.\s*(\w{9,17})\b")
_UNCALLED = re.compile(r"\.requires_grad_\s*(?!\s*\()|\.requires_grad\s*==")


class MisspelledRequiresGrad(Rule):
    """`param.require_grad = False` freezes nothing.

    ## What it does
    Finds a near-miss of `requires_grad` that was set on parameters or modules, and statements that name
    `requires_grad` and do nothing: `p.requires_grad == False`, `p.requires_grad_` without a call.

    ## Why it is bad
    Tensors and modules take any attribute: the misspelled one is stored and read by nobody, and the parameters train.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        for param in model[0].parameters():
            param.require_grad = False
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        for param in model[0].parameters():
            param.requires_grad = False
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent where a tensor is as the attribute says anyway. Of tensors that are no parameters, buffers, plain attributes
    and inputs are looked at, and weigh a warning. In a source file alone, what is not known to be a parameter or a
    module weighs a warning, and names that the file uses for something of its own are left alone.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.requires_grad.html
    """

    code = "GL103"
    name = "misspelled-requires-grad"
    severity = Severity.ERROR
    marks = ("grad|Grad|gard|grda|grd|gad|GRAD",)
    blames = r"(?i)gr?ar?d|grda|grd"

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        text = module.source.text
        if any(map(_looks_like_it, set(_NAMED.findall(text)) - {"requires_grad_"})) or _UNCALLED.search(text):
            yield from self._misspelled(module)
            yield from self._idle(module)

    def _misspelled(self, module: SourceModule) -> Iterator[Finding]:
        for name, uses in module.tree.attributes.items():
            if not _looks_like_it(name) or any(
                isinstance(use.ctx, ast.Load) for use in uses if name != "requires_grad_"
            ):
                continue
            if name != "requires_grad_" and _own_word(module, name, uses):
                continue
            for use in uses:
                statement = module.tree.parents.get(use)
                if not isinstance(statement, ast.Assign):
                    continue
                value = statement.value
                kind = module.kind(use.value)
                known = kind is not None and kind.what in ("parameter", "module", "tensor")
                literal = isinstance(value, ast.Constant) and isinstance(value.value, bool)
                if not literal and (not known or name == "requires_grad_"):
                    continue
                if (kind is not None and not known) or _said_right(module, use):
                    continue
                if kind is not None and kind.what == "tensor" and isinstance(value, ast.Constant) and not value.value:
                    continue  # a plain tensor is as the attribute says anyway
                on_module = kind is not None and kind.module
                weighty = kind is not None and kind.what != "tensor"
                given = module.text(value)
                right = f"requires_grad_({given})" if on_module else f"requires_grad = {given}"
                edits: tuple[Edit, ...] = ()
                if len(statement.targets) == 1:
                    edits = (module.replace(statement, f"{module.text(use.value)}.{right}"),)
                yield module.finding(
                    self,
                    f"{name} is not requires_grad: this only makes a Python attribute of {module.text(use.value)}, and "
                    f"autograd does not read it.",
                    statement,
                    severity=None if weighty else Severity.WARNING,
                    fix=Fix(f"Write {right}.", safe=bool(edits), edits=edits),
                )

    def _idle(self, module: SourceModule) -> Iterator[Finding]:
        for statement in module.tree.nodes(ast.Expr):
            value = statement.value
            if isinstance(value, ast.Compare) and isinstance(value.ops[0], ast.Eq):
                left, right = value.left, value.comparators[0]
                if not isinstance(left, ast.Attribute) or left.attr != "requires_grad":
                    continue
                edit = module.replace(statement, f"{module.text(left)} = {module.text(right)}")
                yield module.finding(
                    self,
                    f"this compares and drops the result: {module.text(left)} stays as it was.",
                    statement,
                    fix=Fix(f"Write {module.text(left)} = {module.text(right)}.", safe=True, edits=(edit,)),
                )
            elif isinstance(value, ast.Attribute) and value.attr == "requires_grad_":
                yield module.finding(
                    self,
                    f"this names the method without a call: {module.text(value.value)} stays as it was.",
                    statement,
                    fix=Fix("Call it: requires_grad_(False)."),
                )

    def check(self, context: Context) -> Iterator[Finding]:
        yield from self._attributes(context)
        yield from self._plain_tensors(context)
        yield from self._statements(context)

    def _attributes(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        wrong: dict[tuple[str, bool], list[Parameter]] = {}
        on_modules: set[tuple[str, bool]] = set()
        for parameter in trace.parameters:
            for name, value in _near_misses(parameter.flags):
                if _differs(parameter, value):
                    wrong.setdefault((name, value), []).append(parameter)
        for module in trace.modules:
            for name, value in _near_misses(module.flags):
                for parameter in trace.below(module):
                    if _differs(parameter, value):
                        wrong.setdefault((name, value), []).append(parameter)
                        on_modules.add((name, value))
        for (name, value), parameters in wrong.items():
            writes = attribute_writes(trace, name)
            places: dict[Location, tuple[Write, list[Parameter]]] = {}
            for parameter in parameters:
                if (write := best_write(writes, parameter.fqn)) is not None:
                    places.setdefault(write.location, (write, []))[1].append(parameter)
            for where, (write, mine) in places.items():
                right = f"requires_grad_({value})" if (name, value) in on_modules else f"requires_grad = {value}"
                yield context.finding(
                    self,
                    f"{name} is not requires_grad: {context.names(mine)} {inflect(mine, 'stay')} frozen."
                    if value
                    else f"{name} is not requires_grad: {context.names(mine)} {inflect(mine, 'still train')}.",
                    at=where,
                    parameters=mine,
                    fix=_fix(write, right),
                )

    def _plain_tensors(self, context: Context) -> Iterator[Finding]:
        """Buffers, tensors in plain attributes and inputs: what they are for is not known, so it weighs less."""
        trace = context.trace
        places: dict[tuple[str, bool, Location], tuple[Write, list[str]]] = {}
        for tensor in trace.flagged:
            for name, value in _near_misses(tensor.flags):
                write = best_write(attribute_writes(trace, name), tensor.name)
                if write is not None and tensor.requires_grad != value:
                    places.setdefault((name, value, write.location), (write, []))[1].append(tensor.name)
        for (name, value, where), (write, names) in places.items():
            yield context.finding(
                self,
                f"{name} is not requires_grad: what is set so {'needs no grad' if value else 'still needs grad'}, "
                f"{', '.join(names)}.",
                at=where,
                named=names,
                fix=_fix(write, f"requires_grad = {value}"),
                severity=Severity.WARNING,
            )

    def _statements(self, context: Context) -> Iterator[Finding]:
        for kind, write in idle_statements(context.trace):
            value = bool(write.value.value) if isinstance(write.value, ast.Constant) else None
            mine = [p for p in context.trace.parameters if write.fits(p.fqn) >= 0 and p.requires_grad != value]
            if not mine or (kind == "==" and value is None):
                continue  # its source is judged all the same
            what = "this compares and drops the result" if kind == "==" else "this names the method without a call"
            state = inflect(mine, "stay") + " as before" if kind != "==" or value else inflect(mine, "still train")
            yield context.finding(
                self,
                f"{what}: {context.names(mine)} {state}.",
                at=write.location,
                parameters=mine,
                fix=_fix(write, f"requires_grad = {value}") if kind == "==" else Fix("Call it: requires_grad_(False)."),
            )


@functools.cache
def _looks_like_it(name: str) -> bool:
    """Whether an attribute's name is a near-miss of requires_grad."""
    plain = name.lower().replace("_", "")
    if name == "requires_grad" or difflib.SequenceMatcher(None, plain, "requiresgrad").ratio() < 0.85:
        return False
    # requires_grid may be a module's own word; a letter left out, or letters in another order, are nobody's
    return bool(re.search("gr?ar?d|grd", plain[-8:]))


def _own_word(module: SourceModule, name: str, uses: Iterable[ast.Attribute]) -> bool:
    """Whether a file defines the name as something of its own: a member of a class, an argument, a keyword."""
    tree = module.tree
    return (
        any(name in scope.bindings for scope in tree.scopes.values())
        or any(k.arg == name for k in tree.nodes(ast.keyword))
        or any(c.value == name for c in tree.nodes(ast.Constant))
        or any(spelled(use.value) in ("self", "cls") and module_class(module, use) is None for use in uses)
    )


def _said_right(module: SourceModule, use: ast.Attribute) -> bool:
    """Whether the same function sets the flag of the same thing, spelled right, as well."""
    function = module.tree.function(use)
    text = spelled(use.value)
    return any(
        module.tree.function(place) is function
        and text in (spelled(base), spelled(getattr(place, "value", base)))
        and not _overwritten(place)
        for base, place in freezes(module)
    )


def _overwritten(place: ast.AST) -> bool:
    """Whether a place puts something in place of the method instead of calling it."""
    return getattr(place, "attr", "") == "requires_grad_" and isinstance(getattr(place, "ctx", None), ast.Store)


def _differs(parameter: Parameter, value: bool) -> bool:
    """Whether a parameter never was as an attribute says: neither before the forward nor after all that ran."""
    return value not in (parameter.requires_grad, parameter.requires_grad_after)


def _near_misses(flags: Mapping[str, bool]) -> Iterator[tuple[str, bool]]:
    """Yield the attributes whose names look like requires_grad, with their values."""
    return ((name, value) for name, value in flags.items() if _looks_like_it(name))


def _fix(write: Write, right: str) -> Fix:
    edits: tuple[Edit, ...] = ()
    if write.simple:
        edits = (Edit(write.location, f"{write.function.text(write.base)}.{right}"),)
    return Fix(f"Write {right}.", safe=bool(edits), edits=edits)
