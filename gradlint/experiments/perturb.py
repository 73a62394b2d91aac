"""Settles by perturbation whether data reaches the loss from parameters by ways that no torch call shows.

A value that leaves torch (``.item()``, numpy, a list of floats) and comes back is absent from the recorded graph. If
the loss moves when only the parameter is changed, its data arrives all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from gradlint.flow.evidence import LossEffect
from gradlint.restore.global_state import isolated_rng, without_torch_function
from gradlint.restore.tensors import is_readable, same_values
from gradlint.system.undo import Undo

Run = Callable[[], "Tensor | Sequence[Tensor] | None"]

SCALES: tuple[tuple[float, bool], ...] = ((1e-3, True), (1.0, False), (-10.0, False))
"""The perturbations, in this order: size, and whether it is relative to the parameter's root mean square."""

_LARGE = 1e7
"""Where adding one to a number of single precision is rounded away."""
_LARGE_DOUBLE = 1e16
"""Where adding one to a number of double precision is rounded away."""
_NOISE = 0.02
"""Standard deviation of the second baseline's noise, in the parameters' own unit."""
_PATTERN_LENGTH = 65_521
"""A prime, so that the repeated pattern does not line up with the rows of a matrix."""


_IRREPRODUCIBLE = LossEffect("unknown", reason="the model gives different results in equal runs")


class _OutOfRunsError(Exception):
    """The bound on runs is spent."""


def find_effects(
    run: Run,
    parameters: Mapping[str, Tensor],
    suspects: Sequence[str],
    *,
    max_runs: int = 40,
    apart: bool = True,
    path: Callable[[], object] = lambda: None,
    reseeded: Run | None = None,
    undo: Undo | None = None,
) -> dict[str, LossEffect]:
    """Run the model with the suspects perturbed; return whether the loss or an output moved.

    Two baselines are tried. One is the model as it is. In the other all parameters carry a little noise, because a
    zero-initialised layer downstream lets nothing through, and the seed is another, because dropout hides some values.
    Parameters are restored bit for bit, after exceptions too.

    Args:
        run: runs forward and loss once, and undoes all that this changes; returns the loss, or the output tensors, or
            None if there is neither.
        parameters: name → tensor, all of the model's.
        suspects: the names to settle. Those without memory or of no floating-point type are ``unknown``.
        max_runs: bound on the number of runs, the two unperturbed ones included.
        apart: whether each suspect gets an effect of its own; else one, found together, holds for all.
        path: returns what the last run executed, to be compared.
        reseeded: does the same as `run` under another seed.
        undo: undoes the recording, and the changes of parameters if an interrupt comes amid their end.

    Returns:
        An effect for each suspect. All are ``unknown``, with the reason, if unperturbed runs fail or differ.
    """
    suspects = list(dict.fromkeys(suspects))
    movable = [name for name in suspects if _can_move(parameters[name])]
    runner = _Runner(run, parameters, max_runs, path, reseeded, undo)
    effects: dict[str, LossEffect] = {}
    if movable:
        first, second = runner.outcome(), runner.outcome()
        runner.usual = path()
        if first is None or second is None:
            effects = dict.fromkeys(movable, LossEffect("unknown", reason=runner.fault))
        elif not _same(first, second):
            effects = dict.fromkeys(movable, _IRREPRODUCIBLE)
        else:
            effects = _search(runner, movable, first, apart)
    ignored = LossEffect("unknown", reason="not a floating-point tensor with values")
    return {name: effects.get(name, ignored) for name in suspects}


def adding_noise(parameters: Mapping[str, Tensor], undo: Undo) -> AbstractContextManager[None]:
    """Add a little noise to every parameter inside the context; restore them bit for bit.

    They are restored with `undo` at the latest.
    """
    return _Runner(lambda: None, parameters, 1, undo=undo).adding_noise()


def _search(runner: _Runner, suspects: list[str], plain: list[Tensor], apart: bool) -> dict[str, LossEffect]:
    """Perturb all unsettled suspects at once, and split the group if the loss moves.

    This is done under each baseline and scale.
    """
    effects: dict[str, LossEffect] = {}
    finite = shows = False
    unsettled = LossEffect("no_evidence")
    for noise in (False, True):
        if len(effects) == len(suspects):
            break
        before = len(effects)
        with runner.adding_noise() if noise else nullcontext():
            baseline: list[Tensor] | None = None
            try:
                baseline = runner.second_baseline() if noise else plain
                if baseline is None:
                    continue
                finite = finite or any(bool(tensor.isfinite().any()) for tensor in baseline)
                shows = shows or any(map(_shows_small_changes, baseline))
                for scale in (*SCALES, *_beyond(baseline)):
                    rest = [name for name in suspects if name not in effects]
                    if not rest or not runner.moves(rest, scale, baseline):
                        continue
                    if apart:
                        _split(runner, rest, scale, baseline, effects)
                    else:
                        effects.update(dict.fromkeys(rest, LossEffect("reaches", is_of_group=len(rest) > 1)))
            except _OutOfRunsError:
                unsettled = LossEffect("unknown", reason=f"the bound of {runner.max_runs} runs was reached")
            # A result that changes now and then may have stood still in the first two runs.
            if baseline is not None and len(effects) > before and not _same(baseline, runner.outcome()):
                return dict.fromkeys(suspects, _IRREPRODUCIBLE)
    if not finite and not effects:
        unsettled = LossEffect("unknown", reason="the loss is not finite, so nothing can move it")
    elif not shows and not effects:
        unsettled = LossEffect("unknown", reason="the loss is so large that it absorbs changes")
    effects = dict.fromkeys(runner.steering, LossEffect("steers")) | effects
    return {name: effects.get(name, unsettled) for name in suspects}


def _beyond(baseline: list[Tensor]) -> tuple[tuple[float, bool], ...]:
    """Return one more perturbation for a loss so large that it absorbs the others."""
    largest = max((float(t.abs().max()) for t in baseline if t.numel() and t.dtype != torch.bool), default=0.0)
    return ((largest**0.5, False),) if _LARGE < largest < float("inf") else ()


def _shows_small_changes(result: Tensor) -> bool:
    """Return True if a change by one is not rounded away in each element."""
    if not (result.is_floating_point() or result.is_complex()):
        return True
    largest = _LARGE_DOUBLE if result.dtype in (torch.float64, torch.complex128) else _LARGE
    return bool((result.abs() <= largest).any())


def _split(
    runner: _Runner, group: list[str], scale: tuple[float, bool], baseline: list[Tensor], effects: dict[str, LossEffect]
) -> None:
    """Split a group that moves the loss into the members that do, and note them in `effects`."""
    pending = deque([group])
    while pending:
        group = pending.popleft()
        if len(group) == 1:
            effects[group[0]] = LossEffect("reaches")
            continue
        halves = [group[: len(group) // 2], group[len(group) // 2 :]]
        try:
            moving = [half for half in halves if runner.moves(half, scale, baseline)]
        except _OutOfRunsError:
            moving = []
        pending.extend(moving)
        if not moving:
            # Out of runs, or the members move the loss only together.
            effects.update(dict.fromkeys(group, LossEffect("reaches", is_of_group=True)))


class _Runner:
    """Runs the model under equal conditions, with parameters moved for the time of a run."""

    def __init__(
        self,
        run: Run,
        parameters: Mapping[str, Tensor],
        max_runs: int,
        path: Callable[[], object] = lambda: None,
        reseeded: Run | None = None,
        undo: Undo | None = None,
    ) -> None:
        self.path = path
        self.usual: object = None
        """The path of the unperturbed run."""
        self.steering: set[str] = set()
        """Names of parameters with which the loss moved on another path."""
        self.parameters = parameters
        self.max_runs = max_runs
        self.runs = 0
        self.fault = ""
        self._run = self._seeded = run
        self._reseeded = reseeded
        self._undo = Undo() if undo is None else undo
        self._pattern = torch.randn(_PATTERN_LENGTH, generator=torch.Generator().manual_seed(0), device="cpu")

    def outcome(self, *, bounded: bool = False) -> list[Tensor] | None:
        """Return the result of one run; None if it raised or gave nothing (`fault`)."""
        # One run stays in hand, to see in the end whether the baseline repeats.
        if bounded and self.runs + 1 >= self.max_runs:
            raise _OutOfRunsError
        self.runs += 1
        try:
            with isolated_rng():
                result = _cloned(self._run())
        except Exception as error:
            self.fault = f"running the model again raised {type(error).__name__}: {error}"
            return None
        if not result:
            self.fault = "a run gives no loss and no output to compare"
            return None
        return result

    def second_baseline(self) -> list[Tensor] | None:
        """Return the result under another seed, or the first one if other code runs."""
        usual = self.usual
        if self._reseeded is not None:
            self._run = self._reseeded
            baseline = self.outcome(bounded=True)
            if baseline is not None and self.path() == usual:
                return baseline
            self._run = self._seeded
        baseline = self.outcome(bounded=True)
        self.usual = self.path()
        return baseline

    def moves(self, names: Sequence[str], scale: tuple[float, bool], baseline: list[Tensor]) -> bool:
        """Return True if the outcome differs from the baseline with these parameters perturbed.

        A run that raises moves nothing. A run on another path shows that the parameters steer, and no more.
        """
        with self._shifted(names, *scale):
            perturbed = self.outcome(bounded=True)
        if perturbed is None or _same(baseline, perturbed):
            return False
        if self.path() != self.usual:
            self.steering.update(names)
            return False
        return True

    def adding_noise(self) -> AbstractContextManager[None]:
        """Add a little noise to every parameter inside the context, suspects too.

        A suspect that is zero may stand behind another.
        """
        return self._shifted([name for name, tensor in self.parameters.items() if _can_move(tensor)], _NOISE, False)

    @contextmanager
    def _shifted(self, names: Sequence[str], size: float, relative: bool) -> Iterator[None]:
        # In place, not by exchanging `.data`: numpy arrays, views and tied storages must see it too. Through `.data`,
        # because it leaves the parameter's version counter alone.
        tensors = {id(self.parameters[name]): self.parameters[name] for name in names}.values()
        with self._undo.part() as part:
            with without_torch_function(), torch.no_grad():
                for number, tensor in enumerate(tensors, 1):
                    alias = tensor.data
                    part.call(_put_back, alias, alias.clone())
                    with suppress(RuntimeError):
                        self._add(alias, size, relative, number)
            yield

    def _add(self, tensor: Tensor, size: float, relative: bool, salt: int) -> None:
        if relative:
            root_mean_square = float(torch.linalg.vector_norm(tensor)) / tensor.numel() ** 0.5
            size *= root_mean_square if 0.0 < root_mean_square < float("inf") else 1.0
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        # Tensors of one shape must not all move alike: a difference of two would stand still.
        pattern = self._pattern.roll(salt * 7919)[: real.numel()]
        repeated = pattern.repeat(-(-real.numel() // pattern.numel()))[: real.numel()]
        with _writable(tensor):
            real.add_(repeated.view(real.shape).to(real.device, real.dtype), alpha=size)


def _put_back(alias: Tensor, values: Tensor) -> None:
    with without_torch_function(), torch.no_grad(), _writable(alias), suppress(RuntimeError):
        if is_readable(alias):
            alias.copy_(values)


def _writable(tensor: Tensor) -> AbstractContextManager[Any]:
    return torch.inference_mode() if tensor.is_inference() else nullcontext()


def _can_move(tensor: Tensor) -> bool:
    """Return True if a tensor has values that can be added to (8-bit floats cannot)."""
    floating = tensor.is_floating_point() or tensor.is_complex()
    return floating and tensor.numel() > 0 and tensor.dtype.itemsize > 1 and is_readable(tensor)


def _cloned(result: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    tensors = [result] if isinstance(result, Tensor) else list(result or ())
    with without_torch_function(), torch.no_grad():
        # to_dense copies only what is not dense already
        return [tensor.detach().to_dense().clone() for tensor in tensors if isinstance(tensor, Tensor)]


def _same(left: list[Tensor], right: list[Tensor] | None) -> bool:
    """Return True if two runs gave the same tensors."""
    return right is not None and len(left) == len(right) and all(map(same_values, left, right))
