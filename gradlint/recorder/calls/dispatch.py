"""Classify the functions that torch dispatches: pass through, record, record as a write, or follow a flag."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from gradlint.restore.mutation import may_write

PASS, RECORD, WRITE, SET_GRAD, REQUIRES_GRAD, READ_GRAD, LOGITS = range(7)
"""`LOGITS`: recorded as an operation, and the values of its first argument, meant as logits, are looked at."""
ANNOUNCED = 8
"""Flag added to the kind of a function that may write to its arguments or export their memory."""

_METADATA = """
shape dtype device layout is_leaf grad_fn requires_grad ndim is_cuda is_sparse is_sparse_csr is_quantized is_meta
is_cpu is_xla is_mps is_mkldnn is_vulkan is_xpu is_ipu is_hpu is_nested is_mtia is_maia names itemsize nbytes
output_nr _version retains_grad _base _backward_hooks _cdata _post_accumulate_grad_hooks grad name volatile
_has_symbolic_sizes_strides grad_dtype size dim stride numel nelement element_size is_floating_point is_complex
is_contiguous is_signed storage_offset get_device __len__ __hash__ __repr__ __str__ __format__ __dir__ register_hook
register_post_accumulate_grad_hook untyped_storage storage typed_storage _typed_storage data_ptr has_names is_set_to
is_same_size is_shared is_pinned is_inference is_neg is_conj is_distributed is_coalesced sparse_dim dense_dim _nnz
retain_grad _is_view ndimension _is_zerotensor _use_count __dlpack_device__ dim_order _is_all_true _is_any_true
__torch_dispatch__ __class__
""".split()


def _members(name: str) -> list[Any]:
    """Return every function object under which torch dispatches an attribute or function."""
    members: list[Any] = []
    member = inspect.getattr_static(Tensor, name, None)
    if member is not None:
        if hasattr(member, "__get__") and not callable(member):
            members.append(getattr(member, "__get__", None))
        if isinstance(member, property):
            members.append(member.__get__)
        members.append(getattr(Tensor, name, None))
    for home in (torch, torch._C._VariableFunctions if hasattr(torch._C, "_VariableFunctions") else torch):
        members.append(getattr(home, name, None))
    return [f for f in members if f is not None]


def _table() -> dict[Any, int]:
    table: dict[Any, int] = {}
    for name in _METADATA:
        for function in _members(name):
            if isinstance(function, type):
                continue
            table[function] = PASS
    for name in (
        "grad",
        "name",
        "names",
        "volatile",
        "_backward_hooks",
        "_post_accumulate_grad_hooks",
        "retains_grad",
        "grad_dtype",
    ):
        member = inspect.getattr_static(Tensor, name, None)
        if hasattr(member, "__set__"):
            table[member.__set__] = PASS
    table[inspect.getattr_static(Tensor, "grad").__get__] = READ_GRAD
    table[Tensor.requires_grad_] = REQUIRES_GRAD
    table[Tensor.requires_grad.__set__] = REQUIRES_GRAD  # type: ignore[attr-defined]
    table[Tensor.data.__set__] = WRITE  # type: ignore[attr-defined]
    table[Tensor.__setitem__] = WRITE
    table[Tensor.backward] = PASS
    table[torch.autograd.backward] = PASS
    table[torch.nn.functional.cross_entropy] = LOGITS
    table[torch.get_default_dtype] = PASS
    for name in ("_set_grad_enabled",):
        function = getattr(torch._C, name, None)
        if function is not None:
            table[function] = SET_GRAD
    return {function: kind | _announced(function) if kind else PASS for function, kind in table.items()}


def _announced(function: Any) -> int:
    return ANNOUNCED if may_write(function) else 0


TABLE = _table()


def classify(func: Any) -> int:
    """Return the kind of a function that the table does not list."""
    kind = _classify(func)
    return kind | _announced(func) if kind else PASS


def _classify(func: Any) -> int:
    name = getattr(func, "__name__", "") or ""
    if name in ("__get__", "__set__"):
        return RECORD if name == "__get__" else WRITE
    if name == "__delete__":
        return PASS
    if (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__ior__", "__iand__", "__ixor__"):
        return WRITE
    if (
        name.startswith("__i")
        and name.endswith("__")
        and name not in ("__init__", "__iter__", "__int__", "__index__", "__invert__")
    ):
        return WRITE
    return RECORD
