"""Proves by plain torch, without gradlint, that what a fixture is annotated to give is true of it.

The builder is run, its loss is propagated back and its optimizers step. A claim about gradient is held against
``.grad``; a claim about data ("it reaches the loss", "it does not") against the loss after the parameter was moved.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from table import Annotation, Builder, expand
from torch import nn
from torch.utils._pytree import tree_leaves

from gradlint.recorder.hooks.eager import force_eager, prepare_to_force_eager
from gradlint.system.undo import Undo

CUTS = {
    "detached-upstream",
    "no-grad-upstream",
    "value-roundtrip-upstream",
    "reentrant-checkpoint-upstream",
}
WRONG_LOSS = {
    "softmax-before-cross-entropy",
    "sigmoid-before-bce-with-logits",
    "nll-without-log-softmax",
    "broadcast-loss-operands",
    "probabilities-into-kl-div",
    "log-softmax-over-wrong-axis",
    "swapped-loss-arguments",
}
ZERO = "nondifferentiable-upstream"
SEED = 1234


@dataclass
class Parts:
    """A builder's result in one shape."""

    model: nn.Module
    inputs: Any
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[Any], torch.Tensor]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter under its first name, wrapper prefixes stripped."""
        named = self.model.named_parameters()
        return {name.removeprefix("module.").replace("_orig_mod.", ""): p for name, p in named}

    def forward(self) -> Any:
        """Call the model under a fixed seed."""
        torch.manual_seed(SEED)
        with warnings.catch_warnings(), Undo() as undo:
            prepare_to_force_eager(undo)
            force_eager(undo)
            warnings.simplefilter("ignore")
            if isinstance(self.inputs, Mapping):
                return self.model(**self.inputs)
            return self.model(*self.inputs)

    def value(self) -> torch.Tensor:
        """Forward and loss under a fixed seed."""
        output = self.forward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.loss(output)


def total(output: Any) -> torch.Tensor:
    """The loss that stands in where a builder gives none: its own, else the sum of all differentiable outputs."""
    own = getattr(output, "loss", None)
    if own is None and isinstance(output, Mapping):
        own = output.get("loss")
    if isinstance(own, torch.Tensor):
        return own
    fields = vars(output) if hasattr(output, "__dataclass_fields__") else output
    leaves = [t for t in tree_leaves(fields) if isinstance(t, torch.Tensor) and t.requires_grad]
    return sum((t.abs().pow(2).sum() for t in leaves), torch.zeros(()))


def searched(model: nn.Module) -> tuple[torch.Tensor, ...]:
    """Inputs for a builder that gives none."""
    example = getattr(model, "example_input_array", None)
    if example is not None:
        return (example,)
    first = next(m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    shape = (4, first.in_features) if isinstance(first, nn.Linear) else (4, first.in_channels, 8, 8)
    return (torch.randn(*shape),)


class Together(nn.Module):
    """Several models as one: those that are given inputs run, and give name → output where they are more than one."""

    def __init__(self, models: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> None:
        super().__init__()
        for name, model in models.items():
            self.add_module(name, model)
        self.given = dict(inputs)

    def forward(self) -> Any:
        """Run them."""
        out = {}
        for name, given in self.given.items():
            model = self.get_submodule(name)
            out[name] = model(**given) if isinstance(given, Mapping) else model(*given)
        return out if len(out) != 1 else next(iter(out.values()))


def parts(result: Any) -> Parts:
    """Bring whatever a builder returned into one shape."""
    if isinstance(result, nn.Module):
        result = {"model": result}
    elif isinstance(result, tuple):
        result = {"model": result[0], "optimizer": result[1]}
    elif not isinstance(result, Mapping):
        result = {name: getattr(result, name) for name in ("model", "inputs", "optimizer", "loss", "train")}
    model = result["model"]
    inputs = result.get("inputs")
    if model is None:  # run by its step only
        model, inputs = nn.ModuleDict(), ()
    elif isinstance(model, Mapping):
        model, inputs = Together(model, inputs or {}), ()
    optimizer = result.get("optimizer")
    several = list(optimizer.values()) if isinstance(optimizer, Mapping) else optimizer
    optimizers = several if isinstance(several, list) else [several] if several is not None else []
    if result.get("train") is not None:
        model.train(result["train"])
    elif not model.training:
        model.train()
    return Parts(model, searched(model) if inputs is None else inputs, optimizers, result.get("loss") or total)


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: t.detach().clone() for name, t in (*model.named_parameters(), *model.named_buffers())}


@dataclass
class Run:
    """What one real training step showed."""

    parts: Parts
    loss: torch.Tensor
    written: set[str] = field(default_factory=set)
    """Parameters and buffers that the forward itself changed."""
    moved: set[str] = field(default_factory=set)
    """Parameters that the optimizers changed."""
    step_failed: bool = False
    had_grad: dict[str, bool] = field(default_factory=dict)
    """Parameter → whether it had a gradient that is not zero everywhere; absent where it had none."""
    held: dict[str, float] = field(default_factory=dict)
    """Parameter → the learning rate at which an optimizer holds it; NaN if its group has none."""


def run(builder: Builder) -> Run:
    """Build, forward, backward, step."""
    here = parts(builder.load()())
    before = values(here.model)
    loss = here.value()
    forward = values(here.model)
    result = Run(here, loss)
    result.written = {name for name, t in forward.items() if name in before and changed(t, before[name])}
    if loss.requires_grad:
        loss.backward()
    rates = {id(p): float(g.get("lr", math.nan)) for o in here.optimizers for g in o.param_groups for p in g["params"]}
    for name, p in here.parameters.items():
        if p.grad is not None:
            grad = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
            result.had_grad[name] = bool(grad.count_nonzero())
        if id(p) in rates:
            result.held[name] = rates[id(p)]
    old = {name: p.detach().clone() for name, p in here.parameters.items()}
    try:
        for optimizer in here.optimizers:
            if not isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step()
    except RuntimeError:
        result.step_failed = True
    result.moved = {name for name, p in here.parameters.items() if changed(p.detach(), old[name])}
    return result


def changed(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors differ anywhere, or in shape."""
    return a.shape != b.shape or not torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def reaches_loss(builder: Builder, name: str) -> bool:
    """Whether moving a parameter, a little or a lot, moves the loss."""
    base = parts(builder.load()()).value().detach()
    for scale in (0.05, 3.0):
        here = parts(builder.load()())
        with torch.no_grad():
            p = here.parameters[name]
            p.add_(scale * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(7)))
        if changed(here.value().detach(), base):
            return True
    return False


@dataclass
class Trained:
    """What three calls of a builder's own step showed."""

    parameters: dict[str, nn.Parameter]
    moved: set[str] = field(default_factory=set)
    deposits: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    """Parameter → a copy of ``.grad`` after each backward that reached it."""
    moved_frozen: set[str] = field(default_factory=set)
    """Parameters that changed in a call after which they did not require grad."""


def train(builder: Builder) -> Trained:
    """Call the step of a builder three times, in plain torch."""
    result = builder.load()()
    model = result["model"]
    model = nn.ModuleDict(model) if isinstance(model, Mapping) else model
    done = Trained(dict(model.named_parameters()))
    for name, p in done.parameters.items():
        flag = p.requires_grad
        p.requires_grad_(True).register_post_accumulate_grad_hook(
            lambda p, name=name: done.deposits.setdefault(name, []).append(p.grad.clone())
        )
        p.requires_grad_(flag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            before = {name: p.detach().clone() for name, p in done.parameters.items()}
            result["step"]()
            changes = {name for name, p in done.parameters.items() if changed(p.detach(), before[name])}
            done.moved |= changes
            done.moved_frozen |= {name for name in changes if not done.parameters[name].requires_grad}
    return done


STEP_CLAIMS: dict[str, Callable[[Trained, str], bool]] = {
    "gradients-not-cleared": lambda done, name: len(done.deposits.get(name, ())) > 1,
    "foreign-gradient": lambda done, name: len(done.deposits.get(name, ())) > 1,
    "optimizer-never-steps": lambda done, name: name in done.deposits and name not in done.moved,
    "gradient-discarded": lambda done, name: len(done.deposits.get(name, ())) > 3,
    "step-without-gradient": lambda done, name: name not in done.moved,
    "detached-upstream": lambda done, name: name not in done.deposits,
    "parameter-unchanged": lambda done, name: name in done.deposits and name not in done.moved,
    "frozen-parameter-still-moves": lambda done, name: name in done.moved_frozen,
    "training-in-eval-mode": lambda done, name: name in done.deposits,
    "clip-after-step": lambda done, name: name in done.deposits,
    "scheduler-before-optimizer": lambda done, name: name in done.deposits,
    "teacher-statistics-stay": lambda done, name: name in done.moved and name not in done.deposits,
    "recomputed-norm-statistics": lambda done, name: name in done.deposits,
    "target-that-trains": lambda done, name: name in done.deposits and name in done.moved,
}
"""Rule → what three steps must show of each parameter that it names."""


def untruths(builder: Builder, *, nudge: bool = True) -> Iterator[str]:
    """What is annotated and not so; for a builder with no error or warning, also what should have been annotated.

    Without `nudge`, what data reaches the loss is taken on trust: it costs several forwards for each parameter, and
    in real models some biases cancel out exactly.
    """
    if builder.path.stem.replace("_", "-") in STEP_CLAIMS.keys() - {"detached-upstream"}:
        trained = train(builder)
        for annotation in builder.annotations:
            for name in expand(annotation.patterns, list(trained.parameters)):
                if not STEP_CLAIMS[annotation.rule](trained, name):
                    yield f"three steps do not bear out {name} ({annotation})"
        return
    done = run(builder)
    told = set()
    for annotation in builder.annotations:
        for name in expand(annotation.patterns, list(done.parts.parameters)):
            told.add(name)
            if name not in done.parts.parameters:
                yield f"no such parameter: {name} ({annotation})"
            else:
                yield from false_claim(builder, done, annotation, name, nudge)
    if any(a.rule == "loss-without-gradient" for a in builder.annotations) and done.loss.requires_grad:
        yield "the loss requires grad"
    if not builder.bad:
        yield from hidden_faults(done, told)


def false_claim(builder: Builder, done: Run, annotation: Annotation, name: str, nudge: bool) -> Iterator[str]:
    """Why one annotation does not hold for one parameter."""
    p, rule, grad = done.parts.parameters[name], annotation.rule, done.had_grad.get(name)
    checks: list[tuple[str, bool]] = []
    if rule == "no-grad-in-init":
        checks = [
            ("does not require grad", not p.requires_grad),
            ("does not train after all", name not in done.moved and not (p.is_inference() and done.step_failed)),
        ]
    elif rule == "frozen-norm-updates-stats":
        owner = name.rpartition(".")[0]
        norm = done.parts.model.get_submodule(owner)
        moving = getattr(norm, "running_mean", None) is not None and getattr(norm, "momentum", 0.1) != 0.0
        checks = [
            ("is not frozen", p.requires_grad),
            ("its statistics stand still", moving and f"{owner}.running_mean" not in done.written),
        ]
    elif rule == "frozen-parameter-in-optimizer":
        checks = [
            ("is not frozen", p.requires_grad),
            ("is in no optimizer", name not in done.held),
            ("moves", name in done.moved),
        ]
    elif rule == "trainable-parameter-not-in-optimizer":
        checks = [
            ("gets no gradient", grad is None),
            ("is in an optimizer", name in done.held),
            ("moves", name in done.moved),
        ]
    elif rule == "zero-learning-rate-group":
        checks = [
            ("gets no gradient", grad is None),
            ("its learning rate is not 0", done.held.get(name) != 0.0),
            ("moves", name in done.moved),
        ]
    elif rule in CUTS or rule == ZERO:
        checks = [
            ("is frozen", not p.requires_grad),
            # a warning about a cut: the gradient that another term gives has the factor 0
            ("gets gradient", grad is True or (grad is False and rule != ZERO and annotation.severity != "warning")),
            ("does not reach the loss", nudge and not reaches_loss(builder, name)),
        ]
    elif rule in WRONG_LOSS:
        checks = [("gets no gradient", grad is None)]
    elif rule == "bias-before-norm":
        size = None if p.grad is None else float(p.grad.abs().max())
        checks = [("gets no gradient", size is None), ("its gradient is not zero", size is not None and size > 1e-6)]
    elif rule == "requires-grad-relabel":
        checks = [("is frozen", not p.requires_grad)]
    elif rule == "function-drops-gradient":  # what another Function makes of None is zeros
        checks = [
            ("gets gradient", grad is True),
            ("does not reach the loss", nudge and not reaches_loss(builder, name)),
        ]
    elif rule in ("constant-loss-term", "missing-create-graph"):
        checks = [
            ("is frozen", not p.requires_grad),
            ("does not reach the loss", nudge and not reaches_loss(builder, name)),
        ]
    elif rule == "dropped-loss-term" and "penalty" in builder.name:  # the loss trains them, without the penalty
        checks = [("gets no gradient", grad is None)]
    elif rule == "dropped-loss-term" and annotation.severity == "error":  # the loss makes constants of their values
        checks = [("gets gradient", grad is not None)]
    elif rule in ("unused-parameter", "dropped-loss-term"):
        checks = [("gets gradient", grad is not None), ("reaches the loss", nudge and reaches_loss(builder, name))]
    for reason, false in checks:
        if false:
            yield f"{name} {reason} ({annotation})"


def hidden_faults(done: Run, told: set[str]) -> Iterator[str]:
    """What is wrong with a setup that claims to be right."""
    held = [{id(p) for g in o.param_groups for p in g["params"]} for o in done.parts.optimizers]
    reached = {id(done.parts.parameters[name]) for name in done.had_grad}
    # of several optimizers, only those that this loss trains (a GAN's other half waits for its own)
    active = set().union(*(ids for ids in held if len(held) == 1 or ids & reached))
    memory = {done.parts.parameters[name].data_ptr() for name in done.had_grad}
    scheduled = any(hasattr(o.step, "_wrapped_by_lr_sched") for o in done.parts.optimizers)
    for name, p in done.parts.parameters.items():
        if name in told or name in done.written or not p.numel():
            continue
        if p.data_ptr() in memory and name not in done.had_grad:
            continue  # another parameter is the same memory, and gets the gradient
        expected = id(p) in active if done.parts.optimizers else p.requires_grad
        if expected and p.requires_grad and name not in done.had_grad:
            yield f"{name} should train and gets no gradient"
        if expected and not p.requires_grad:
            yield f"{name} is frozen and in an optimizer"
        if done.parts.optimizers and name in done.had_grad and name not in done.held:
            yield f"{name} gets gradient and is in no optimizer"
        if done.held.get(name) == 0.0 and not scheduled and name not in done.moved:
            yield f"{name} has learning rate 0"
