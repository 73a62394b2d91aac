"""Find the tensors that a torch call writes to or exports, by the function's name and schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

_HANDED_OUT = {
    "numpy",
    "__array__",
    "__dlpack__",
    "to_dlpack",
    "_to_dlpack",
    "data_ptr",
    "untyped_storage",
    "storage",
    "_typed_storage",
}
_AUGMENTED = {
    f"__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
}
# These end in an underscore and leave the values alone. Without them, freezing a model would copy all its weights.
_VALUES_STAY = {"requires_grad_", "detach_", "share_memory_", "rename_"}
_kinds: dict[Callable[..., Any], str] = {}


def _kind_by_name(function: Any) -> str:
    """Return which arguments a function writes: self (the first), all (any), weight or none."""
    name = str(getattr(function, "__name__", "")).split(".")[0]
    if name in ("embedding", "embedding_bag"):
        return "weight"
    if name == "__setitem__" or name in _HANDED_OUT or name in _AUGMENTED:
        return "self"
    if name.endswith("_") and not name.endswith("__") and name not in _VALUES_STAY:
        return "all" if name.startswith("_") else "self"
    with suppress(Exception):
        # Custom operators declare mutation in their schema, not in their name.
        overloads = (
            [function]
            if hasattr(function, "_schema")
            else [getattr(function, overload) for overload in function.overloads()]
        )
        if any(overload._schema.is_mutable for overload in overloads):
            return "all"
    return ""


def may_write(function: Callable[..., Any]) -> bool:
    """Return True if a call without keywords may write to or export its arguments."""
    return bool(_kind(function))


def _kind(function: Callable[..., Any]) -> str:
    kind = _kinds.get(function)
    if kind is None:
        kind = _kinds[function] = _kind_by_name(function)
    return kind


def written_tensors(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
    """Return the tensors among the arguments that the call may write to.

    Covered: in-place methods and functions, ``out=``, ``inplace=True``, foreach and fused kernels, mutating custom
    operators, embeddings with ``max_norm``, and the exports of memory (numpy, DLPack, pointers).
    """
    kind = _kind(function)
    if not kind and not kwargs:
        return ()
    targets: list[Any] = []
    if kind == "self":
        # torch.nn.init passes its tensor by keyword.
        targets += args[:1] or kwargs.values()
    elif kind == "all":
        targets += [*args, *kwargs.values()]
    elif kind == "weight":
        max_norm = args[3] if len(args) > 3 else kwargs.get("max_norm")
        # torch.embedding, which never writes, has a flag at this position.
        if max_norm is not None and max_norm is not False:
            targets += [*args[:2], kwargs.get("weight")]
    if kwargs.get("inplace"):
        targets.append(args[0] if args else kwargs.get("input"))
    if "out" in kwargs:
        targets.append(kwargs["out"])
    flat = [part for target in targets for part in (target if isinstance(target, list | tuple) else (target,))]
    return [tensor for tensor in flat if isinstance(tensor, Tensor)]
