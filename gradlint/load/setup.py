"""Bring every accepted return value of build() into one shape, a `Setup`."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from gradlint.errors import TargetError

if TYPE_CHECKING:
    import torch


@dataclass
class Setup:
    """A training setup: the model, how it is called, and what trains it.

    Only `model` is required. gradlint searches for what is left out, and reports its choice.
    """

    model: torch.nn.Module | Mapping[str, torch.nn.Module] | None
    """The module, or name → module (a GAN's networks); the name becomes the prefix of the parameter names."""
    inputs: Any = None
    """A tuple of positional or a dict of keyword arguments for the forward; keyed by name if `model` is a dict."""
    optimizer: Any = None
    """One optimizer, or name → optimizer; the members of a list get the names 0, 1, …"""
    loss: Callable[[Any], Any] | None = None
    """A function from the output to a scalar tensor. With several models, it gets a dict name → output."""
    step: Callable[[], Any] | None = None
    """A function without arguments that trains a little: one step or an epoch."""
    train: bool | None = None
    """The flag for ``root.train(flag)``. None leaves the modes as build() set them, unless the whole model is in eval
    mode: then it is put in train mode."""
    trains: Sequence[str] = field(default_factory=tuple)
    """Glob patterns of the parameters that must train."""
    frozen: Sequence[str] = field(default_factory=tuple)
    """Glob patterns of the parameters that must stay frozen."""
    notes: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    """Notes on what `normalize` assumed or did not use, one sentence each."""


_FIELDS = tuple(f.name for f in fields(Setup) if f.init)
_EXPECTED = "a model, (model, optimizer), a dict or a gradlint.Setup"


def normalize(result: Any, name: str = "build()") -> Setup:
    """Return a new Setup made of any accepted return value of build().

    Args:
        result: an nn.Module, a tuple of a module, optimizers and so on, a dict of `Setup`'s fields, or a `Setup`.
        name: the name of the function that returned it, for messages.

    Returns:
        `inputs` is a tuple, a dict or None (name → one of these if `model` is a dict), `optimizer` one optimizer or
        name → optimizer, `trains` and `frozen` are tuples of patterns.

    Raises:
        TargetError: `result` is something else; the message names its type and the accepted ones.
    """
    notes: list[str] = []
    if isinstance(result, Setup):
        setup = replace(result)
        notes += result.notes
    elif _is_module(result):
        setup = Setup(result)
    elif isinstance(result, Mapping):
        setup = _from_dict(result, name)
    elif isinstance(result, (tuple, list)) and not hasattr(result, "_fields"):
        setup = _from_tuple(result, name, notes)
    else:
        hint = " (is a `return` missing?)" if result is None else ""
        raise TargetError(f"{name} returned {_named(result)}{hint}, expected {_EXPECTED}")
    setup.model = _model(setup, name)
    setup.optimizer = _optimizer(setup.optimizer, name)
    setup.inputs = _inputs(setup, name)
    setup.loss = _loss(setup.loss, name)
    if setup.step is not None:
        _check_step(setup.step, name)
    if not (setup.train is None or isinstance(setup.train, bool)):
        raise TargetError(f"{name}: 'train' is {_named(setup.train)}, expected True, False or None")
    setup.trains = _patterns(setup.trains, "trains", name)
    setup.frozen = _patterns(setup.frozen, "frozen", name)
    setup.notes = notes
    return setup


def modules_of(setup: Setup) -> dict[str, torch.nn.Module]:
    """Return name → module of a normalized setup; a single model has the name ``""``."""
    if setup.model is None:
        return {}
    return dict(setup.model) if isinstance(setup.model, Mapping) else {"": setup.model}


def optimizers_of(setup: Setup) -> dict[str, torch.optim.Optimizer]:
    """Return name → optimizer of a setup.

    A single one has the name ``""``, the members of a list 0, 1, …
    """
    optimizer = setup.optimizer
    if optimizer is None:
        return {}
    if isinstance(optimizer, Mapping):
        return {str(key): value for key, value in optimizer.items()}
    if isinstance(optimizer, (list, tuple)):
        return {str(i): value for i, value in enumerate(optimizer)}
    return {"": optimizer}


def _from_dict(result: Mapping[Any, Any], name: str) -> Setup:
    unknown = [key for key in result if key not in _FIELDS]
    if unknown and all(_is_module(value) for value in result.values()):
        raise TargetError(f"{name} returned a dict of modules: return {{'model': {{name: module, ...}}}} for several")
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), _FIELDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(_FIELDS)}"
        raise TargetError(f"{name} returned a dict with the unknown key {unknown[0]!r}: {hint}")
    return Setup(**{"model": None, **result})


def _from_tuple(result: Sequence[Any], name: str, notes: list[str]) -> Setup:
    """Build a Setup from (model, optimizer, criterion, scheduler, …) by the members' types."""
    members = _by_kind(result, name, notes)
    models = members["model"]
    if len(models) > 1:
        criteria = [m for m in models[1:] if _is_module(m) and _is_criterion(m)]
        models = [m for m in models if not any(m is c for c in criteria)]
        members["loss"] += criteria
    if len(models) != 1:
        what = f"{len(models)} models" if models else f"a {type(result).__name__} without a model"
        raise TargetError(f"{name} returned {what}, expected {_EXPECTED}; several models go in a dict under 'model'")
    return Setup(
        models[0],
        inputs=_one_or_tuple(members["inputs"]),
        optimizer=_optimizer_of_members(members["optimizer"], members["scheduler"]),
        loss=_loss_of_members(members["loss"], name, notes),
    )


def _by_kind(result: Sequence[Any], name: str, notes: list[str]) -> dict[str, list[Any]]:
    """Sort the members of a returned tuple by kind; append a note for each one that is not used."""
    members: dict[str, list[Any]] = {"model": [], "optimizer": [], "inputs": [], "loss": [], "scheduler": []}
    for index, item in enumerate(result):
        kind = _kind(item)
        if kind in members:
            members[kind].append(item)
        elif kind == "ignored":
            notes.append(f"{_named(item)} in what {name} returned is not used")
        elif kind != "none":
            raise TargetError(
                f"{name} returned a {type(result).__name__} whose member {index} is {_named(item)}: "
                f"return a dict with the keys {', '.join(_FIELDS)}"
            )
    return members


def _one_or_tuple(inputs: list[Any]) -> Any:
    return inputs[0] if len(inputs) == 1 else tuple(inputs) or None


def _optimizer_of_members(optimizers: list[Any], schedulers: list[Any]) -> Any:
    """Return one optimizer, a list of several, or None; a lone scheduler gives its optimizer."""
    flat = [o for item in optimizers for o in (item if isinstance(item, (list, tuple)) else [item])]
    if not flat:
        flat = [scheduler.optimizer for scheduler in schedulers[:1]]
    return flat[0] if len(flat) == 1 else flat or None


def _loss_of_members(criteria: list[Any], name: str, notes: list[str]) -> Any:
    """Return the first criterion that takes the output alone; note the others as not used."""
    loss = next((c for c in criteria if len(_required_arguments(c)) == 1), None)
    for criterion in criteria:
        if criterion is not loss:
            notes.append(f"{_named(criterion)} in what {name} returned is not used: it needs more than the output")
    return loss


def _kind(item: Any) -> str:
    """Return the kind of a member: a field of `Setup`, scheduler, ignored, none or unknown."""
    import torch

    if item is None:
        return "none"
    if _is_module(item):
        return "model"
    if _is_optimizer(item):
        return "optimizer"
    if hasattr(item, "step") and _is_optimizer(getattr(item, "optimizer", None)):
        return "scheduler"
    if isinstance(item, torch.Tensor):
        return "inputs"
    if isinstance(item, (list, tuple)) and item:
        if all(_is_optimizer(i) for i in item):
            return "optimizer"
        return "inputs" if all(isinstance(i, torch.Tensor) for i in item) else "unknown"
    if isinstance(item, Mapping) and item:
        for kind, test in (("model", _is_module), ("optimizer", _is_optimizer)):
            if all(test(i) for i in item.values()):
                return kind
        return "inputs" if all(isinstance(i, torch.Tensor) for i in item.values()) else "unknown"
    if isinstance(item, (str, bytes, int, float, type)):
        return "unknown"
    if type(item).__name__.endswith(("Scaler", "Loader", "Scheduler", "Dataset", "Tokenizer", "TokenizerFast")):
        return "ignored"
    return "loss" if callable(item) else "unknown"


def _model(setup: Setup, name: str) -> torch.nn.Module | Mapping[str, torch.nn.Module] | None:
    model: Any = setup.model
    if model is None:
        if setup.step is None:
            raise TargetError(f"{name} returned no model: 'model' is required unless 'step' is given")
        return None
    if _is_module(model):
        return model  # type: ignore[no-any-return]
    if isinstance(model, Mapping) and model:
        for key, module in model.items():
            if not isinstance(key, str) or not _is_module(module):
                raise TargetError(f"{name}: model[{key!r}] is {_named(module)}, expected a name and an nn.Module")
        return dict(model)
    if isinstance(model, type):
        raise TargetError(f"{name}: the model is the class {model.__name__}, not an instance: write {model.__name__}()")
    if isinstance(model, Mapping):
        raise TargetError(f"{name}: 'model' is an empty dict: give at least one module under its name")
    raise TargetError(f"{name}: 'model' is {_named(model)}, expected an nn.Module or a dict name → module")


def _optimizer(value: Any, name: str) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        value = {str(i): optimizer for i, optimizer in enumerate(value)}
    if isinstance(value, Mapping):
        return {str(k): _one_optimizer(v, f"{name}: optimizer[{k!r}]") for k, v in value.items() if v is not None}
    return _one_optimizer(value, f"{name}: 'optimizer'")


def _one_optimizer(value: Any, where: str) -> Any:
    """Return an optimizer without the wrappers of accelerate and the like around it."""
    import torch

    inner = getattr(value, "optimizer", None)
    is_wrapper = not isinstance(value, torch.optim.Optimizer) or type(value).__module__.startswith("accelerate.")
    if _is_optimizer(value):
        return _one_optimizer(inner, where) if is_wrapper and _is_optimizer(inner) else value
    if isinstance(value, type):
        raise TargetError(f"{where} is the class {value.__name__}, not an instance: write {value.__name__}(...)")
    hint = f": pass the {type(inner).__name__} it schedules" if _is_optimizer(inner) else ""
    raise TargetError(f"{where} is {_named(value)}, expected a torch optimizer{hint}")


def _inputs(setup: Setup, name: str) -> Any:
    inputs = setup.inputs
    if hasattr(inputs, "__next__") or type(inputs).__name__.endswith("DataLoader"):
        raise TargetError(
            f"{name}: 'inputs' is {_named(inputs)}: give one batch of it, next(iter(...)), as the forward takes it"
        )
    if inputs is None or not isinstance(setup.model, Mapping):
        return _call_arguments(inputs)
    if not isinstance(inputs, Mapping):
        keys = ", ".join(setup.model)
        raise TargetError(f"{name}: 'inputs' is {_named(inputs)}, expected a dict keyed like 'model' ({keys})")
    for key in inputs:
        if key not in setup.model:
            near = difflib.get_close_matches(str(key), list(setup.model), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the models are {', '.join(setup.model)}"
            raise TargetError(f"{name}: inputs[{key!r}] names no model: {hint}")
    return {key: _call_arguments(value) for key, value in inputs.items() if value is not None}


def _call_arguments(inputs: Any) -> Any:
    """Return a tuple of positional or a dict of keyword arguments.

    A named tuple (a packed sequence) counts as one argument.
    """
    if inputs is None:
        return None
    if isinstance(inputs, Mapping) and all(isinstance(key, str) for key in inputs):
        return dict(inputs)
    if isinstance(inputs, (tuple, list)) and not hasattr(inputs, "_fields"):
        return tuple(inputs)
    return (inputs,)


def _loss(function: Any, name: str) -> Callable[[Any], Any] | None:
    if function is None:
        return None
    if isinstance(function, type) or not callable(function):
        raise TargetError(f"{name}: 'loss' is {_named(function)}, expected a function output → scalar tensor")
    required = _required_arguments(function)
    if len(required) > 1:
        raise TargetError(
            f"{name}: 'loss' needs {len(required)} arguments ({', '.join(required)}), but gradlint calls it with the "
            f"output alone: write loss=lambda output: criterion(output, target)"
        )
    return function  # type: ignore[no-any-return]


def _check_step(step: Any, name: str) -> None:
    if isinstance(step, type) or not callable(step):
        raise TargetError(
            f"{name}: 'step' is {_named(step)}, expected a function without arguments that trains a little"
        )
    if required := _required_arguments(step):
        raise TargetError(
            f"{name}: 'step' needs arguments ({', '.join(required)}), but gradlint calls it without any: "
            f"write step=lambda: step({', '.join(required)})"
        )


def _patterns(value: Any, field_name: str, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TargetError(f"{name}: {field_name!r} is {_named(value)}, expected glob patterns of parameter names")


def _required_arguments(function: Any) -> list[str]:
    """Return the names of a callable's arguments that have no default."""
    try:
        signature = inspect.signature(function.forward if _is_module(function) else function)
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _is_optimizer(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "param_groups")


def _is_criterion(module: Any) -> bool:
    if type(module).__module__ == "torch.nn.modules.loss" or type(module).__name__.endswith(("Loss", "Criterion")):
        return True
    return next(iter(module.parameters()), None) is None


def _named(value: Any) -> str:
    """Return a value's type, and its value where it is short, as words of a message."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (bool, int, float, str)):
        text = repr(value)
        return f"{type(value).__name__} {text if len(text) < 40 else text[:37] + '...'}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '?')}"
    article = "an" if type(value).__name__[:1].lower() in "aeiou" else "a"
    return f"{article} {type(value).__name__}"
