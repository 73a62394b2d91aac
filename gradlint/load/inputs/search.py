"""Search for inputs: guess from the first layers, try, and guess again from the layers reached and the error."""

from __future__ import annotations

import heapq
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from gradlint.load.inputs.error_hints import hinted_guesses
from gradlint.load.inputs.shapes import (
    BATCH,
    CHANNEL_NORMS,
    LENGTH,
    entry_layers,
    is_sequence_model,
    parameter_shapes,
    shapes_of,
)
from gradlint.load.inputs.values import Guess, all_tensors, describe, generator

Run = Callable[[tuple[Any, ...], dict[str, Any]], Any]

MAX_TRIES = 300
MAX_ELEMENTS = 500_000_000
"""Elements that modules may return in all tries together. A count, so that a busy machine finds the same inputs."""
_CHILDREN = 14


@dataclass
class Attempt:
    """The outcome of one try."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    error: BaseException | None
    completed: int = 0
    """Number of module calls that had returned when it ended."""
    received: dict[str, nn.Module] = field(default_factory=dict)
    """Argument → the first layer of known input shape that received it, or a view of it."""
    degenerate: bool = False
    """True if a normalization layer got a single spatial position, which makes its output constant."""


@dataclass(frozen=True)
class Argument:
    """A parameter of the forward that needs a value."""

    name: str
    keyword: bool = False
    annotation: Any = None


def arguments_of(model: nn.Module) -> tuple[list[Argument], list[Argument]]:
    """Return the required and the optional arguments of the forward.

    ``*args`` alone counts as one required argument.
    """
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return [Argument("input")], []
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    arguments = [Argument(p.name, p.kind is p.KEYWORD_ONLY, p.annotation) for p in plain]
    required = [a for a, p in zip(arguments, plain, strict=True) if p.default is p.empty]
    optional = [a for a, p in zip(arguments, plain, strict=True) if p.default is not p.empty]
    if not plain and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        required = [Argument("input")]
    return required, optional


class Search:
    """Finds arguments with which a forward runs.

    Attributes:
        tries: number of forwards run so far.
        elements: number of elements that modules returned in them.
        best: the failed try that got farthest; None before the first failure.
    """

    def __init__(self, model: nn.Module, run: Run) -> None:
        self.model = model
        self.run = run
        self.tries = 0
        self.elements = 0
        self.best: Attempt | None = None
        self.sequence = is_sequence_model(model)
        first = next((p for p in nn.Module.parameters(model) if p.is_floating_point() or p.is_complex()), None)
        self.dtype = first.dtype if first is not None and first.dtype.itemsize > 1 else torch.get_default_dtype()
        self.device = first.device if first is not None else torch.device("cpu")
        widths = [getattr(m, "out_channels", getattr(m, "out_features", None)) for m in nn.Module.modules(model)]
        self.outputs = list(dict.fromkeys(w for w in widths if isinstance(w, int)))[:3]

    def search(self, arguments: list[Argument]) -> Attempt | None:
        """Return the first try that runs, from small inputs to large; None if none does."""
        seen: set[tuple[tuple[str, Guess], ...]] = set()
        waiting = self._initial(arguments)
        hinted: list[tuple[int, int, dict[str, Guess]]] = []
        order = itertools.count()
        turn = 0
        while not self._over():
            # Guesses from hints go first. Every third try is an initial one, in case the hints mislead.
            turn += 1
            guesses = None
            if not hinted or turn % 3 == 0:
                guesses = next(waiting, None)
            if guesses is None:
                if not hinted:
                    return None
                guesses = heapq.heappop(hinted)[2]
            key = tuple(guesses.items())
            if key in seen:
                continue
            seen.add(key)
            attempt = self._try_guesses(arguments, guesses)
            if attempt.error is None:
                return self._less_degenerate(arguments, guesses, attempt) if attempt.degenerate else attempt
            children = itertools.chain(self._from_layers(guesses, attempt), hinted_guesses(guesses, str(attempt.error)))
            for child in itertools.islice(children, _CHILDREN):
                heapq.heappush(hinted, (-attempt.completed, next(order), child))
        return None

    def attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any], names: dict[str, Any] | None = None) -> Attempt:
        """Run the forward once, and watch the modules it calls.

        `names` are the arguments by name, to be recognized where a layer receives them.
        """
        self.tries += 1
        result = Attempt(args, kwargs, None)
        argument_of = {
            _storage_key(v): k for k, v in (names or {}).items() if isinstance(v, torch.Tensor) and v.numel()
        }

        def entering(module: nn.Module, inputs: Any) -> None:
            tensors = [t for t in inputs if isinstance(t, torch.Tensor)] if isinstance(inputs, tuple) else []
            for tensor in tensors:
                name = argument_of.get(_storage_key(tensor)) if argument_of else None
                if name is not None and name not in result.received and shapes_of(module, self.sequence):
                    result.received[name] = module
            if isinstance(module, (*CHANNEL_NORMS, nn.GroupNorm)) and tensors:
                result.degenerate |= tensors[0].dim() > 2 and tensors[0].shape[2:].numel() == 1

        def leaving(module: nn.Module, inputs: Any, output: Any) -> None:
            result.completed += 1
            self.elements += _elements(output)

        handles = [
            hooks.register_module_forward_pre_hook(entering),
            hooks.register_module_forward_hook(leaving),
        ]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = self.run(args, kwargs)
            if not is_usable(output):
                result.error = ValueError(f"the forward returned {'None' if output is None else 'an empty result'}")
        except (Exception, SystemExit) as error:
            result.error = error
        finally:
            for handle in handles:
                handle.remove()
        if result.error is not None and (self.best is None or result.completed > self.best.completed):
            self.best = result
        return result

    def _over(self) -> bool:
        return self.tries >= MAX_TRIES or self.elements >= MAX_ELEMENTS

    def _try_guesses(self, arguments: list[Argument], guesses: dict[str, Guess]) -> Attempt:
        source = generator()
        values = {a.name: guesses[a.name].make(source, self.dtype, self.device) for a in arguments}
        args = tuple(values[a.name] for a in arguments if not a.keyword)
        return self.attempt(args, {a.name: values[a.name] for a in arguments if a.keyword}, values)

    def _less_degenerate(self, arguments: list[Argument], guesses: dict[str, Guess], success: Attempt) -> Attempt:
        """Return a try with inputs large enough for normalization layers, else the one that ran."""
        for size in (32, 64):
            larger = {n: g.resized(size) if len(g.shape) > 3 and g.shape[2] < size else g for n, g in guesses.items()}
            if larger != guesses and not self._over():
                attempt = self._try_guesses(arguments, larger)
                if attempt.error is None and not attempt.degenerate:
                    return attempt
        return success

    def _from_layers(self, guesses: dict[str, Guess], attempt: Attempt) -> Iterator[dict[str, Guess]]:
        for name, layer in attempt.received.items():
            likely = shapes_of(layer, self.sequence)
            if not any(_fits(guesses[name], g) for g in likely):
                for guess in likely[:4]:
                    yield {**guesses, name: guess}
        # An argument that no layer received is likely combined with another one or with the output: same shape.
        for name, guess in guesses.items():
            if attempt.received and name not in attempt.received and guess.kind == "float":
                like = guesses[next(iter(attempt.received))]
                if like.kind == "float" and len(like.shape) > 1:
                    dim = 1 if len(like.shape) > 3 else -1
                    for other in [like, *(like.at(dim, n) for n in self.outputs)]:
                        yield {**guesses, name: other}

    def _initial(self, arguments: list[Argument]) -> Iterator[dict[str, Guess]]:
        """Yield combinations of the arguments' candidates, by the sum of their ranks."""
        layers = list(itertools.islice(entry_layers(self.model), 8))
        choices = [self._candidates(a, i, layers) for i, a in enumerate(arguments)]
        cap = 48 if len(choices) == 1 else max(3, round(400 ** (1 / len(choices))))
        ranks = itertools.product(*(range(min(cap, len(c))) for c in choices))
        for combination in sorted(ranks, key=sum):
            yield {a.name: c[k] for a, c, k in zip(arguments, choices, combination, strict=True)}

    def _candidates(self, argument: Argument, index: int, layers: list[nn.Module]) -> list[Guess]:
        """Return the guesses at one argument, from its annotation, its name and the first layers."""
        if annotated := _from_annotation(argument.annotation):
            return annotated
        named = self._from_name(argument.name, layers, index)
        sizes = _own_sizes(self.model)
        shapes: list[list[Guess]] = []
        for layer in layers[index:] + layers[:index]:
            guesses = shapes_of(layer, self.sequence)
            if sizes and guesses and len(guesses[0].shape) == 4:
                guesses = [guesses[0].resized(s) for s in sizes] + guesses
            shapes.append(guesses)
        # A container's own parameters come last: one may be a scale or a token, added long after the input.
        containers = [m for m in nn.Module.modules(self.model) if next(nn.Module.children(m), None) is not None]
        shapes += [guesses for m in containers[:8] if (guesses := parameter_shapes(m, self.sequence))]
        # The first layer's sizes in full, then the best of the others.
        listed = (shapes[0][:4] if shapes else []) + [g for s in shapes[1:] for g in s[:2]]
        rest = (shapes[0][4:] if shapes else []) + [Guess((BATCH, LENGTH)), Guess((BATCH,))]
        return list(dict.fromkeys([*named, *listed, *rest]))

    def _from_name(self, name: str, layers: list[nn.Module], index: int) -> list[Guess]:
        """Return the guesses that the name of an argument suggests."""
        embeddings = [m for m in nn.Module.modules(self.model) if isinstance(m, nn.Embedding)]
        high = embeddings[min(index, len(embeddings) - 1)].num_embeddings if embeddings else 2
        heads = [m.out_features for m in nn.Module.modules(self.model) if isinstance(m, nn.Linear)]
        tokens, single = Guess((BATCH, LENGTH), "int", high), Guess((BATCH,), "int", high)
        if re.search(r"edge_index", name):
            return [Guess((2, 6), "int", BATCH)]
        if re.fullmatch(r"adj\w*", name):
            return [Guess((BATCH, BATCH)), Guess((BATCH, LENGTH, LENGTH))]
        if re.search(r"mask", name):
            masks = [Guess((BATCH, LENGTH), "ones"), Guess((LENGTH, LENGTH), "ones"), Guess((BATCH, LENGTH))]
            return [*masks, Guess((BATCH, 1, LENGTH, LENGTH), "ones")]
        if re.search(r"len(gth)?s?$", name):
            return [Guess((BATCH,), "full", LENGTH), Guess(kind="value", value=LENGTH)]
        if re.fullmatch(r"t|ts|times?|timesteps?|steps?|sigmas?|noise_levels?", name):
            return [Guess((BATCH,), "int", min(high, 10) if embeddings else 10), Guess((BATCH,)), Guess((BATCH, 1))]
        if re.fullmatch(r"y|labels?|targets?|gt|ground_truth", name) and index:
            classes = heads[-1] if heads else 2
            return [Guess((BATCH,), "int", classes), Guess((BATCH, LENGTH), "int", classes), Guess((BATCH, classes))]
        if not embeddings and re.search(r"(^|_)(ids|idx|index|indices)(_|$)", name):
            return [tokens, single]
        if embeddings and re.search(
            r"ids?$|tokens?|words?|text|src|tgt|seq|ind(ex|ices)|idx|users?|items?|nodes?", name
        ):
            pair = re.search(r"users?|items?|nodes?|_id$", name)
            return [single, tokens] if pair else [tokens, single]
        if re.fullmatch(r"h|hx|hidden|h0|state|h_prev", name) and index:
            hidden = next((m.hidden_size for m in layers if isinstance(m, (nn.RNNBase, nn.RNNCellBase))), 0)
            return [Guess((BATCH, hidden)), Guess((1, BATCH, hidden))] if hidden else []
        return []


def is_usable(output: Any) -> bool:
    """Return True if a forward's output is neither None nor made of empty tensors only."""
    tensors = all_tensors(output)
    return output is not None and (not tensors or any(t.numel() for t in tensors))


def summary(attempt: Attempt) -> str:
    """Return the arguments of a try in words."""
    return describe(attempt.args, attempt.kwargs)


def _from_annotation(annotation: Any) -> list[Guess]:
    simple: dict[Any, list[Any]] = {bool: [False], int: [1, LENGTH], float: [0.5], str: [""]}
    for kind, values in simple.items():
        if annotation is kind or annotation == kind.__name__:
            return [Guess(kind="value", value=v) for v in values]
    return []


def _own_sizes(model: nn.Module) -> list[int]:
    """Return the image sizes that the model has as attributes."""
    sizes = []
    for name, value in vars(model).items():
        if re.search(r"(image|img|input)_?(size|resolution|dim)|resolution", name):
            value = value[0] if isinstance(value, (tuple, list)) and value else value
            if isinstance(value, int) and not isinstance(value, bool) and 4 <= value <= 1024:
                sizes.append(value)
    return sizes


def _fits(guess: Guess, like: Guess) -> bool:
    """Return True if two guesses differ at most in lengths and spatial sizes."""
    if guess.kind != like.kind or len(guess.shape) != len(like.shape):
        return False
    if len(guess.shape) > 3:
        return guess.shape[1] == like.shape[1]
    return guess.kind == "int" or guess.shape[-1] == like.shape[-1] or guess.shape[1:2] == like.shape[1:2]


def _elements(output: Any) -> int:
    """Return the number of elements of a module's output."""
    results = output if isinstance(output, (tuple, list)) else (output,)
    return sum(result.numel() for result in results if isinstance(result, torch.Tensor))


def _storage_key(tensor: torch.Tensor) -> int:
    """Return the address of the tensor's memory; the tensor's identity if it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse, wrapper subclasses
        return id(tensor)
