"""What a model and the process around it hold, bit for bit, for comparison."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def tensor_bits(tensor: Tensor | None) -> Any:
    """Everything about one tensor that compares with ==."""
    if tensor is None:
        return None
    if isinstance(tensor, nn.UninitializedParameter):
        return id(tensor), "lazy", tensor.requires_grad
    facts = (id(tensor), type(tensor), tensor.dtype, tuple(tensor.shape), tensor.requires_grad, tensor.is_leaf)
    grad = tensor_bits(tensor.grad) if tensor.is_leaf else None
    if tensor.layout is torch.sparse_coo:
        return facts, tensor._indices().tolist(), repr(tensor._values().tolist()), grad
    if tensor.layout is torch.sparse_csr:
        return facts, tensor.values().tolist(), grad
    if tensor.device.type == "meta":
        return facts, tensor.stride(), grad
    storage = tensor.untyped_storage()
    content = torch.empty(0, dtype=torch.uint8).set_(storage).clone().numpy().tobytes()
    return facts, tensor.stride(), tensor.storage_offset(), storage._cdata, content, grad


def container_bits(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tensor_bits(value)
    if isinstance(value, dict):
        return id(value), [
            (id(key) if isinstance(key, Tensor) else key, container_bits(item)) for key, item in value.items()
        ]
    if isinstance(value, list | tuple):
        return id(value), [container_bits(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else id(value)


def model_bits(*modules: nn.Module) -> list[Any]:
    facts: list[Any] = []
    for root in modules:
        for module in root.modules():
            facts.append((id(module), type(module).__name__.replace("Lazy", ""), module.training))
            for registry in ("_parameters", "_buffers"):
                entries = module.__dict__[registry]
                facts.append((id(entries), [(name, tensor_bits(tensor)) for name, tensor in entries.items()]))
            facts.append([(name, id(child)) for name, child in module._modules.items()])
            facts.append(set(module._non_persistent_buffers_set))
            facts.append([name for name in module.__dict__ if name in module._parameters or name in module._buffers])
    return facts


def global_bits() -> list[Any]:
    numpy_state = np.random.get_state(legacy=False)
    return [
        random.getstate(),
        (numpy_state["bit_generator"], numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.get_num_threads(),
        list(warnings.filters),
    ]
