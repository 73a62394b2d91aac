"""What the user's build() returns, in one shape. Imports no torch."""

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
    """A training set-up: the model, how it is called, and what trains it.

    Everything but `model` may be left out; what is left out is found or searched, and what was chosen is reported.
    """

    model: torch.nn.Module | Mapping[str, torch.nn.Module] | None
    """The module, or name → module (a GAN's networks); the name becomes the prefix of the parameters' names."""
    inputs: Any = None
    """A tuple of positional arguments or a dict of keyword arguments of the forward; keyed by name if `model` is."""
    optimizer: Any = None
    """One optimizer, or name → optimizer (a list counts as one of names 0, 1, …)."""
    loss: Callable[[Any], Any] | None = None
    """Output → scalar tensor. With several models called: name → output."""
    step: Callable[[], Any] | None = None
    """Trains a little: one step or an epoch."""
    train: bool | None = None
    """True or False calls ``root.train(flag)``; None leaves the modes as build() left them."""
    trains: Sequence[str] = field(default_factory=tuple)
    """Glob patterns of parameters that are meant to train."""
    frozen: Sequence[str] = field(default_factory=tuple)
    """Glob patterns of parameters that are meant to stay as they are."""
    notes: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    """What `normalize` left aside or assumed, one sentence each."""


_FIELDS = tuple(f.name for f in fields(Setup) if f.init)
_EXPECTED = "a model, (model, optimizer), a dict or a gradlint.Setup"


def normalize(result: Any, name: str = "build()") -> Setup:
    """Bring any accepted return shape of build() into one.

    Args:
        result: an nn.Module, a tuple of a module, optimizers and so on, a dict of `Setup`'s fields, or a `Setup`.
        name: how messages call what returned it.

    Returns:
        a new Setup: `inputs` a tuple, a dict or None (or name → such, where `model` is a dict), `optimizer` one
        optimizer or name → optimizer, `trains` and `frozen` tuples of patterns.

    Raises:
        TargetError: it is none of these; says what was returned and what is expected.
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
    """Name → module of a normalized setup; a single model has the name ``""``, no model gives an empty dict."""
    if setup.model is None:
        return {}
    return dict(setup.model) if isinstance(setup.model, Mapping) else {"": setup.model}


def optimizers_of(setup: Setup) -> dict[str, torch.optim.Optimizer]:
    """Name → optimizer of a setup; a single one has the name ``""``, those of a list 0, 1, …"""
    given = setup.optimizer
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        return {str(i): value for i, value in enumerate(given)}
    return {"": given}


def _from_dict(result: Mapping[Any, Any], name: str) -> Setup:
    unknown = [key for key in result if key not in _FIELDS]
    if unknown and all(_is_module(value) for value in result.values()):
        raise TargetError(f"{name} returned a dict of modules: return {{'model': {{name: module, ...}}}} for several")
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), _FIELDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_FIELDS)}"
        raise TargetError(f"{name} returned a dict with the unknown key {unknown[0]!r}: {hint}")
    return Setup(**{"model": None, **result})


def _from_tuple(result: Sequence[Any], name: str, notes: list[str]) -> Setup:
    """Sort the members of (model, optimizer, criterion, scheduler, …) by their types."""
    models: list[Any] = []
    found: dict[str, list[Any]] = {"optimizer": [], "inputs": [], "loss": [], "scheduler": []}
    for index, item in enumerate(result):
        kind = _kind(item)
        if kind == "model":
            models.append(item)
        elif kind in found:
            found[kind].append(item)
        elif kind == "ignored":
            notes.append(f"{_named(item)} in what {name} returned is not used")
        elif kind != "none":
            raise TargetError(
                f"{name} returned a {type(result).__name__} whose member {index} is {_named(item)}: "
                f"return a dict with the keys {', '.join(_FIELDS)}"
            )
    if len(models) > 1:
        criteria = [m for m in models[1:] if _is_module(m) and _is_criterion(m)]
        models = [m for m in models if not any(m is c for c in criteria)]
        found["loss"] += criteria
    if len(models) != 1:
        what = f"{len(models)} models" if models else f"a {type(result).__name__} without a model"
        raise TargetError(f"{name} returned {what}, expected {_EXPECTED}; several models go in a dict under 'model'")
    setup = Setup(models[0])
    optimizers = [o for item in found["optimizer"] for o in (item if isinstance(item, (list, tuple)) else [item])]
    if not optimizers:
        optimizers = [s.optimizer for s in found["scheduler"]][:1]
    setup.optimizer = optimizers[0] if len(optimizers) == 1 else optimizers or None
    if len(found["inputs"]) == 1:
        setup.inputs = found["inputs"][0]
    elif found["inputs"]:
        setup.inputs = tuple(found["inputs"])
    for criterion in found["loss"]:
        if setup.loss is None and len(_needed(criterion)) == 1:
            setup.loss = criterion
        else:
            notes.append(f"{_named(criterion)} in what {name} returned is not used: it needs more than the output")
    return setup


def _kind(item: Any) -> str:
    """What a member of a returned tuple is: one of Setup's fields, scheduler, ignored, none, or unknown."""
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


def _optimizer(given: Any, name: str) -> Any:
    if given is None:
        return None
    if isinstance(given, (list, tuple)):
        given = {str(i): value for i, value in enumerate(given)}
    if isinstance(given, Mapping):
        return {str(k): _one_optimizer(v, f"{name}: optimizer[{k!r}]") for k, v in given.items() if v is not None}
    return _one_optimizer(given, f"{name}: 'optimizer'")


def _one_optimizer(given: Any, where: str) -> Any:
    import torch

    inner = getattr(given, "optimizer", None)
    wrapped = not isinstance(given, torch.optim.Optimizer) or type(given).__module__.startswith("accelerate.")
    if _is_optimizer(given):
        return _one_optimizer(inner, where) if wrapped and _is_optimizer(inner) else given
    if isinstance(given, type):
        raise TargetError(f"{where} is the class {given.__name__}, not an instance: write {given.__name__}(...)")
    hint = f": pass the {type(inner).__name__} it schedules" if _is_optimizer(inner) else ""
    raise TargetError(f"{where} is {_named(given)}, expected a torch optimizer{hint}")


def _inputs(setup: Setup, name: str) -> Any:
    given = setup.inputs
    if hasattr(given, "__next__") or type(given).__name__.endswith("DataLoader"):
        raise TargetError(
            f"{name}: 'inputs' is {_named(given)}: give one batch of it, next(iter(...)), as the forward takes it"
        )
    if given is None or not isinstance(setup.model, Mapping):
        return _call_arguments(given)
    if not isinstance(given, Mapping):
        keys = ", ".join(setup.model)
        raise TargetError(f"{name}: 'inputs' is {_named(given)}, expected a dict keyed like 'model' ({keys})")
    for key in given:
        if key not in setup.model:
            near = difflib.get_close_matches(str(key), list(setup.model), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the models are {', '.join(setup.model)}"
            raise TargetError(f"{name}: inputs[{key!r}] belongs to no model: {hint}")
    return {key: _call_arguments(value) for key, value in given.items() if value is not None}


def _call_arguments(given: Any) -> Any:
    """A tuple of positional or a dict of keyword arguments; a named tuple (a packed sequence) is one argument."""
    if given is None:
        return None
    if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
        return dict(given)
    if isinstance(given, (tuple, list)) and not hasattr(given, "_fields"):
        return tuple(given)
    return (given,)


def _loss(given: Any, name: str) -> Callable[[Any], Any] | None:
    if given is None:
        return None
    if isinstance(given, type) or not callable(given):
        raise TargetError(f"{name}: 'loss' is {_named(given)}, expected a function output → scalar tensor")
    needed = _needed(given)
    if len(needed) > 1:
        raise TargetError(
            f"{name}: 'loss' needs {len(needed)} arguments ({', '.join(needed)}), and is called with the output alone: "
            f"write loss=lambda output: criterion(output, target)"
        )
    return given  # type: ignore[no-any-return]


def _check_step(step: Any, name: str) -> None:
    if isinstance(step, type) or not callable(step):
        raise TargetError(
            f"{name}: 'step' is {_named(step)}, expected a function without arguments that trains a little"
        )
    if needed := _needed(step):
        raise TargetError(
            f"{name}: 'step' needs arguments ({', '.join(needed)}), and is called without: bind them, "
            f"step=lambda: step({', '.join(needed)})"
        )


def _patterns(given: Any, field_name: str, name: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (list, tuple, set, frozenset)) and all(isinstance(item, str) for item in given):
        return tuple(given)
    raise TargetError(f"{name}: {field_name!r} is {_named(given)}, expected glob patterns of parameter names")


def _needed(function: Any) -> list[str]:
    """Names of the arguments that a callable cannot do without."""
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
    return next(module.parameters(), None) is None


def _named(value: Any) -> str:
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
