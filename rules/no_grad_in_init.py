"""GL101 no-grad-in-init."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, SourceContext, SourceModule
from gradlint.flow import region_location
from gradlint.location import Code
from gradlint.rulekit import inflect
from gradlint.source import (
    Region,
    frozen_elsewhere,
    grad_off_bindings,
    in_grad_off,
    makes_trainable,
    module_class,
    own_attribute,
)
from gradlint.traces import GradModeOff, ParameterRegistration, ParameterWrite, is_project
from gradlint.traces.ids import SiteId
from gradlint.traces.sites import Sites


class NoGradInInit(Rule):
    """Layers created under `no_grad` still train.

    ## What it does
    Finds layers and `nn.Parameter`s that are created while grad mode is off and that still require grad. Grad mode is
    off under `no_grad`, `inference_mode` and `set_grad_enabled(False)`, as a `with` block or a decorator.

    ## Why it is bad
    Grad mode decides whether *operations* are recorded. `nn.Parameter` sets `requires_grad=True` in any mode: the block
    freezes nothing, and the layer trains. `inference_mode` is worse: the parameters become inference tensors, and the
    first training step that saves them for backward fails.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.base = nn.Linear(3, 3)
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.base(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(2, 3),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(3, 3).requires_grad_(False)
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.base(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(2, 3),)}
    ```

    ## Known limits
    Not reported if the region also writes to the new parameters outside of their constructor, by `nn.init` or
    `new.weight[:, :3] = old.weight`: such a region has a purpose. Nor for layers that only make data: no optimizer
    holds them, and no gradient reaches them. Layers created before the recording are unknown. In a source file alone,
    the rule judges methods of an `nn.Module`, and functions that make an optimizer.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
    """

    code = "GL101"
    name = "no-grad-in-init"
    severity = Severity.ERROR
    source_prefilter = ("no_grad|inference_mode|set_grad_enabled",)
    recording_overrides_source = True

    MESSAGE = "{how} does not freeze layers created under it: {parameters} {still_train}."
    MESSAGE_INFERENCE = MESSAGE + " Their parameters are inference tensors, which training cannot use."
    RELATED_CREATED = "created here"
    FIX = "Create the layer outside of the block, and freeze it with requires_grad_(False)."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for region, bindings in grad_off_bindings(module):
            created = [(target, value) for target, value in bindings if _is_computed(value)]
            if created and all(_is_new_layer(module, v) and _trains_on(module, region, t) for t, v in created):
                names = [module.text(target) for target, _ in created]
                yield context.finding(
                    self,
                    self._message(region.how, ", ".join(names), inflect(names, "still train")),
                    region.expression,
                    related=[context.related(self.RELATED_CREATED, created[0][1])],
                    fix=Fix(self.FIX),
                )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        created = [(p, e) for p in trace.parameters if (e := _creation_without_grad(context, p)) is not None]
        for where, members in context.by_place(created, lambda m: region_location(trace, trace.region(m[1].region))):
            if any(_is_written_on_purpose(context, p, creation) for p, creation in members):
                continue
            parameters = [p for p, _ in members]
            how = trace.region(members[0][1].region).how
            yield context.finding(
                self,
                self._message(how, context.names(parameters), context.without_freeze(parameters)),
                at=where,
                parameters=parameters,
                related=[context.related(self.RELATED_CREATED, members[0][1])],
                fix=Fix(self.FIX),
            )

    def _message(self, how: str, parameters: str, still_train: str) -> str:
        message = self.MESSAGE_INFERENCE if how == "inference_mode" else self.MESSAGE
        return message.format(how=how, parameters=parameters, still_train=still_train)


def _is_computed(value: ast.expr) -> bool:
    """Return True if a value is more than a number or a name."""
    return any(isinstance(n, ast.Call | ast.Await | ast.Yield | ast.BinOp) for n in ast.walk(value))


def _is_new_layer(module: SourceModule, value: ast.expr) -> bool:
    """Return True if a call makes a trainable layer and computes no tensor for it."""
    kind = module.kind(value)
    calls = [n for n in ast.walk(value) if isinstance(n, ast.Call)]
    is_layer = kind is not None and kind.made is value and makes_trainable(module, value)
    return is_layer and all(module.kind(call) is not None for call in calls)


def _trains_on(module: SourceModule, region: Region, target: ast.expr) -> bool:
    """Return True if nothing in the file freezes the new layer and it runs with gradient."""
    if frozen_elsewhere(module, target, region.node):
        return False
    owner = module_class(module, target)
    if owner is not None and (name := own_attribute(target, owner[1])):
        # Every other use runs without gradient too: a fixed extractor, whatever its flags are.
        inside = set(ast.walk(region.node))
        return not any(in_grad_off(module, use) for use in module.tree.attributes[name] if use not in inside)
    function = module.tree.function(target)
    kinds = [module.kind(node) for node in ast.walk(function)] if function is not None else []
    return isinstance(target, ast.Name) and any(k is not None and k.what == "optimizer" for k in kinds)


def _creation_without_grad(context: Context, parameter: Parameter) -> ParameterRegistration | None:
    """Return the registration of a parameter that trains, while user code had grad mode off."""
    creation = parameter.created_by
    if creation is None or creation.region < 0 or not parameter.requires_grad:
        return None
    if creation.number in context.trace.loading:
        return None  # load_state_dict(assign=True) makes parameters in a region of its own
    is_leaked = creation.region in context.trace.grad_off_leaked
    if is_leaked or _is_of_library(context, context.trace.region(creation.region)):
        return None
    return creation if context.flow.meant_to_train(parameter) else None


def _is_of_library(context: Context, region: GradModeOff) -> bool:
    """Return True if a library switched grad mode off for its own code."""
    decorated = region.decorated
    return not context.by_user(region.site) or (decorated is not None and not is_project(decorated.co_filename))


def _is_written_on_purpose(context: Context, parameter: Parameter, creation: ParameterRegistration) -> bool:
    """Return True if the region computes the value, or writes to it outside of its constructor."""
    if parameter.computed:
        return True
    region = creation.region
    writes = [e for e in parameter.writes if e.region == region and e.site != creation.site]
    return not all(_is_below_region(context, write, creation) for write in writes)


def _is_below_region(context: Context, write: ParameterWrite, creation: ParameterRegistration) -> bool:
    """Return True if a write and the registration share a constructor called in the region."""
    sites, region = context.trace.sites, context.trace.region(creation.region)
    shared = _constructors(sites, write.site) & _constructors(sites, creation.site)
    inside = shared - _constructors(sites, region.site)
    return any(code != region.decorated for code, _ in inside)


def _constructors(sites: Sites, site: SiteId) -> set[tuple[Code, SiteId]]:
    """Return the constructor frames of a call chain: (code, chain above)."""
    return {(frame.code, above) for frame, above in sites.links(site) if frame.code.co_name == "__init__"}
