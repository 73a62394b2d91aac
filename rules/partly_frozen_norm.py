"""GL202 partly-frozen-norm."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Module, Parameter, Rule, Severity, inflect


class PartlyFrozenNorm(Rule):
    """A freeze of norm layers that misses some of them.

    ## What it does
    Where one line froze norm layers and left the layers around them training, finds the norms of the same type in the
    same blocks that it missed, and norms of which it froze only the weight or only the bias.

    ## Why it is bad
    Norms are often chosen by name, and names lie: `'bn' in name` misses the shortcut's norm when that is called
    `downsample.1`. Frozen and training norms then stand side by side in one block.

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
    Silent where most norms were left training, where the layers beside the norms are frozen too (whole parts, BitFit),
    on norms of parts in which the line froze none, and on norms that keep their scale and give up their shift alone.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.modules
    """

    code = "GL202"
    name = "partly-frozen-norm"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        # a frozen layer that is no norm counts among its neighbours, which do not all train then
        norms = [m for m in trace.modules if m.parent >= 0 and _own(context, m)]
        groups: dict[object, list[Module]] = {}
        first: dict[object, Event] = {}
        for norm in norms:
            freeze = next((e for p in _own(context, norm) if (e := p.frozen_by) is not None), None)
            if freeze is not None:
                key = trace.location(freeze.site), norm.type
                groups.setdefault(key, []).append(norm)
                first.setdefault(key, freeze)
        for place, members in groups.items():
            if not all(_neighbours_train(context, m) for m in members):
                continue
            whole = [m for m in members if not any(p.requires_grad for p in _own(context, m))]
            halves = [
                p for m in members for p in _own(context, m) if p.requires_grad and p.fqn.endswith("bias")
            ]  # fmt: skip
            missed = _missed(context, whole, [n for n in norms if n.type == members[0].type])
            if missed:
                wrong = [p for m in missed for p in _own(context, m)]
                kind = members[0].type.name
                text = f"this freezes {len(whole)} {kind} layers and misses {len(missed)}: {context.names(wrong)}."
            elif halves:
                wrong = halves
                text = f"this freezes norm layers by half: {context.names(wrong)} {inflect(wrong, 'still train')}."
            else:
                continue
            yield context.finding(
                self,
                text,
                at=first[place].site,
                parameters=wrong,
                related=[context.related(f"{m.fqn} is made here", m.registered_at) for m in missed[:2]],
                fix=Fix("Choose norm layers by their type (isinstance over modules()), not by their name."),
            )


def _own(context: Context, module: Module) -> list[Parameter]:
    return [context.trace.parameters[i] for i in module.parameters]


def _neighbours_train(context: Context, norm: Module) -> bool:
    """Whether the other layers of the norm's parent have weights and all of them train."""
    beside = [m for m in context.trace.modules if m.parent == norm.parent and "Norm" not in m.type.name]
    weights = [p for m in beside for p in _own(context, m)]
    return bool(weights) and all(p.requires_grad for p in weights)


def _missed(context: Context, frozen: list[Module], norms: list[Module]) -> list[Module]:
    """The norms left training in the blocks of frozen ones, where those are the majority."""
    top = _common([m.fqn for m in frozen])
    others = [n for n in norms if all(p.requires_grad for p in _own(context, n))]
    parents = {m.parent for m in frozen}
    missed = [n for n in others if n.parent in parents or _shares_block(n.fqn, frozen, top)]
    return missed if len(frozen) > len(missed) else []


def _shares_block(fqn: str, frozen: list[Module], top: str) -> bool:
    """Whether the part below `top` that a norm is in holds a frozen one too."""
    depth = len(top.split(".")) + 1 if top else 1
    part = ".".join(fqn.split(".")[:depth]) + "."
    return any(m.fqn.startswith(part) for m in frozen)


def _common(names: list[str]) -> str:
    """The longest dotted prefix of all names, short of a whole name."""
    split = [n.split(".")[:-1] for n in names]
    prefix: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        prefix.append(parts[0])
    return ".".join(prefix)
