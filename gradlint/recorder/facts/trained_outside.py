"""What optimizers train besides the models that were called: modules used by their parameters alone, and tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType

from torch import Tensor, nn
from torch.optim import Optimizer

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.unregistered import plain_attributes, within
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.traces.ids import ParameterKey
from gradlint.traces.sites import is_project


class LooseTensors(nn.Module):
    """Holds tensors that are in no module, by name."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._parameters.update(tensors)  # type: ignore[arg-type]


def used_outside(
    recorder: Recorder, training: TrainingLog, optimizers: Iterable[Optimizer], inside: Iterable[Tensor]
) -> list[Tensor]:
    """Return the tensors that optimizers hold and training uses, without those of `inside`.

    Gradient arrives at such a tensor, or an op reads it and it never has a gradient. Both count after the first step,
    if anything follows it: before that also the initialization and a copy read it, and it may be replaced there. One
    that has a gradient without a backward pass gets it by hand, as the master copy of a weight does.
    """
    known = {id(p) for p in inside}
    held = {
        ParameterKey(id(p)): p
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
        if isinstance(p, Tensor) and p.requires_grad and id(p) not in known
    }
    if not held:
        return []
    first = training.steps[0] if training.steps else None
    passes = [b for b in training.backwards if first is None or b.event > first.event] or training.backwards
    reached = {key for backward in passes for key in backward.deposits}
    graded = {key for step in training.steps for key, content in step.content.items() if content.grad}
    owners = recorder.tensors.owners
    read = {
        owners[value] for op in recorder.tape.ops[first.op if first else 0 :] for value in op.inputs if value in owners
    }
    return [p for key, p in held.items() if key in reached or (key in read and key not in graded)]


def loose_tensors(
    tensors: Sequence[Tensor], models: Iterable[nn.Module], optimizers: Iterable[Optimizer]
) -> LooseTensors:
    """Return a module of tensors that are in none, with their names in the script."""
    wanted = {id(t) for t in tensors}
    names: dict[int, str] = {}
    for name, thing in (*_variables(), *_attributes(models), *_positions(optimizers)):
        if id(thing) in wanted:
            names.setdefault(id(thing), name)
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        name, number = names[id(tensor)], 2
        while name in found:
            name, number = f"{names[id(tensor)]}_{number}", number + 1
        found[name] = tensor
    return LooseTensors(found)


def _variables() -> Iterator[tuple[str, object]]:
    """Yield what the variables of the running user code hold, with its name.

    What is in a container has a name like ``weights.0``.
    """
    frame: FrameType | None = sys._getframe()
    seen: set[int] = set()
    while frame is not None:
        if is_project(frame.f_code.co_filename):
            for name, value in list(local_variables(frame).items()):
                if not name.startswith("__"):
                    yield from within(value, name, seen)
        frame = frame.f_back


def _attributes(models: Iterable[nn.Module]) -> Iterator[tuple[str, object]]:
    """Yield what modules hold without registering it, with its name in the model."""
    for model in models:
        yield from ((find.fqn, find.thing) for find in plain_attributes({"": model}))


def _positions(optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, object]]:
    """Yield the tensors of optimizers with names like ``SGD.0.2``.

    The numbers are those of the group, and of the tensor in it.
    """
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            for position, tensor in enumerate(group["params"]):
                yield f"{type(optimizer).__name__}.{number}.{position}", tensor
