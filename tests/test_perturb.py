"""The ways out of torch and back that nudging must find, and what it must not take for one."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cases import each
from torch import Tensor, nn

from gradlint.experiments import perturb
from gradlint.experiments.perturb import adding_noise, find_effects
from gradlint.flow.evidence import LossEffect
from gradlint.restore.preserved import Preserved
from gradlint.system.undo import Undo

Way = Callable[[Any, Tensor], Any]


class Detour(nn.Module):
    """`suspect` reaches the result only by the way given; `other` reaches it openly; `idle` not at all."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.suspect = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.dropout = nn.Dropout()
        self.zero = nn.Linear(4, 4, bias=False)
        nn.init.zeros_(self.zero.weight)
        self.norm = nn.BatchNorm1d(4)
        self.logged: list[float] = []
        self.way = way

    def forward(self, x: Tensor) -> Any:
        self.idle(x)
        return self.way(self, x)


def item(model: Any, x: Tensor) -> Any:
    return model.other(x) * torch.tensor(model.suspect(x).mean().item())


def through_numpy(model: Any, x: Tensor) -> Any:
    signal = model.suspect(x).detach().numpy().ravel()
    return model.other(x) + torch.from_numpy(np.convolve(signal, np.ones(3, dtype=np.float32))[:4])


def floats(model: Any, x: Tensor) -> Any:
    return model.other(x) + torch.tensor([math.tanh(value) for value in model.suspect(x)[0].tolist()])


def control_flow(model: Any, x: Tensor) -> Any:
    choice = int(model.suspect(x).mean(0).argmax())
    return model.other(x) * (choice + 1)


def logged_only(model: Any, x: Tensor) -> Any:
    model.logged.append(model.suspect(x).mean().item())
    return model.other(x)


def with_dropout(model: Any, x: Tensor) -> Any:
    return model.dropout(item(model, x))


def dropout_and_logged(model: Any, x: Tensor) -> Any:
    return model.norm(model.dropout(logged_only(model, x)))


def behind_zero(model: Any, x: Tensor) -> Any:
    return model.zero(item(model, x))


def shared_array(model: Any, x: Tensor) -> Any:
    return model.other(x) + float(
        model.suspect.weight.detach().numpy().sum() + model.suspect.bias.detach().numpy().sum()
    )


def nan_beside(model: Any, x: Tensor) -> Any:
    return item(model, x).mean() + torch.tensor([float("nan"), 1.0])


def nan_beside_logged(model: Any, x: Tensor) -> Any:
    return logged_only(model, x).mean() + torch.tensor([float("nan"), 1.0])


def only_nan(model: Any, x: Tensor) -> Any:
    return item(model, x) * float("nan")


def clock(model: Any, x: Tensor) -> Any:
    return model.other(x) * time.perf_counter_ns()


_counter = count()


def global_counter(model: Any, x: Tensor) -> Any:
    return model.other(x) * next(_counter)


def late_counter(model: Any, x: Tensor) -> Any:
    model.logged.append(0.0)
    return model.other(x) * max(len(model.logged), 4)


def raising(model: Any, x: Tensor) -> Any:
    raise ZeroDivisionError("nothing to divide by")


def absorbed(model: Any, x: Tensor) -> Any:
    return item(model, x) + 1e12


def bounded_beside_a_large_value(model: Any, x: Tensor) -> Any:
    return math.tanh(float(model.suspect(x).mean())) + model.other(x) + 1e12


def logged_beside_a_large_value_of_double_precision(model: Any, x: Tensor) -> Any:
    return logged_only(model, x).double() + 1e6


def logged_beside_large_integers(model: Any, x: Tensor) -> Any:
    return (logged_only(model, x) * 0).long() + 10_000


def raises_when_nudged(model: Any, x: Tensor) -> Any:
    if abs(model.suspect(x)).max() > 3:
        raise ValueError("out of range")
    return item(model, x)


SUSPECTS = ["suspect.weight", "suspect.bias", "idle.weight", "idle.bias"]
BOTH = {
    "suspect.weight": "reaches",
    "suspect.bias": "reaches",
    "idle.weight": "no_evidence",
    "idle.bias": "no_evidence",
}
NONE = dict.fromkeys(SUSPECTS, "no_evidence")
UNKNOWN = dict.fromkeys(SUSPECTS, "unknown")

WAYS: dict[str, tuple[Way, dict[str, str]]] = {
    "item": (item, BOTH),
    "numpy": (through_numpy, BOTH),
    "list of floats": (floats, BOTH),
    "index in control flow": (control_flow, BOTH),
    "logged": (logged_only, NONE),
    "dropout": (with_dropout, BOTH),
    "dropout, logged": (dropout_and_logged, NONE),
    "behind zeros": (behind_zero, BOTH),
    "array on the same memory": (shared_array, BOTH),
    "absorbed by a large value": (absorbed, BOTH),
    "bounded beside a large value": (bounded_beside_a_large_value, UNKNOWN),
    "logged beside a large value of double precision": (logged_beside_a_large_value_of_double_precision, NONE),
    "logged beside large integers": (logged_beside_large_integers, NONE),
    "a NaN beside": (nan_beside, BOTH),
    "a NaN beside, logged": (nan_beside_logged, NONE),
    "only NaN": (only_nan, UNKNOWN),
    "clock": (clock, UNKNOWN),
    "global counter": (global_counter, UNKNOWN),
    "counter that starts late": (late_counter, UNKNOWN),
    "raises": (raising, UNKNOWN),
    "raises when nudged far": (raises_when_nudged, BOTH),
}


class Judged(NamedTuple):
    by_name: dict[str, LossEffect]
    runs: int

    def reaching(self) -> list[str]:
        return [name for name, verdict in self.by_name.items() if verdict.outcome == "reaches"]


def judge(model: Any, suspects: Sequence[str], max_runs: int = 40, loss: bool = True) -> Judged:
    x = torch.linspace(-1, 1, 12).view(3, 4)
    runs = 0

    def run() -> list[Tensor]:
        nonlocal runs
        runs += 1
        with Preserved([model]):
            output = model(x.clone())
            return [(output.square().sum() if loss and output.isfinite().all() else output).clone()]

    return Judged(find_effects(run, dict(model.named_parameters()), suspects, max_runs=max_runs), runs)


def bits(model: nn.Module) -> list[object]:
    return [
        (name, id(tensor), tensor.data_ptr(), tensor._version, tensor.detach().numpy().tobytes(), tensor.requires_grad)
        for name, tensor in model.state_dict(keep_vars=True).items()
        if "norm.running" not in name and "num_batches" not in name
    ] + [tensor.numpy().tobytes() for tensor in model.buffers()]


@each("name", WAYS)
def test_way(name: str) -> None:
    torch.manual_seed(0)
    way, expected = WAYS[name]
    model = Detour(way)
    before, random_before = bits(model), torch.get_rng_state().tolist()
    verdicts = judge(model, SUSPECTS)
    assert {name: verdict.outcome for name, verdict in verdicts.by_name.items()} == expected
    assert bits(model) == before and torch.get_rng_state().tolist() == random_before
    assert not any(effect.is_of_group for effect in verdicts.by_name.values())
    assert all(bool(verdict.reason) == (verdict.outcome == "unknown") for verdict in verdicts.by_name.values())
    assert verdicts.runs <= 40


def test_reasons_name_the_error() -> None:
    verdicts = judge(Detour(raising), SUSPECTS)
    assert "ZeroDivisionError: nothing to divide by" in verdicts.by_name["idle.bias"].reason
    assert verdicts.runs == 2


def test_no_loss() -> None:
    model = Detour(item)
    verdicts = find_effects(lambda: None, dict(model.named_parameters()), SUSPECTS)
    assert "no loss" in verdicts["idle.bias"].reason


class Wide(nn.Module):
    """Of many layers, some reach the result through a float."""

    def __init__(self, reaching: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(64))
        self.reaching = reaching

    def forward(self, x: Tensor) -> Any:
        return x + sum(self.layers[index](x).sum().item() for index in self.reaching)


@each(
    ("reaching", "max_runs", "alone"),
    [([], 40, []), ([17], 40, [17]), ([3, 60], 50, [3, 60]), (range(64), 40, None), ([17], 8, None)],
)
def test_bound_on_runs(reaching: Sequence[int], max_runs: int, alone: list[int] | None) -> None:
    torch.manual_seed(0)
    model = Wide(reaching)
    names = [name for name, _ in model.named_parameters()]
    verdicts = judge(model, names, max_runs)
    assert verdicts.runs <= max_runs
    assert {f"layers.{index}.weight" for index in reaching} <= set(verdicts.reaching())
    if alone is None:
        assert any(effect.is_of_group for effect in verdicts.by_name.values())
    else:
        assert verdicts.reaching() == [f"layers.{index}.weight" for index in alone]
        assert not any(effect.is_of_group for effect in verdicts.by_name.values())


def test_too_few_runs_are_said() -> None:
    verdicts = judge(Wide([]), ["layers.0.weight"], max_runs=4)
    assert verdicts.by_name["layers.0.weight"].outcome == "unknown"
    assert "4 runs" in verdicts.by_name["layers.0.weight"].reason


class Held(nn.Module):
    """One held tensor, whose sum reaches the result through a float."""

    def __init__(self, held: Tensor) -> None:
        super().__init__()
        self.held = nn.Parameter(held, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + float(self.held.abs().to(torch.float64).sum())


def in_inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


KINDS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "float64": (lambda: torch.ones(3, dtype=torch.float64), "reaches"),
    "bfloat16": (lambda: torch.ones(300, dtype=torch.bfloat16), "reaches"),
    "half": (lambda: torch.ones(3, dtype=torch.float16), "reaches"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "reaches"),
    "view": (lambda: torch.ones(4, 4)[:, 1], "reaches"),
    "zero": (lambda: torch.zeros(3), "reaches"),
    "inference": (in_inference, "reaches"),
    "scalar": (lambda: torch.tensor(-0.0), "reaches"),
    "int": (lambda: torch.arange(3), "unknown"),
    "bool": (lambda: torch.tensor([True]), "unknown"),
    "empty": (lambda: torch.ones(0), "unknown"),
}


def test_hidden_by_chance() -> None:
    """Under one seed dropout hides the parameter; the other seed counts where the same code runs."""
    suspect = nn.Parameter(torch.ones(()))
    for path_of_other, expected in ((0, "reaches"), (1, "no_evidence")):
        taken = [0]

        def run(kept: float, path: int, taken: list[int] = taken) -> Tensor:
            taken[0] = path
            return torch.ones(()) + kept * suspect.item()

        verdicts = find_effects(
            lambda run=run: run(0.0, 0),
            {"suspect": suspect},
            ["suspect"],
            path=lambda taken=taken: taken[0],
            reseeded=lambda run=run, path=path_of_other: run(1.0, path),
        )
        assert verdicts["suspect"].outcome == expected


@each("name", KINDS)
def test_kind_of_tensor(name: str) -> None:
    make, expected = KINDS[name]
    model: Any = Held(make())
    before = model.held.clone(), model.held.data_ptr()
    verdicts = judge(model, ["held"])
    assert verdicts.by_name["held"].outcome == expected
    assert torch.equal(model.held, before[0]) and model.held.data_ptr() == before[1]
    assert repr(model.held) == repr(nn.Parameter(make(), requires_grad=False))


def test_output_tensors_in_place_of_a_loss() -> None:
    torch.manual_seed(0)
    assert judge(Detour(item), SUSPECTS, loss=False).reaching() == ["suspect.weight", "suspect.bias"]


def test_tied_parameters_move_together() -> None:
    torch.manual_seed(0)
    model: Any = Detour(item)
    model.idle.weight = model.suspect.weight
    x = torch.ones(2, 4)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    verdicts = find_effects(lambda: model(x), parameters, ["idle.weight", "idle.bias"])
    assert [name for name, verdict in verdicts.items() if verdict.outcome == "reaches"] == ["idle.weight"]


def test_an_interrupt_in_a_nudged_run_restores() -> None:
    torch.manual_seed(0)
    model = Detour(item)
    before = bits(model)
    runs = count()

    def run() -> Tensor:
        if next(runs) == 3:
            raise KeyboardInterrupt
        return torch.ones(1)

    with pytest.raises(KeyboardInterrupt):
        find_effects(run, dict(model.named_parameters()), SUSPECTS)
    assert bits(model) == before


def test_a_parameter_whose_memory_is_freed_cannot_be_moved() -> None:
    suspect = nn.Parameter(torch.ones(3))
    suspect.untyped_storage().resize_(0)
    verdicts = find_effects(lambda: torch.ones(()), {"suspect": suspect}, ["suspect"])
    assert "with values" in verdicts["suspect"].reason


def test_a_change_is_measured_by_the_size_of_the_parameter() -> None:
    """Adding ten to a number of a thousand million in single precision leaves it as it is."""
    suspect = nn.Parameter(torch.full((3,), 1e9))
    verdicts = find_effects(
        lambda: torch.ones(()) * float(suspect.detach().sum() / 1e9), {"suspect": suspect}, ["suspect"]
    )
    assert verdicts["suspect"].outcome == "reaches"


def test_number_of_runs() -> None:
    model = Detour(logged_only)
    assert judge(model, SUSPECTS).runs == len(model.logged) == 9


def test_an_interrupt_while_parameters_are_restored_leaves_none_changed():
    for wanted in range(1, 50):
        seen = 0

        def trace(frame, event, argument):
            nonlocal seen
            if frame.f_code.co_filename not in (perturb.__file__, perturb.is_readable.__code__.co_filename):
                return None
            seen += event == "line"
            if event == "line" and seen == wanted:  # noqa: B023
                raise KeyboardInterrupt
            return trace

        parameter = torch.nn.Parameter(torch.ones(3))
        with contextlib.suppress(KeyboardInterrupt), Undo() as undo, adding_noise({"p": parameter}, undo):
            before = sys.gettrace()
            sys.settrace(trace)
        sys.settrace(before)
        assert parameter.tolist() == [1.0, 1.0, 1.0], wanted
        if seen < wanted:
            break
    assert 5 < wanted < 49
