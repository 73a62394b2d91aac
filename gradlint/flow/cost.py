"""What a training step costs, in bytes and floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from gradlint.findings import Finding, Saved
from gradlint.flow.facts import FlowFacts
from gradlint.traces.op_families import TRANSPOSED_CONVOLUTIONS, WEIGHTED
from gradlint.traces.trace import Parameter


@dataclass(frozen=True)
class Cost:
    """Bytes and floating-point operations of one training step."""

    parameters: int = 0
    """Bytes of the parameters."""
    gradients: int = 0
    """Bytes of the gradients that one backward pass leaves."""
    optimizer: int = 0
    """Bytes of the state that one optimizer step allocates."""
    activations: int = 0
    """Bytes that the forward makes and keeps for backward, each storage counted once."""
    forward_flops: int = 0
    input_gradient_flops: int = 0
    """Operations of backward that pass gradient on."""
    weight_gradient_flops: int = 0
    """Operations of backward for the gradients of parameters."""

    def __add__(self, other: Cost) -> Cost:
        """Return the sum."""
        return Cost(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        """Return the difference."""
        return Cost(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def bytes(self) -> int:
        """Bytes of a step: parameters, gradients, optimizer state and activations."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def flops(self) -> int:
        """Operations of a step without the optimizer's."""
        return self.forward_flops + self.input_gradient_flops + self.weight_gradient_flops


@dataclass(frozen=True)
class Measured:
    """The cost of one training step, by module."""

    modules: Mapping[str, Cost]
    """Name of a module → its own cost, without the modules in it."""
    outside: Cost
    """The cost of the rest: the loss, and what runs in no module of the model."""
    inputs_kept: int = 0
    """Bytes kept for backward that the run did not make: inputs and targets."""
    backwards: int = 1
    """Number of backward passes whose activations are counted."""
    notes: tuple[str, ...] = ()
    """Notes on what could not be measured, one sentence each."""

    @property
    def total(self) -> Cost:
        """The cost of the whole step."""
        return sum(self.modules.values(), self.outside)


@dataclass(frozen=True)
class Saving:
    """A change of the training setup that saves something and trains the same parameters."""

    reason: str
    names: str
    """The parameters to freeze, in short."""
    parameters: tuple[str, ...]
    """Their names."""
    saved: Cost
    finding: Finding | None = None
    """The finding whose fix this is, if a rule reports the parameters."""


@dataclass(frozen=True)
class Costs:
    """The costs of one target: the report of ``gradlint cost``."""

    target: str
    inputs: str
    """The inputs in words."""
    loss: str
    """The loss in words."""
    optimizers: tuple[str, ...]
    """Types of the optimizers."""
    types: Mapping[str, str]
    """Name of a module → its class, parents first."""
    measured: Measured
    savings: tuple[Saving, ...] = ()
    """Savings, largest first."""


def weight_gradient_flops(flow: FlowFacts, parameter: Parameter) -> int:
    """Return the floating-point operations of a weight's gradient in one backward pass.

    They are twice its multiply-adds in the forward. Zero for biases and for operations other than linear maps and
    convolutions.
    """
    if len(parameter.shape) < 2:
        return 0
    trace, total = flow.trace, 0
    for op in (trace.ops[number] for number in flow.readers(parameter)):
        if not op.outputs:
            continue
        if op.name in WEIGHTED:
            rows = math.prod(trace.values[op.outputs[0]].shape) // max(1, parameter.shape[0])
        elif op.name in TRANSPOSED_CONVOLUTIONS:
            rows = math.prod(trace.values[op.inputs[0]].shape) // max(1, parameter.shape[0])
        else:
            continue
        total += 2 * parameter.numel * rows
    return total


def in_bytes(number: int) -> str:
    """Return bytes for reading: ``512 B``, ``1.5 KiB``, ``340.2 MiB``."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def in_flops(number: int) -> str:
    """Return floating-point operations for reading: ``1.8 MFLOP``."""
    size = float(number)
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if size < 1000 or unit == "TFLOP":
            return f"{size:.0f} {unit}" if unit == "FLOP" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TFLOP"


def saved_in_words(saved: Saved | Cost) -> str:
    """Return what a saving saves: ``280 B of gradients, 1.4 kFLOP per step``."""
    parts = [
        f"{in_bytes(size)} of {what}"
        for size, what in (
            (saved.activations, "activations"),
            (saved.optimizer, "optimizer state"),
            (saved.gradients, "gradients"),
        )
        if size > 0
    ]
    if saved.flops > 0:
        parts.append(f"{in_flops(saved.flops)} per step")
    return ", ".join(parts) or "nothing"
