"""Networks whose requires_grad is switched in turns: judged over the passes at which they train."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradlint


class Generator(nn.Module):
    """Two layers, with or without a detach between them."""

    def __init__(self, *, joined):
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 3)
        self.joined = joined

    def forward(self, z):
        h = self.first(z)
        return self.last(h if self.joined else h.detach())


class Game:
    """Each network is frozen while the other one trains, as in StyleGAN2 and pix2pix."""

    def __init__(self, *, joined=True, critic_steps=1):
        torch.manual_seed(0)
        self.critic_steps = critic_steps
        self.generator, self.critic = Generator(joined=joined), nn.Linear(3, 1)
        self.g, self.c = torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.critic.parameters())
        self.model = {"generator": self.generator, "critic": self.critic}

    def train_critic(self):
        self.generator.requires_grad_(False)
        self.critic.requires_grad_(True)
        self.critic.zero_grad()
        fake = self.critic(self.generator(torch.randn(4, 2))).mean()
        (fake - self.critic(torch.randn(4, 3)).mean()).backward()

    def train_generator(self):
        self.generator.requires_grad_(True)
        self.critic.requires_grad_(False)
        self.g.zero_grad()
        self.critic(self.generator(torch.randn(4, 2))).mean().neg().backward()
        self.g.step()

    def round(self):
        for _ in range(self.critic_steps):
            self.train_critic()
            self.c.step()
        self.train_generator()

    def round_without_critic_steps(self):
        self.train_critic()
        self.train_generator()

    def setup(self):
        return {"model": self.model, "optimizer": {"g": self.g, "c": self.c}, "step": self.round}


def checked(game):
    return gradlint.check(game.setup())


def recorded(game):
    with gradlint.record(game.model, optimizer={"g": game.g, "c": game.c}) as recording:
        for _ in range(4):
            game.round()
    return gradlint.check(recording)


WAYS = pytest.mark.parametrize("judged", [checked, recorded])
CRITIC_STEPS = pytest.mark.parametrize("critic_steps", [1, 5])


def found(report):
    return [(f.code, *f.parameters) for f in report.findings]


@WAYS
@CRITIC_STEPS
def test_detach_in_a_network_frozen_in_turns_is_found(judged, critic_steps):
    report = judged(Game(joined=False, critic_steps=critic_steps))
    assert found(report) == [("GL401", "generator.first.weight", "generator.first.bias")]
    assert report.findings[0].location.line == Generator.forward.__code__.co_firstlineno + 2


@WAYS
@CRITIC_STEPS
def test_networks_that_train_in_turns_are_clean_and_none_counts_as_frozen(judged, critic_steps):
    report = judged(Game(critic_steps=critic_steps))
    assert found(report) == []
    assert (report.targets[0].trainable, report.targets[0].frozen) == (6, 0)


def test_network_that_gets_gradient_in_its_turns_and_is_in_no_optimizer_is_found():
    game = Game()
    with gradlint.record(game.model, optimizer=game.g) as recording:
        for _ in range(4):
            game.round_without_critic_steps()
    assert found(gradlint.check(recording)) == [("GL302", "critic.weight", "critic.bias")]


def test_training_that_ends_in_the_first_round_blames_no_network_that_waits_for_its_turn():
    game = Game()
    with gradlint.record(game.model, optimizer={"g": game.g, "c": game.c}) as recording:
        game.train_critic()
        game.c.step()
    assert found(gradlint.check(recording)) == []
