"""GL103 misspelled-requires-grad."""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, SourceContext, SourceModule
from gradlint.rulekit import executed_idle_flags, executed_writes, had_flag_until_later, inflect
from gradlint.source import (
    Write,
    attribute_writes,
    best_write,
    dotted_text,
    idle_flag_statement,
    is_flag_set,
    module_class,
)

_NAMED = re.compile(r"\.\s*(\w{9,17})\b")
_UNCALLED = re.compile(r"\.requires_grad_\s*(?!\s*\()|\.requires_grad\s*==")


class MisspelledRequiresGrad(Rule):
    """`param.require_grad = False` freezes nothing.

    ## What it does
    Finds a near-miss of `requires_grad` that is set on parameters or modules. Also finds statements that name
    `requires_grad` without effect: `p.requires_grad == False`, and `p.requires_grad_` without a call.

    ## Why it is bad
    Tensors and modules accept any attribute. Nothing reads the misspelled one, and the parameters train.

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
    Not reported if the tensor already is as the attribute says, or was so until a later unfreeze. Buffers, tensors in
    plain attributes and inputs are judged too, with a warning. In a source file alone, an object of unknown kind gets a
    warning, and names that the file uses for something else are left alone.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.requires_grad.html
    """

    code = "GL103"
    name = "misspelled-requires-grad"
    severity = Severity.ERROR
    fixable = True
    names_parameters = False
    source_prefilter = ("grad|Grad|gard|grda|grd|gad|GRAD",)
    suppressible_on = r"(?i)gr?ar?d|grda|grd"

    MESSAGE = "{name} is not requires_grad: {parameters} {outcome}."
    MESSAGE_TENSORS = "{name} is not requires_grad: {tensors} {outcome}."
    MESSAGE_SOURCE = "{name} is not requires_grad: autograd ignores this attribute of {object}."
    MESSAGE_COMPARED = "== compares requires_grad and sets nothing: {parameters} {outcome}."
    MESSAGE_UNCALLED = "requires_grad_ without parentheses calls nothing: {parameters} {outcome}."
    FIX = "Write {code}."
    FIX_UNCALLED = "Call it: requires_grad_(False)."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        text = module.source.text
        if any(map(_is_near_miss, set(_NAMED.findall(text)) - {"requires_grad_"})) or _UNCALLED.search(text):
            yield from self._near_misses_in_source(context)
            for statement in module.stated(ast.Expr):
                write = idle_flag_statement(module, statement)
                if write is not None:
                    outcome = "stays as it is" if write.value is None else "keeps its flag"
                    yield context.finding(
                        self, self._idle_message(write, module.text(write.base), outcome), write.node,
                        fix=self._idle_fix(write),
                    )  # fmt: skip

    def _near_misses_in_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for name, uses in module.tree.attributes.items():
            if not _is_near_miss(name) or _is_own_word(module, name, uses):
                continue
            for write in attribute_writes(module, name):
                kind = module.kind(write.base)
                what = kind.what if kind is not None else ""
                if _is_meant_as_flag(write, name, what) and not is_flag_set(module, write.base):
                    yield context.finding(
                        self,
                        self.MESSAGE_SOURCE.format(name=name, object=module.text(write.base)),
                        write.node,
                        severity=None if what in ("parameter", "module") else Severity.WARNING,
                        fix=self._fix(write, what == "module"),
                    )

    def check(self, context: Context) -> Iterator[Finding]:
        yield from self._parameters(context)
        yield from self._plain_tensors(context)
        yield from self._idle_statements(context)

    def _parameters(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        misses: list[tuple[str, bool, Parameter, bool]] = []
        for parameter in trace.parameters:
            misses += ((name, value, parameter, False) for name, value in _near_misses(parameter.flags))
        for module in trace.modules:
            for name, value in _near_misses(module.flags):
                misses += ((name, value, parameter, True) for parameter in trace.below(module))
        writes = {name: executed_writes(trace, name) for name in {name for name, *_ in misses}}
        hits = []
        for name, value, parameter, on_module in misses:
            differs = value not in (parameter.requires_grad_before, parameter.requires_grad_after)
            write = best_write(writes[name], parameter.fqn) if differs else None
            if write is not None and not had_flag_until_later(trace, parameter, value, write):
                hits.append((write, name, value, parameter, on_module))
        for (write, name, value), members in context.by_place(hits, lambda hit: hit[:3]):
            parameters = [hit[3] for hit in members]
            outcome = f"{inflect(parameters, 'stay')} frozen" if value else context.without_freeze(parameters)
            yield context.finding(
                self,
                self.MESSAGE.format(name=name, parameters=context.names(parameters), outcome=outcome),
                at=write.location,
                parameters=parameters,
                fix=self._fix(write, any(hit[4] for hit in members)),
                demoted=not (value or any(map(context.flow.meant_to_train, parameters))),
            )

    def _plain_tensors(self, context: Context) -> Iterator[Finding]:
        """Yield the findings on buffers, tensors in plain attributes and inputs."""
        hits = []
        for tensor in context.trace.flagged:
            for name, value in _near_misses(tensor.flags):
                write = best_write(executed_writes(context.trace, name), tensor.name)
                if write is not None and tensor.requires_grad != value:
                    hits.append((write, name, value, tensor.name))
        for (write, name, value), members in context.by_place(hits, lambda hit: hit[:3]):
            names = [hit[3] for hit in members]
            outcome = f"{inflect(names, 'do')} not require grad" if value else f"{inflect(names, 'still require')} grad"
            yield context.finding(
                self,
                self.MESSAGE_TENSORS.format(name=name, tensors=", ".join(names), outcome=outcome),
                at=write.location,
                named=names,
                fix=self._fix(write),
                severity=Severity.WARNING,
            )

    def _idle_statements(self, context: Context) -> Iterator[Finding]:
        for write in executed_idle_flags(context.trace):
            value = bool(write.value.value) if isinstance(write.value, ast.Constant) else None
            if write.value is not None and value is None:
                continue  # which flag is meant shows in the source alone
            hit = [p for p in context.trace.parameters if write.fit(p.fqn) >= 0 and p.requires_grad != value]
            if hit:
                outcome = inflect(hit, "still train") if value is False else f"{inflect(hit, 'stay')} as before"
                yield context.finding(
                    self,
                    self._idle_message(write, context.names(hit), outcome),
                    at=write.location,
                    parameters=hit,
                    fix=self._idle_fix(write),
                )

    def _idle_message(self, write: Write, parameters: str, outcome: str) -> str:
        message = self.MESSAGE_UNCALLED if write.value is None else self.MESSAGE_COMPARED
        return message.format(parameters=parameters, outcome=outcome)

    def _idle_fix(self, write: Write) -> Fix:
        return self._fix(write) if write.value is not None else Fix(self.FIX_UNCALLED)

    def _fix(self, write: Write, on_module: bool = False) -> Fix:
        value = write.module.text(write.value) if write.value is not None else ""
        code = f"requires_grad_({value})" if on_module else f"requires_grad = {value}"
        edits = write.rewritten(code)
        return Fix(self.FIX.format(code=code), safe=bool(edits), edits=edits)


@functools.cache
def _is_near_miss(name: str) -> bool:
    """Return True if an attribute's name is a near-miss of requires_grad."""
    plain = name.lower().replace("_", "")
    if name == "requires_grad" or difflib.SequenceMatcher(None, plain, "requiresgrad").ratio() < 0.85:
        return False
    # requires_grid may be a word of its own; a missing letter, or letters in another order, are typing errors.
    return bool(re.search("gr?ar?d|grd", plain[-8:]))


def _is_own_word(module: SourceModule, name: str, uses: Iterable[ast.Attribute]) -> bool:
    """Return True if the file reads the attribute, or defines the name for something else."""
    if name == "requires_grad_":
        return False
    tree = module.tree
    return (
        any(isinstance(use.ctx, ast.Load) for use in uses)
        or any(name in scope.bindings for scope in tree.scopes.values())
        or any(k.arg == name for k in tree.nodes(ast.keyword))
        or any(c.value == name for c in tree.nodes(ast.Constant))
        or any(dotted_text(use.value) in ("self", "cls") and module_class(module, use) is None for use in uses)
    )


def _is_meant_as_flag(write: Write, name: str, what: str) -> bool:
    """Return True if a near-miss is meant to change the flag of an object of this kind.

    A plain tensor requires no grad anyway.
    """
    value = write.value.value if isinstance(write.value, ast.Constant) else None
    if what == "tensor" and isinstance(write.value, ast.Constant) and not value:
        return False
    if not what or name == "requires_grad_":
        return isinstance(value, bool) and what in ("", "parameter", "module", "tensor")
    return what in ("parameter", "module", "tensor")


def _near_misses(flags: Mapping[str, bool]) -> Iterator[tuple[str, bool]]:
    """Yield the attributes whose names are near-misses of requires_grad, with their values."""
    return ((name, value) for name, value in flags.items() if _is_near_miss(name))
