"""A round of training as a user writes it: what gives a training setup with a loss the forms of a step and a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

ROUNDS = 3


def called(model: nn.Module, inputs: Any) -> Any:
    """Return what a model makes of its inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def round_of(
    model: nn.Module | Mapping[str, nn.Module],
    inputs: Any,
    optimizers: list[torch.optim.Optimizer],
    loss: Callable[[Any], torch.Tensor],
) -> Callable[[], None]:
    """Return a function that trains for one round: clear, forward, loss, backward, step."""

    def one_round() -> None:
        if isinstance(model, Mapping):
            outputs = {name: called(model[name], given) for name, given in inputs.items()}
            output = outputs if len(outputs) != 1 else next(iter(outputs.values()))
        else:
            output = called(model, inputs)
        value = loss(output)
        for optimizer in optimizers:
            optimizer.zero_grad()
        if not optimizers:
            for module in model.values() if isinstance(model, Mapping) else (model,):
                module.zero_grad()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()

    return one_round
