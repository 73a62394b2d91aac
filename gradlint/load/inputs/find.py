"""Parse ``--input``, or find inputs with which a forward runs. Imports torch only when used."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradlint.errors import TargetError, UsageError

if TYPE_CHECKING:
    import torch

_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}
_FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_INTS = ("int8", "int16", "int32", "int64", "uint8")
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}
_HOW = "write a shape, 2,3,224,224 or 2,16:int64:1000, with a name before it if needed, input_ids=2,16:int64:1000"


@dataclass(frozen=True)
class InputSpec:
    """One ``--input`` argument: a tensor's shape and dtype, or a plain value."""

    shape: tuple[int, ...] | None
    """Shape of the tensor; None for a plain value."""
    dtype: str = "float32"
    high: int = 2
    """Exclusive upper bound of random integers."""
    value: Any = None

    def materialize(self) -> Any:
        """Return the plain value, or a random tensor.

        Floats are normal, integers uniform in [0, high).
        """
        from gradlint.load.inputs.values import generator

        return self._make(generator())

    def _make(self, source: torch.Generator) -> Any:
        import torch

        from gradlint.load.inputs.values import normal

        if self.shape is None:
            return self.value
        dtype: torch.dtype = getattr(torch, self.dtype)
        if self.dtype in _FLOATS:
            return normal(self.shape, source, dtype)
        return torch.randint(0, self.high, self.shape, generator=source, device="cpu").to(dtype)


@dataclass(frozen=True)
class InputSpecs:
    """All ``--input`` arguments of one forward."""

    args: tuple[InputSpec, ...] = ()
    kwargs: Mapping[str, InputSpec] = field(default_factory=dict)

    def materialize(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments, drawn from a seeded generator of their own."""
        from gradlint.load.inputs.values import generator

        source = generator()
        args = tuple(spec._make(source) for spec in self.args)
        return args, {name: spec._make(source) for name, spec in self.kwargs.items()}


@dataclass
class Inputs:
    """The arguments of one forward, and their origin."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    how: str = "given"
    """Origin in words: ``given``, ``example_input_array``, ``dummy_inputs``, ``from the model's config``, ``searched``
    or ``none needed``."""
    description: str = ""
    """The arguments in words, such as ``float32[2, 3, 32, 32]``."""

    def __post_init__(self) -> None:
        if not self.description:
            from gradlint.load.inputs.values import describe

            self.description = describe(self.args, self.kwargs)


def parse_inputs(texts: Sequence[str]) -> InputSpecs:
    """Parse the values of ``--input``, in order.

    ``2,3,224,224`` is a float32 tensor; ``2,16:int64:1000`` has a dtype and, for integers, an exclusive upper bound
    (2 if left out); ``name=...`` passes it by name. A single number is a plain value (``alpha=0.5``, ``5``); a shape of
    one dimension ends in a comma or has a dtype (``8,``, ``8:int64:10``). ``true``, ``false`` and ``none`` are values.

    Raises:
        UsageError: a value has none of these forms; the message quotes it.
    """
    args: list[InputSpec] = []
    kwargs: dict[str, InputSpec] = {}
    for text in texts:
        name, equals, rest = text.rpartition("=")
        name = name.strip()
        if not equals:
            args.append(_parse_one(text, text))
            continue
        if not name.isidentifier():
            raise UsageError(f"--input {text!r}: {name!r} is not an argument name; {_HOW}")
        if name in kwargs:
            raise UsageError(f"--input {text!r}: {name} is given twice")
        kwargs[name] = _parse_one(rest, text)
    return InputSpecs(tuple(args), kwargs)


def _parse_one(body: str, text: str) -> InputSpec:
    shape_text, *more = (part.strip() for part in body.split(":"))
    if not more and shape_text.lower() in _WORDS:
        return InputSpec(None, value=_WORDS[shape_text.lower()])
    if not more and re.fullmatch(r"[-+]?\d+", shape_text):
        return InputSpec(None, value=int(shape_text))
    if not more and re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+|\d+)(e[-+]?\d+)?", shape_text, re.I):
        return InputSpec(None, value=float(shape_text))
    sizes = shape_text.strip("()[] ").rstrip(",")
    if not re.fullmatch(r"\d+(\s*,\s*\d+)*", sizes):
        raise UsageError(f"--input {text!r}: {shape_text!r} is not a shape; {_HOW}")
    shape = tuple(int(size) for size in sizes.split(","))
    if 0 in shape:
        raise UsageError(f"--input {text!r}: a dimension of size 0 makes an empty tensor")
    if len(more) > 2:
        raise UsageError(f"--input {text!r} has too many parts; {_HOW}")
    dtype = more[0].removeprefix("torch.") if more else "float32"
    dtype = _ALIASES.get(dtype, dtype)
    dtypes = (*_FLOATS, *_INTS, "bool")
    if dtype not in dtypes:
        near = difflib.get_close_matches(dtype, (*dtypes, *_ALIASES), n=1)
        hint = f"did you mean {near[0]}?" if near else f"the dtypes are {', '.join(dtypes)}"
        raise UsageError(f"--input {text!r}: {dtype!r} is not a dtype: {hint}")
    if len(more) < 2:
        return InputSpec(shape, dtype)
    if dtype not in _INTS:
        raise UsageError(f"--input {text!r}: only integers take an upper bound, not {dtype}")
    if not more[1].isdigit() or int(more[1]) < 1:
        raise UsageError(f"--input {text!r}: the upper bound {more[1]!r} is not a positive integer")
    return InputSpec(shape, dtype, int(more[1]))


def find_inputs(
    model: torch.nn.Module, run: Callable[[tuple[Any, ...], dict[str, Any]], Any], name: str = ""
) -> Inputs:
    """Return arguments with which the model's forward runs.

    The model's own inputs are tried first; then a search starts from its first layers. Tensors take the device, and
    floats the dtype, of the model's first parameter. The batch size is 2 unless the model's own inputs differ. Values
    come from a seeded generator; the global random state is not touched.

    Args:
        model: any module.
        run: runs a forward with (args, kwargs), isolates the state it changes, and returns its output or raises.
        name: the model's name if there are several, for messages.

    Raises:
        TargetError: no try succeeded; the message and traceback are those of the try that got farthest.
    """
    from gradlint.load.inputs.pretrained import is_pretrained
    from gradlint.load.inputs.search import Search, arguments_of

    inner = unwrap(model)
    who = f"{type(inner).__name__} ({name})" if name else type(inner).__name__
    if not _has_forward(inner):
        raise TargetError(
            f"{who} has no forward of its own: return its parts under 'model' with their 'inputs', or return 'step'"
        )
    search = Search(inner, run)
    for how, args, kwargs in _inputs_of_model(inner):
        if search.attempt(args, kwargs).error is None:
            return Inputs(args, kwargs, how)
    if is_pretrained(inner):
        # Its config has been tried already, and a search over a hundred optional arguments is hopeless.
        raise _nothing_runs(who, search.tries, search.best)
    required, optional = arguments_of(inner)
    if not required:
        empty = search.attempt((), {})
        if empty.error is None:
            return Inputs((), {}, "none needed")
    for arguments in (required, (required + optional)[: len(required) + 1]):
        if arguments and (success := search.search(arguments)) is not None:
            return Inputs(success.args, success.kwargs, "searched")
        if required and not _missing_optional(search.best):
            break
    raise _nothing_runs(who, search.tries, search.best)


def unwrap(model: Any) -> Any:
    """Return the module inside wrappers: DataParallel, torch.compile, FSDP, peft."""
    import torch

    for _ in range(8):
        inner = None
        if hasattr(model, "get_base_model") and "peft" in type(model).__module__:
            inner = model.get_base_model()
        elif type(model).__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
            inner = getattr(model, "module", None)
        elif type(model).__name__ == "OptimizedModule":
            inner = getattr(model, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner
    return model


def _inputs_of_model(model: Any) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Yield (origin, args, kwargs) of the model's own inputs, in the order to try them."""
    import torch

    from gradlint.load.inputs.pretrained import config_inputs, is_pretrained

    if is_pretrained(model):
        for kwargs in config_inputs(model):
            yield "from the model's config", (), kwargs
    for attribute in ("example_input_array", "dummy_inputs"):
        try:
            value = getattr(model, attribute, None)
        except Exception:  # a property in user code may raise anything
            continue
        if isinstance(value, Mapping):
            yield attribute, (), dict(value)
        elif isinstance(value, (tuple, list)):
            yield attribute, tuple(value), {}
        elif isinstance(value, torch.Tensor):
            yield attribute, (value,), {}


def _has_forward(model: Any) -> bool:
    forward = inspect.getattr_static(type(model), "forward", None)  # statically: a scripted module computes it
    return getattr(forward, "__name__", "") != "_forward_unimplemented" or "forward" in vars(model)


def _missing_optional(best: Any) -> bool:
    """Return True if the farthest try failed because an optional argument is needed after all."""
    return best is not None and "None" in str(best.error)


def _nothing_runs(who: str, tries: int, best: Any) -> TargetError:
    from gradlint.load.build import first_line, user_traceback
    from gradlint.load.inputs.search import summary

    remedy = "pin them with --input 2,3,224,224 (or 2,16:int64:1000), or return 'inputs' from build()"
    if best is None:
        return TargetError(f"found no inputs that {who} runs with: {remedy}")
    remedy = f"Please {remedy}"
    if "meta tensor" in str(best.error):
        remedy = "The model is on the meta device, where it has no values: return one on the CPU, of fewer layers say"
    return TargetError(
        f"found no inputs that {who} runs with, in {tries} tries; the farthest, {summary(best)}, ended in "
        f"{type(best.error).__name__}: {first_line(best.error)}. {remedy}",
        user_traceback(best.error),
    )
