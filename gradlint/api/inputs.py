"""The inputs that Python code gives for a forward: texts, tensors and shapes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gradlint.errors import UsageError

if TYPE_CHECKING:
    import torch

    from gradlint.load.inputs.find import InputSpec
    from gradlint.load.setup import Setup

    OneInput: TypeAlias = str | torch.Tensor | tuple[int, ...]
    GivenInputs: TypeAlias = OneInput | Sequence[OneInput] | Mapping[str, OneInput | Sequence[OneInput]]

_TAKEN = (
    "inputs are tensors, shapes (tuples of positive ints) or texts as after --input: one, a list of them, or a dict by "
    "the names of forward's arguments"
)


def texts_or_change(inputs: GivenInputs) -> tuple[tuple[str, ...], Callable[[Setup], Setup] | None]:
    """Return inputs as texts of ``--input``, or the change that gives them to a setup.

    Raises:
        UsageError: something in them is none.
    """
    if isinstance(inputs, str):
        return (inputs,), None
    if isinstance(inputs, (list, tuple)) and all(isinstance(item, str) for item in inputs):
        return tuple(inputs), None
    if isinstance(inputs, Mapping):
        if not inputs:
            return (), None
        wrong = next((name for name in inputs if not isinstance(name, str)), None)
        if wrong is not None:
            raise UsageError(f"inputs have a key of type {type(wrong).__name__}: {_TAKEN}")
        parts = {name: _several(value, f"inputs[{name!r}]") for name, value in inputs.items()}
        return (), lambda setup: dataclasses.replace(setup, inputs=_by_name(setup, parts))
    given = _several(inputs, "inputs")
    return (), lambda setup: dataclasses.replace(setup, inputs=_in_order(setup, given))


def _several(value: Any, place: str) -> list[InputSpec]:
    """Return one input or a sequence of them."""
    if not isinstance(value, (list, tuple)) or _is_shape(value):
        return [_one(value, place)]
    if not value:
        raise UsageError(f"{place} is empty: {_TAKEN}")
    if all(type(item) in (int, float, bool) for item in value):
        raise UsageError(f"{place} is {value!r}, which is no shape: {_TAKEN}")
    return [_one(item, f"{place}[{number}]") for number, item in enumerate(value)]


def _one(value: Any, place: str) -> InputSpec:
    """Return one input.

    Raises:
        UsageError: it is no tensor, shape or text.
    """
    from gradlint.load.inputs.find import InputSpec, parse_inputs

    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        return InputSpec(None, value=value)
    if isinstance(value, (list, tuple)) and _is_shape(value):
        return InputSpec(tuple(value))
    if isinstance(value, str):
        specs = parse_inputs([value])
        if specs.kwargs:
            raise UsageError(f"{place} is {value!r}: beside tensors and shapes, give names as the keys of a dict")
        return specs.args[0]
    kind = "None" if value is None else f"of type {type(value).__name__}"
    raise UsageError(f"{place} is {kind}: {_TAKEN}")


def _is_shape(value: Sequence[Any]) -> bool:
    return bool(value) and all(type(size) is int and size > 0 for size in value)


def _in_order(setup: Setup, given: Iterable[InputSpec]) -> Any:
    """Return the inputs of a setup by position; of several models, the first gets them."""
    values = _values(given)
    return {next(iter(setup.model)): values} if isinstance(setup.model, Mapping) else values


def _by_name(setup: Setup, parts: Mapping[str, Sequence[InputSpec]]) -> Any:
    """Return the inputs of a setup by name: of arguments, or of models if it has several."""
    if isinstance(setup.model, Mapping):
        if not set(parts) <= set(setup.model):
            return {next(iter(setup.model)): _arguments(parts)}
        return {name: _values(part) for name, part in parts.items()}
    return _arguments(parts)


def _arguments(parts: Mapping[str, Sequence[InputSpec]]) -> dict[str, Any]:
    """Return the arguments by name, several for one name as a list."""
    values = {name: list(_values(part)) for name, part in parts.items()}
    return {name: several[0] if len(several) == 1 else several for name, several in values.items()}


def _values(given: Iterable[InputSpec]) -> tuple[Any, ...]:
    from gradlint.load.inputs.find import InputSpecs

    return InputSpecs(tuple(given)).materialize()[0]
