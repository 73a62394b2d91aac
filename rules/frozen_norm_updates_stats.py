"""GL201 frozen-norm-updates-stats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from gradlint import Context, Finding, Fix, Location, Module, Parameter, Rule, Severity, Trace
from gradlint.rulekit import patterns_of, plural
from gradlint.traces import ModeSwitch
from gradlint.traces.ids import NO_MODULE, OptimizerIndex


class FrozenNormUpdatesStats(Rule):
    """A frozen norm layer that still updates its running statistics.

    ## What it does
    Finds norm layers that ran in train mode, with a `running_mean` or `running_var` that changed in the forward. Their
    affine parameters are frozen, or they have none and all parameters of the parent are frozen.

    ## Why it is bad
    `requires_grad` stops the optimizer, not the statistics: they are buffers, and every batch in train mode updates
    them. The "frozen" network drifts, and normalizes by the batch instead of by the learned statistics.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        for p in backbone.parameters():
            p.requires_grad = False
        head = nn.Linear(8, 2)
        model = nn.Sequential(backbone, head)
        return {"model": model, "inputs": (torch.randn(8, 4),),
                "optimizer": torch.optim.SGD(head.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).requires_grad_(False)
            self.head = nn.Linear(8, 2)

        def train(self, mode=True):
            super().train(mode)
            self.backbone.eval()
            return self

        def forward(self, x):
            return self.head(self.backbone(x))

    def build():
        model = Net().train()
        return {"model": model, "inputs": (torch.randn(8, 4),),
                "optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1)}
    ```

    ## Known limits
    Networks that change by other means are not reported: written by hand, or copied from a trainable network (mean
    teachers). The other half of a GAN is not reported either: this loss does not train its optimizer.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
    """

    code = "GL201"
    name = "frozen-norm-updates-stats"
    severity = Severity.ERROR
    needs = frozenset({"forward"})

    MESSAGE = (
        "train mode still updates the running statistics of {count} ({names}): requires_grad=False does not stop it."
    )
    MESSAGE_MOMENTUM_0 = (
        "train mode normalizes by the batch in {count} with momentum 0 ({names}): the running statistics are not used."
    )
    RELATED = "{module} is created here"
    RELATED_EVAL = "it is put in eval mode here"
    RELATED_TRAIN = "train() puts it back in train mode here"
    FIX = (
        "Put the frozen layers in eval mode, and keep them there by overriding train(). Or use a norm without running "
        "statistics to update (torchvision.ops.FrozenBatchNorm2d)."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        norms = list(self._frozen_norms(context))
        for (where, by_batch), members in context.by_place(norms, lambda norm: (norm[0], _by_batch(norm[1]))):
            modules = [module for _, module, _ in members]
            freeze = context.first_freeze(members[0][2])
            evaluated, undone = _undone_eval(context, modules)
            yield context.finding(
                self,
                (self.MESSAGE_MOMENTUM_0 if by_batch else self.MESSAGE).format(
                    count=plural(len(modules), "frozen norm layer"), names=patterns_of([m.fqn for m in modules])
                ),
                at=where,
                demoted=by_batch,
                parameters=[p for _, _, judged in members for p in judged],
                related=[
                    context.related(self.RELATED_EVAL, evaluated),
                    context.related(self.RELATED_TRAIN, undone),
                    *(context.callers(freeze.site) if freeze else ()),
                    context.related(self.RELATED.format(module=modules[0].fqn), modules[0].registered_at),
                ],
                fix=Fix(self.FIX),
            )

    def _frozen_norms(self, context: Context) -> Iterator[tuple[Location | None, Module, Sequence[Parameter]]]:
        """Yield the norm layers to report, each with the line of the freeze and its parameters."""
        trace = context.trace
        active = {n for p in context.flow.by_index(context.flow.reached) for n, _ in p.groups}
        for module in trace.modules:
            if not _moved(context, module) and not _by_batch(module):
                continue
            inside: Iterable[Sequence[Parameter]] = map(trace.below, trace.around(module.parent))
            judged = next(filter(None, (trace.own(module), *inside)), ())
            if not judged or not all(p.frozen_throughout for p in judged) or _moves_otherwise(trace, judged, active):
                continue
            yield trace.location(context.freeze_site(module, judged)), module, judged


def _undone_eval(context: Context, modules: list[Module]) -> tuple[ModeSwitch | None, ModeSwitch | None]:
    """Return the eval() of a part that contains a norm layer, and the train() that undid it.

    An eval() of a whole model is a phase of the training, and says nothing about its frozen layers.
    """
    trace = context.trace
    numbers = {module.number for module in modules}
    evaluated: ModeSwitch | None = None
    for event in trace.events_of(ModeSwitch):
        if numbers.isdisjoint(event.changed) or not context.by_user(event.site):
            continue
        if event.training and evaluated is not None:
            return evaluated, event
        if not event.training and trace.modules[event.module].parent != NO_MODULE:
            evaluated = event
    return None, None


def _moved(context: Context, module: Module) -> bool:
    return f"{module.fqn}.running_mean".removeprefix(".") in context.trace.buffers_moved


def _by_batch(module: Module) -> bool:
    """Return True if a norm layer ran in train mode with a momentum of 0."""
    ran_in_train_mode = module.calls > 0 and module.training_after
    return ran_in_train_mode and module.momentum == 0 and "running_mean" in module.running_stats


def _moves_otherwise(trace: Trace, parameters: Sequence[Parameter], active: Set[OptimizerIndex]) -> bool:
    """Return True if user code, a network they copy or another loss changes the parameters.

    `active` are the optimizers that this loss gives gradient to.
    """
    if any(p.written or trace.has_trainable_twin(p) for p in parameters):
        return True
    return any(n not in active for p in parameters for n, _ in p.groups) and len(trace.optimizers) > 1
