"""GL104 unregistered-submodule."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Edit, Finding, Fix, Parameter, Rule, Severity, SourceContext
from gradlint.rulekit import attribute_location, variable_location
from gradlint.source import Container, contents, elements, is_only_called, makes_trainable, module_class, own_attribute


class UnregisteredSubmodule(Rule):
    """Layers in a Python list are not part of the model.

    ## What it does
    Finds modules that run in the forward and receive gradient, but that the model keeps in a plain list, tuple, dict or
    object. `parameters()` does not contain their parameters, and no optimizer holds them.

    ## Why it is bad
    They are never trained, moved by `.to(device)`, switched by `train()` and `eval()`, or saved.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4) for _ in range(2)]
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return self.head(x)

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return self.head(x)

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Not reported for modules that an optimizer holds directly or that are frozen. Nor for modules without gradient, as a
    teacher hidden from `state_dict()` on purpose. Modules in a closure or a global are found if the model's own methods
    name them. In a source file alone, the rule judges lists and dicts of new layers that the class itself loops over
    and calls.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.ModuleList.html
    """

    code = "GL104"
    name = "unregistered-submodule"
    severity = Severity.ERROR
    fixable = True
    names_parameters = False
    needs = frozenset({"forward"})
    source_prefilter = ("def __init__", "Module|PreTrainedModel|ModelMixin", "[|{")
    recording_overrides_source = True

    MESSAGE = "{attribute} is a plain {type}, which registers no module: {parameters} {run} untrained in the forward."
    MESSAGE_VARIABLE = "{model} uses {attribute} without registering it: {parameters} {run} untrained in the forward."
    MESSAGE_SOURCE = "{attribute} is a plain {type}, which registers no module: parameters() leaves these layers out."
    RELATED_MADE = "created here"
    RELATED_OPTIMIZER = "{optimizer} is created here, without them"
    FIX = "Keep the layers in an nn.{container}."
    FIX_VARIABLE = "Make it an attribute of the module."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for statement in module.assignments:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            value = statement.value
            if not isinstance(target, ast.Attribute) or not isinstance(value, Container):
                continue
            if not all(isinstance(part, ast.Call) for part in elements(value)):
                continue
            name, method = target.attr, module_class(module, target)
            if method is None or own_attribute(target, method[1]) != name:
                continue
            if len(module.kinds.attributes(method[0]).get(name, ())) != 1:
                continue
            layers = contents(module, method[0], name, value)
            trainable = [layer for layer in layers if makes_trainable(module, layer)]
            # One layer in brackets is a known way to hide it from state_dict() on purpose.
            is_one = len(layers) == 1 and isinstance(value, ast.List | ast.Dict | ast.Tuple) and elements(value)
            if trainable and not is_one and is_only_called(module, method[0], name):
                kind = type(value).__name__.removesuffix("Comp").lower()
                yield context.finding(
                    self,
                    self.MESSAGE_SOURCE.format(attribute=name, type=kind),
                    statement,
                    related=[context.related(self.RELATED_MADE, trainable[0])],
                    fix=self._fix(context, value, "ModuleDict" if kind == "dict" else "ModuleList"),
                )

    def _fix(self, context: SourceContext, value: ast.expr, container: str) -> Fix:
        edits: tuple[Edit, ...] = ()
        if context.module.qualified(ast.copy_location(ast.Name("nn", ast.Load()), value)) == "torch.nn":
            text = context.module.text(value)
            if isinstance(value, ast.Tuple) and not text.startswith("("):
                text = f"({text})"
            edits = (context.replacement(value, f"nn.{container}({text})"),)
        return Fix(self.FIX.format(container=container), edits=edits)

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace

        def holder_of(parameter: Parameter) -> tuple[int, str, bool]:
            entry = trace.unregistered_modules[parameter.module]
            return entry.holder, entry.attribute, entry.variable

        unregistered = context.flow.by_index(context.flow.unregistered)
        for (number, attribute, is_variable), parameters in context.by_place(unregistered, holder_of):
            holder = trace.modules[number]
            event = next((e for p in parameters if (e := p.registered_by) is not None), None)
            if is_variable:
                where = trace.location(event.site) if event is not None else variable_location(trace, attribute)
            else:
                where = attribute_location(trace, holder.type.bases, attribute)
            template = self.MESSAGE_VARIABLE if is_variable else self.MESSAGE
            kind = trace.unregistered_modules[parameters[0].module].container
            message = context.fill(template, parameters, attribute=attribute, model=holder.type.name, type=kind)
            optimizers = [(self.RELATED_OPTIMIZER.format(optimizer=o.type), o.site) for o in trace.optimizers[:1]]
            yield context.finding(
                self,
                message,
                at=where if where is not None or event is None else event.site,
                parameters=parameters,
                related=[
                    context.related(self.RELATED_MADE, event),
                    *(context.related(text, site) for text, site in optimizers),
                ],
                fix=Fix(self.FIX_VARIABLE if is_variable else self.FIX.format(container="ModuleList or nn.ModuleDict")),
                demoted=where is None and not any(p.project for p in parameters),
            )
