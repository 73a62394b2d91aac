"""Recorded steps: right loops give no alarm, and whatever a loop does to the user's objects is put back."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import table
import torch
from torch import nn

import gradlint
from gradlint.engine.check import check_setup
from gradlint.engine.options import Options
from gradlint.rulekit import registry

LOOPS = Path(__file__).parent / "loops"


def load(path: Path) -> Any:
    """Import a file of loops."""
    spec = importlib.util.spec_from_file_location(f"loops_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state(setup: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a setup that training changes, copied."""
    model = setup["model"]
    modules = dict(model) if isinstance(model, Mapping) and not isinstance(model, nn.Module) else {"": model}
    found: dict[str, Any] = {}
    for key, module in modules.items():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            found[f"{key}.{name}"] = tensor.detach().clone()
            found[f"{key}.{name} gradient"] = None if tensor.grad is None else tensor.grad.clone()
            found[f"{key}.{name} flag"] = tensor.requires_grad
            found[f"{key}.{name} hooks"] = len(getattr(tensor, "_post_accumulate_grad_hooks", None) or ())
        found |= {f"{key}.{name} mode": m.training for name, m in module.named_modules()}
    given = setup.get("optimizer") or []
    optimizers = given.values() if isinstance(given, Mapping) else given if isinstance(given, list) else [given]
    for number, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        found[f"optimizer {number}"] = [dict(g) for g in saved["param_groups"]]
        for p, entries in saved["state"].items():
            for name, value in entries.items():
                found[f"optimizer {number} {p} {name}"] = value.clone() if torch.is_tensor(value) else value
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


LONG = "gans", "reinforcement"
"""The files whose loops take most of the time."""
FILES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG))
    for path in sorted(LOOPS.glob("*.py"))
]


@pytest.mark.parametrize("path", FILES)
def test_right_loops_give_no_alarm_and_are_put_back(path, subtests):
    for builder in table.builders(path, "build"):
        with subtests.test(msg=builder.name):
            no_alarm_and_put_back(path, builder.name)


def no_alarm_and_put_back(path, name):
    report = table.report(f"{path}:{name}")
    assert report.clean, table.names_of(name, report)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setup = getattr(load(path), name)()
        before = state(setup)
        random_state = torch.get_rng_state()
        check_setup(setup, registry.load(packs=False).rules, Options())
    after = state(setup)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert before.keys() == after.keys()
    assert [key for key in before if not same(before[key], after[key])] == []


def small() -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor]:
    """A model, its optimizer and an input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return model, torch.optim.Adam(model.parameters(), 1e-2), torch.randn(6, 4)


def test_a_step_that_raises_is_put_back_and_told():
    model, optimizer, x = small()

    def step():
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        raise ValueError("no more data")

    setup = {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    before = state(setup)
    report = gradlint.check(setup)
    assert [e.message for e in report.errors] == ["step() raised ValueError: no more data"]
    assert all(same(before[k], v) for k, v in state(setup).items())


def test_an_epoch_is_ended_after_the_third_step():
    model, optimizer, x = small()
    batches = []

    def epoch():
        for number in range(1000):
            batches.append(number)
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()

    trace = gradlint.trace({"model": model, "inputs": (x,), "optimizer": optimizer, "step": epoch})
    assert trace.training is not None and len(trace.training.steps) == 3
    assert len(batches) == 4


def test_an_epoch_that_holds_exceptions_is_ended_too():
    model, optimizer, x = small()

    def epoch():
        for _ in range(1000):
            try:
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
            except Exception:
                continue

    trace = gradlint.trace({"model": model, "inputs": (x,), "optimizer": optimizer, "step": epoch})
    assert trace.training is not None and len(trace.training.steps) == 3


def test_backward_tells_its_loss_its_line_and_what_it_reached():
    model, optimizer, x = small()
    model[0].requires_grad_(False)

    def step():
        optimizer.zero_grad()
        model(x).sum().backward()  # here
        optimizer.step()

    trace = gradlint.trace({"model": model, "inputs": (x,), "optimizer": optimizer, "step": step})
    assert trace.training is not None
    first = trace.training.backwards[0]
    assert trace.location(first.site).line == step.__code__.co_firstlineno + 2
    assert {trace.by_key[key].fqn for key in first.deposits} == {"2.weight", "2.bias"}
    assert trace.ops[trace.values[first.roots[0]].producer].name == "sum"


def test_nothing_of_gradlint_stays_behind():
    backward, clear = torch.autograd.backward, torch.optim.Optimizer.zero_grad
    call, scheduled = nn.Module.__call__, torch.optim.lr_scheduler.LRScheduler.step
    model, optimizer, x = small()
    step = lambda: model(x).sum().backward()  # noqa: E731
    gradlint.check({"model": model, "inputs": (x,), "optimizer": optimizer, "step": step})
    assert torch.autograd.backward is backward and torch.optim.Optimizer.zero_grad is clear
    assert nn.Module.__call__ is call and torch.optim.lr_scheduler.LRScheduler.step is scheduled
    assert not any(getattr(p, "_post_accumulate_grad_hooks", None) for p in model.parameters())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_optimizers_that_the_step_makes_or_leads_to_are_judged():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    made = []

    def train(optimizer):
        model.zero_grad()
        model(torch.ones(3, 4)).mean().backward()
        optimizer.step()

    def lazily():
        if not made:
            made.append(torch.optim.SGD(model[0].parameters(), 0.1))
        train(made[0])

    held = torch.optim.SGD(model[0].parameters(), 0.1)
    for step in (lazily, lambda: train(held)):
        report = gradlint.check({"model": model, "step": step})
        assert [(f.code, f.parameters) for f in report.findings] == [("GL302", ("1.weight", "1.bias"))]
        assert report.targets[0].optimizers == (("SGD", 2),)


class Around(torch.optim.Optimizer):
    """An optimizer that steps another one inside its own step."""

    def __init__(self, parameters: Any, inner: torch.optim.Optimizer) -> None:
        super().__init__(list(parameters), {"lr": 0.1})
        self.inner = inner

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.inner.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter -= 0.1 * parameter.grad
        self.inner.step()


def test_a_step_contains_the_steps_inside_of_it_however_deep() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    sgd = torch.optim.SGD(model[2].parameters(), lr=0.1)
    optimizer = Around(model[0].parameters(), Around(model[1].parameters(), sgd))

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()

    trace = gradlint.trace({"model": model, "optimizer": optimizer, "step": step})
    assert trace.training is not None
    for recorded in trace.training.steps:
        assert recorded.content.keys() == {p.key for p in trace.parameters}
        assert all(content.moved for content in recorded.content.values())


def test_what_a_step_shows_before_it_raises_is_judged():
    def build():
        first, second = nn.Linear(2, 2), nn.Linear(2, 1)
        optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], 0.1)
        batches = iter([torch.ones(2, 2)])

        def step():
            optimizer.zero_grad()
            second(first(next(batches)).detach()).sum().backward()
            optimizer.step()

        return {"model": nn.ModuleList([first, second]), "optimizer": optimizer, "step": step}

    report = gradlint.check(build)
    assert [finding.code for finding in report.findings] == ["GL401"]
    assert [error.message for error in report.errors] == ["step() raised StopIteration"]
