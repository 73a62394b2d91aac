"""The cost of a parameter's gradient, in bytes and floating-point operations."""

from __future__ import annotations

import math

from gradlint.traces.op_families import TRANSPOSED_CONVOLUTIONS, WEIGHTED
from gradlint.traces.trace import Parameter, Trace


def weight_gradient_flops(trace: Trace, parameter: Parameter) -> int:
    """Return the floating-point operations of a weight's gradient in one backward pass.

    They are twice its multiply-adds in the forward. Zero for biases and for operations other than linear maps and
    convolutions.
    """
    if len(parameter.shape) < 2:
        return 0
    values = {v for v, i in trace.owners.items() if i == parameter.index}
    total = 0
    for op in trace.ops[trace.forward_start :]:
        if not values.intersection(op.inputs) or not op.outputs:
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
