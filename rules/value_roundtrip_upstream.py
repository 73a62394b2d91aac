"""GL403 value-roundtrip-upstream."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceContext, SourceModule
from gradlint.flow import CutKind
from gradlint.rulekit import report_cuts
from gradlint.source import dotted_text, find_roundtrips

_LEAVES_AUTOGRAD = re.compile(
    r"\.(?:data|item|tolist|numpy|new_tensor)\b|\b(?:tensor|as_tensor|Variable)\(|(?<![.\w])float\("
)
"""Cheaper than the tree: most files match nothing."""


class ValueRoundtripUpstream(Rule):
    """A value leaves autograd and comes back without its history.

    ## What it does
    Finds `.data`, `.item()`, `.tolist()`, `float(t)`, `.numpy()`, `torch.tensor(t)`, `torch.as_tensor([...])`,
    `new_tensor` and `Variable(t)` on the only paths from a trainable parameter to the loss. To learn whether a value
    that left torch comes back, gradlint perturbs the parameter: if the loss moves, it does.

    ## Why it is bad
    The numbers are the same and the history is lost: no parameter upstream receives gradient.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            factor = torch.tensor(self.scale(x).mean().item())
            return self.head(x) * factor

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x) * self.scale(x).mean()

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Not reported for values used only for logging, shapes and control flow. If the forward is not reproducible under a
    fixed seed, the perturbation proves nothing, and a note says so. In a source file alone, the rule judges forwards
    that use layers of torch.nn. The file must freeze nothing and give no part of a model to an optimizer.

    ## References
    https://pytorch.org/docs/stable/generated/torch.tensor.html (copies data, and detaches)
    """

    code = "GL403"
    name = "value-roundtrip-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})
    source_prefilter = ("def forward", ".data|.item(|.tolist(|.numpy(|new_tensor|tensor(|Variable(|float(")
    recording_overrides_source = True

    MESSAGE = "{effect}, which cuts the only gradient path to {parameters}."
    FIX = "Stay in torch: torch operations, torch.stack and torch.cat keep the history."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        if "requires_grad" in module.source.text:
            return
        methods = (s for s in module.stated(ast.FunctionDef) if s.name == "forward")
        forwards = [method for method in methods if _LEAVES_AUTOGRAD.search(module.text_of(method))]
        if not forwards or _trains_parts(module):
            return  # a part that is frozen, or trained alone, may be cut off on purpose
        for forward in forwards:
            cls = module.tree.owner(forward)
            for roundtrip in find_roundtrips(module, cls, forward) if cls is not None else ():
                at = roundtrip.at
                name = dotted_text(at.func if isinstance(at, ast.Call) else at).rpartition(".")[2]
                layers = ", ".join(f"{layer}.*" for layer in roundtrip.layers)
                message = self._template(name).format(parameters=layers)
                yield context.finding(self, message, at, fix=Fix(self.FIX))

    def check(self, context: Context) -> Iterator[Finding]:
        yield from report_cuts(self, context, CutKind.ROUNDTRIP, lambda cut: self._template(cut.name), self.FIX)

    def _template(self, name: str) -> str:
        effect = _EFFECTS.get(name, f"{name}(...) copies the values without their history")
        return self.MESSAGE.replace("{effect}", effect)


_EFFECTS = {
    "data": ".data gives the value without its history",
    "item": ".item() takes the value out of autograd",
    "tolist": ".tolist() takes the values out of autograd",
    "numpy": ".numpy() takes the values out of autograd",
    "__array__": "the conversion to a numpy array takes the values out of autograd",
    "float": "float() takes the value out of autograd",
    "__float__": "float() takes the value out of autograd",
    "__int__": "int() takes the value out of autograd",
    "Variable": "Variable(t) gives the value without its history",
    "unseen": "the value leaves torch here in a way that was not recorded",
    "alias": "the value comes back without its history",
}


def _trains_parts(module: SourceModule) -> bool:
    """Return True if the file reads the parameters of a part, which it may train alone."""
    return any(
        isinstance(use.value, ast.Attribute | ast.Subscript)
        for name in ("parameters", "named_parameters")
        for use in module.tree.attributes.get(name, ())
    )
