"""GL403 value-roundtrip-upstream."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint import ROUNDTRIP, Context, Finding, Fix, Rule, Severity, SourceModule, cut_findings, roundtrips

_TAKES_OUT = re.compile(
    r"\.(?:data|item|tolist|numpy|new_tensor)\b|\b(?:tensor|as_tensor|Variable)\(|(?<![.\w])float\("
)
"""Cheaper than the tree, which most files need not have looked at."""
_FIX = Fix("Stay in torch: use torch operations and torch.stack or torch.cat, which keep the history.")


class ValueRoundtripUpstream(Rule):
    """A value leaves autograd and comes back without its history.

    ## What it does
    Finds `.data`, `.item()`, `.tolist()`, `float(t)`, `.numpy()`, `torch.tensor(t)`, `torch.as_tensor([...])`,
    `new_tensor` and `Variable(t)` on the only ways from a trainable parameter to the loss. Whether a value that left
    torch came back is settled by nudging the parameter: if the loss moves, it did.

    ## Why it is bad
    The numbers are the same and the history is gone: everything upstream gets no gradient.

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
    Silent on values used only for logging, shapes and control flow. Where the forward is not reproducible under a fixed
    seed, the nudge proves nothing, and a note says so. In a source file alone, forwards that use layers of torch.nn
    themselves, in files that freeze nothing and give no part of a model to an optimizer.

    ## References
    https://pytorch.org/docs/stable/generated/torch.tensor.html (copies data, and detaches)
    """

    code = "GL403"
    name = "value-roundtrip-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})
    marks = ("def forward", ".data|.item(|.tolist(|.numpy(|new_tensor|tensor(|Variable(|float(")
    recording_decides = True

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        if "requires_grad" in module.source.text:
            return
        forwards = [
            s for s in module.stated(ast.FunctionDef) if s.name == "forward" and _TAKES_OUT.search(module.text_of(s))
        ]  # fmt: skip
        if not forwards or _trains_parts(module):
            return  # what is frozen or trained in parts may well be meant to be cut off
        for forward in forwards:
            cls = module.tree.owner(forward)
            if cls is None:
                continue
            for found in roundtrips(module, cls, forward):
                names = ", ".join(f"{layer}.*" for layer in found.layers)
                yield module.finding(
                    self,
                    f"{_message(_named(found.at))} {names}.",
                    found.at,
                    fix=_FIX,
                )

    def check(self, context: Context) -> Iterator[Finding]:
        yield from cut_findings(
            self, context, ROUNDTRIP, lambda cut: f"{_message(cut.name)} {{parameters}}.", _FIX.description
        )


_WRITTEN = {
    "data": ".data gives the value without its history",
    "item": ".item() takes the value out of autograd",
    "tolist": ".tolist() takes the values out of autograd",
    "numpy": ".numpy() takes the values out of autograd",
    "__array__": "the conversion to a numpy array takes the values out of autograd",
    "float": "float() takes the value out of autograd",
    "__float__": "float() takes the value out of autograd",
    "__int__": "int() takes the value out of autograd",
    "Variable": "Variable(t) gives the value without its history",
    "unseen": "the value goes on from here by a way that could not be recorded, and comes back without its history",
    "alias": "the value comes back without its history",
}


def _named(at: ast.expr) -> str:
    """The name of what takes values out of autograd."""
    return ast.unparse(getattr(at, "func", at)).rpartition(".")[2]


def _trains_parts(module: SourceModule) -> bool:
    """Whether the file asks for the parameters of a part of something: it may train that part alone."""
    return any(
        isinstance(use.value, ast.Attribute | ast.Subscript)
        for name in ("parameters", "named_parameters")
        for use in module.tree.attributes.get(name, ())
    )


def _message(name: str) -> str:
    what = _WRITTEN.get(name, f"{name}(...) copies the values without their history")
    return f"{what}: it stops the gradient on its only way back to"
