"""Training that changes nothing because all is frozen, and what looks like it: checked, and recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradlint


class Training:
    """A network all of which is frozen, whose input requires grad, and what trains it."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).requires_grad_(False)
        self.image = torch.randn(3, 4, requires_grad=True)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    def loss(self):
        return self.model(self.image).square().mean()

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


class ThawedByTheFirstStep(Training):
    def step(self):
        self.model.requires_grad_(True)
        super().step()


class GradientSetByHand(Training):
    """Evolution strategies: no gradient is computed, and an optimizer of torch's applies an estimate."""

    def step(self):
        before = self.loss().detach()
        self.loss().backward()
        for p in self.model.parameters():
            noise = torch.randn_like(p)
            p.add_(noise, alpha=0.01)
            p.grad = noise * (self.loss().detach() - before) / 0.01
            p.sub_(noise, alpha=0.01)
        self.optimizer.step()


class TrainsTheImage(Training):
    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.SGD([self.image], 0.1)


def checked(training, **declared):
    given = {"model": training.model, "optimizer": training.optimizer, "step": training.step}
    return gradlint.check({**given, **declared})


def recorded(training):
    with gradlint.record(training.model, optimizer=training.optimizer) as recording:
        for _ in range(3):
            training.step()
    return gradlint.check(recording)


WAYS = pytest.mark.parametrize("judged", [checked, recorded])


def loud(report):
    return [f.code for f in report.findings if f.severity > gradlint.Severity.INFO]


@WAYS
def test_frozen_network_whose_input_requires_grad_is_an_error(judged):
    report = judged(Training())
    assert loud(report) == ["GL308"]
    assert report.findings[0].parameters == ("0.weight", "0.bias", "2.weight", "2.bias")


@WAYS
@pytest.mark.parametrize("look_alike", [ThawedByTheFirstStep, GradientSetByHand, TrainsTheImage])
def test_what_trains_otherwise_is_clean(judged, look_alike):
    assert loud(judged(look_alike())) == []


def test_contract_that_declares_everything_frozen_is_an_answer():
    assert "GL308" not in loud(checked(Training(), frozen=["*"]))


def test_network_frozen_before_the_recording_is_blamed_on_its_optimizer():
    training = Training()

    def build():
        optimizer = torch.optim.SGD(training.model.parameters(), 0.1)
        training.optimizer = optimizer
        return {"model": training.model, "optimizer": optimizer, "step": training.step}

    (finding,) = (f for f in gradlint.check(build).findings if f.code == "GL308")
    assert finding.location.line == build.__code__.co_firstlineno + 1
