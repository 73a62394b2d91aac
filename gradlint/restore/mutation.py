"""Which tensors a torch call is about to write to, or whose memory it hands out, as far as its name and schema tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

__all__ = ["may_write", "written_tensors"]

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
# These end in an underscore and leave the values alone; copying a model because it is frozen would be dear.
_VALUES_STAY = {"requires_grad_", "detach_", "share_memory_", "rename_"}
_write_kinds: dict[Callable[..., Any], str] = {}


def _write_kind(function: Any) -> str:
    """Which arguments a torch function writes: "self" (the first), "all" of them perhaps, "weight", or "" (none)."""
    name = str(getattr(function, "__name__", "")).split(".")[0]
    if name in ("embedding", "embedding_bag"):
        return "weight"
    if name == "__setitem__" or name in _HANDED_OUT or name in _AUGMENTED:
        return "self"
    if name.endswith("_") and not name.endswith("__") and name not in _VALUES_STAY:
        return "all" if name.startswith("_") else "self"
    with suppress(Exception):
        # Custom operators say what they mutate in their schema, not in their name.
        overloads = (
            [function]
            if hasattr(function, "_schema")
            else [getattr(function, overload) for overload in function.overloads()]
        )
        if any(overload._schema.is_mutable for overload in overloads):
            return "all"
    return ""


def may_write(function: Callable[..., Any]) -> bool:
    """Whether calls without keyword arguments may write to what they are given, or hand out its memory."""
    return bool(_kind(function))


def _kind(function: Callable[..., Any]) -> str:
    kind = _write_kinds.get(function)
    if kind is None:
        kind = _write_kinds[function] = _write_kind(function)
    return kind


def written_tensors(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
    """The tensors among the arguments that the call may write to.

    Known are in-place methods and functions, ``out=``, ``inplace=True``, foreach and fused kernels, mutating custom
    operators, embeddings with ``max_norm``, and the ways out of torch (numpy, DLPack, pointers).
    """
    kind = _kind(function)
    if not kind and not kwargs:
        return ()
    found: list[Any] = []
    if kind == "self":
        # torch.nn.init passes its tensor by keyword.
        found += args[:1] or kwargs.values()
    elif kind == "all":
        found += [*args, *kwargs.values()]
    elif kind == "weight":
        max_norm = args[3] if len(args) > 3 else kwargs.get("max_norm")
        # torch.embedding, which never writes, has a flag in this place.
        if max_norm is not None and max_norm is not False:
            found += [*args[:2], kwargs.get("weight")]
    if kwargs:
        if kwargs.get("inplace"):
            found.append(args[0] if args else kwargs.get("input"))
        if "out" in kwargs:
            found.append(kwargs["out"])
    each = [part for value in found for part in (value if isinstance(value, list | tuple) else (value,))]
    return [tensor for tensor in each if isinstance(tensor, Tensor)]
