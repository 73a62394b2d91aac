"""Setups whose step is all that runs the loss: one round of it is run again, without updates, for open questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import gradlint
from gradlint.recorder.steps import losses_of_round
from gradlint.system.undo import Undo


class Net(nn.Module):
    """Two layers that the loss needs, and one whose result the step may use."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.head(h), self.aux(h)


def setup(loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(3, 4)

    def step() -> None:
        optimizer.zero_grad()
        loss(*model(x)).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}


def logged(out: Tensor, aux: Tensor) -> Tensor:
    aux.mean().item()
    return out.square().mean()


def through_numpy(out: Tensor, aux: Tensor) -> Tensor:
    return (out * torch.from_numpy(aux.detach().numpy().copy()).mean()).square().mean()


def codes(loss: Callable[[Tensor, Tensor], Tensor]) -> list[str]:
    report = gradlint.check(lambda: setup(loss))
    assert not [note for note in report.notes if "not decided" in note.message]
    return [finding.code for finding in report.findings]


def test_a_result_that_is_only_logged_is_unused() -> None:
    assert codes(logged) == ["GL405"]


def test_a_result_that_comes_back_through_numpy_has_no_gradient() -> None:
    assert codes(through_numpy) == ["GL403"]


def dead(out: Tensor, aux: Tensor) -> Tensor:
    return out.square().mean() + (aux.softmax(1).sum(1) - 1).abs().mean() * 0 + aux[:, :1].softmax(1).mean()


def test_gradients_are_measured() -> None:
    report = gradlint.check(lambda: setup(dead), numeric=True)
    assert not [note for note in report.notes if "measured" in note.message]


def test_the_setup_comes_back_as_it_was() -> None:
    parts = setup(through_numpy)
    before = {name: p.detach().clone() for name, p in parts["model"].named_parameters()}
    backward = torch.autograd.backward
    gradlint.check(parts, numeric=True)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in parts["model"].named_parameters())
    assert "step" not in vars(parts["optimizer"])
    assert torch.autograd.backward is backward


class Training:
    """Alternating steps of two optimizers, as often as asked for."""

    def __init__(self, rounds: int) -> None:
        self.first, self.second = nn.Linear(2, 1), nn.Linear(2, 1)
        self.optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.first, self.second)]
        self.rounds = rounds
        self.losses = 0

    def __call__(self) -> None:
        for _ in range(self.rounds):
            for model, optimizer in zip((self.first, self.second), self.optimizers, strict=True):
                optimizer.zero_grad()
                model(torch.ones(1, 2)).square().sum().backward()
                self.losses += 1
                optimizer.step()

    def round(self) -> list[Tensor]:
        return losses_of_round(Undo(), self, self.optimizers, [*self.first.parameters(), *self.second.parameters()])


def test_a_round_has_the_loss_of_each_optimizer() -> None:
    training = Training(rounds=100)
    losses = training.round()
    assert len(losses) == training.losses == 2
    assert all(loss.requires_grad for loss in losses)


def test_a_round_changes_no_parameter_and_no_gradient() -> None:
    training = Training(rounds=1)
    before = training.first.weight.detach().clone()
    training.round()
    assert torch.equal(training.first.weight, before)
    assert training.first.weight.grad is None


def test_a_round_ends_where_one_optimizer_steps_twice() -> None:
    training = Training(rounds=100)
    idle = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    losses = losses_of_round(Undo(), training, [*training.optimizers, idle], [])
    assert len(losses) == 3


def test_a_round_keeps_the_step_that_a_scheduler_has_wrapped() -> None:
    training = Training(rounds=1)
    StepLR(training.optimizers[0], 1)
    wrapped = vars(training.optimizers[0]).get("step")
    training.round()
    assert vars(training.optimizers[0]).get("step") is wrapped


def test_a_round_ends_before_an_unknown_optimizer_steps() -> None:
    training = Training(rounds=1)
    before = training.second.weight.detach().clone()
    losses_of_round(Undo(), training, training.optimizers[:1], [])
    assert torch.equal(training.second.weight, before)


def test_a_round_evaluates_the_closure_of_a_step() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    assert len(losses_of_round(Undo(), lambda: optimizer.step(closure), [optimizer], list(model.parameters()))) == 1


def test_losses_that_oppose_each_other_do_not_cancel() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)})
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.01) for name, part in model.items()}

    def step() -> None:
        for name, sign in (("d", 1), ("g", -1)):
            model.zero_grad()
            (sign * model["d"](model["g"](torch.ones(3, 4))).mean()).backward()
            optimizers[name].step()

    report = gradlint.check({"model": model, "optimizer": optimizers, "step": step}, numeric=True)
    assert "GL605" not in {finding.code for finding in report.findings}
