"""GL202 partly-frozen-norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gradlint import Context, Finding, Fix, Module, Rule, Severity
from gradlint.rulekit import common_path
from gradlint.traces import ModuleIndex
from gradlint.traces.dataflow import union

_CONTAINERS = frozenset(("Sequential", "ModuleList", "ModuleDict"))


class PartlyFrozenNorm(Rule):
    """A freeze of norm layers that misses some of them.

    ## What it does
    Looks at lines that freeze norm layers and leave the layers around them trainable. Finds norms of the same type in
    the same blocks that such a line missed, and norms with a frozen weight and a trainable bias.

    ## Why it is bad
    Norms are often chosen by name, and names mislead: `'bn' in name` misses the norm of a shortcut that is called
    `downsample.1`. One block then contains frozen and trainable norms.

    ## Example
    ```python
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Linear(4, 4), nn.LayerNorm(4)
            self.conv2, self.bn2 = nn.Linear(4, 4), nn.LayerNorm(4)
            self.shortcut = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

        def forward(self, x):
            return self.bn2(self.conv2(self.bn1(self.conv1(x)))) + self.shortcut(x)

    def build():
        model = nn.Sequential(Block(), Block())
        for name, p in model.named_parameters():
            if "bn" in name:
                p.requires_grad = False
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Linear(4, 4), nn.LayerNorm(4)
            self.conv2, self.bn2 = nn.Linear(4, 4), nn.LayerNorm(4)
            self.shortcut = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

        def forward(self, x):
            return self.bn2(self.conv2(self.bn1(self.conv1(x)))) + self.shortcut(x)

    def build():
        model = nn.Sequential(Block(), Block())
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Not reported if most norms stay trainable, or if the layers beside the norms are frozen too (whole parts, BitFit).
    Also not reported: norms in parts without any frozen norm, and norms with a trainable weight and a frozen bias.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.modules
    """

    code = "GL202"
    name = "partly-frozen-norm"
    severity = Severity.WARNING

    MESSAGE = "this line freezes {frozen} {type} layers and misses {missed}: {parameters}."
    MESSAGE_HALF = "this line freezes norm layers only in part: {parameters} {still_train}."
    RELATED = "{module} is created here"
    FIX = "Choose norm layers by their type (isinstance over modules()), not by their name."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        # a frozen layer that is no norm drops out below: its neighbors do not all train
        norms = [m for m in trace.modules if m.parent >= 0 and trace.own(m)]
        frozen = [(e, norm) for norm in norms if (e := context.first_freeze(trace.own(norm))) is not None]
        for _, group in context.by_place(frozen, lambda f: (trace.location(f[0].site), f[1].type)):
            members = [norm for _, norm in group]
            if not all(_neighbours_train(context, m) for m in members):
                continue
            whole = [m for m in members if not any(p.requires_grad for p in trace.own(m))]
            own = [p for m in members for p in trace.own(m)]
            halves = [p for p in own if p.requires_grad and p.fqn.endswith("bias")]
            missed = _missed(context, whole, [n for n in norms if n.type == members[0].type])
            if missed:
                wrong = [p for m in missed for p in trace.own(m)]
                kind = members[0].type.name
                message = self.MESSAGE.format(
                    frozen=len(whole), type=kind, missed=len(missed), parameters=context.names(wrong)
                )
            elif halves:
                wrong = halves
                message = context.fill(self.MESSAGE_HALF, wrong)
            else:
                continue
            yield context.finding(
                self,
                message,
                at=group[0][0].site,
                parameters=wrong,
                related=[context.related(self.RELATED.format(module=m.fqn), m.registered_at) for m in missed[:2]],
                fix=Fix(self.FIX),
            )


def _neighbours_train(context: Context, norm: Module) -> bool:
    """Return True if the other layers of the norm's parent have weights, all of them trainable."""
    trace = context.trace
    beside = (trace.modules[number] for _, number in trace.modules[norm.parent].children)
    weights = [p for m in beside if m.parent == norm.parent and "Norm" not in m.type.name for p in trace.own(m)]
    return bool(weights) and all(p.requires_grad for p in weights)


def _missed(context: Context, frozen: list[Module], norms: list[Module]) -> list[Module]:
    """Return the trainable norms in blocks with frozen ones, if most are frozen."""
    depth = len(common_path(m.fqn.split(".")[:-1] for m in frozen)) + 1
    blocks = {tuple(m.fqn.split(".")[:depth]) for m in frozen if m.fqn.count(".") >= depth}
    by_parent: dict[ModuleIndex, list[Module]] = {}
    for module in frozen:
        by_parent.setdefault(module.parent, []).append(module)
    others = [n for n in norms if all(p.requires_grad for p in context.trace.own(n))]
    missed = [
        n
        for n in others
        if n.parent in by_parent or tuple(n.fqn.split(".")[:depth]) in blocks or _is_in_shortcut(context, n, by_parent)
    ]
    return missed if len(frozen) > len(missed) else []


def _is_in_shortcut(context: Context, norm: Module, frozen: Mapping[ModuleIndex, list[Module]]) -> bool:
    """Return True if a norm is in a branch beside frozen ones.

    The module that holds them contains it, through plain containers alone. Its output does not depend
    on them. A head or a later stage does.
    """
    trace = context.trace
    holder = trace.modules[norm.parent]
    while holder.type.name in _CONTAINERS and holder.parent >= 0:
        holder = trace.modules[holder.parent]
    beside = [p for m in frozen.get(holder.number, ()) for p in trace.own(m)]
    if norm.parent == holder.number or not beside:
        return False
    outputs = [v for p in trace.own(norm) for number in context.flow.readers(p) for v in trace.ops[number].outputs]
    depends = union(context.flow.masks.data, outputs)
    return bool(outputs) and not any(depends >> p.index & 1 for p in beside)
