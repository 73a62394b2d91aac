"""Setups with several cuts or several losses: each mistake is reported once, at its own line, and no other cut is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlint


class InnerLoop(nn.Module):
    """Meta-learning of first order: the weights adapt to a task inside the forward."""

    def __init__(self, detached=False):
        super().__init__()
        self.encoder, self.learner, self.detached = nn.Linear(3, 6), nn.Linear(6, 1), detached

    def forward(self, x, y):
        h = self.encoder(x)
        if self.detached:
            h = h.detach()
        weights = dict(self.learner.named_parameters())
        for _ in range(2):
            loss = F.mse_loss(torch.func.functional_call(self.learner, weights, (h,)), y)
            slopes = torch.autograd.grad(loss, list(weights.values()))
            weights = {name: w - 0.1 * s for (name, w), s in zip(weights.items(), slopes, strict=True)}
        return torch.func.functional_call(self.learner, weights, (h,))


def inner_loop(detached):
    torch.manual_seed(0)
    model, x, y = InnerLoop(detached), torch.randn(5, 3), torch.randn(5, 1)
    return {
        "model": model,
        "inputs": (x, y),
        "optimizer": torch.optim.Adam(model.parameters()),
        "loss": lambda out: F.mse_loss(out, y),
    }


def bad_detach_before_an_inner_loop():
    return inner_loop(True)


def good_inner_loop():
    return inner_loop(False)


class LatentPath(nn.Module):
    """A solver chooses its step under no_grad; times take their type from the state."""

    def __init__(self, detached=False):
        super().__init__()
        self.encoder, self.field, self.decoder = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)
        self.detached = detached

    def slope(self, time, z):
        return torch.tanh(self.field(torch.cat([z, time.type_as(z).expand(len(z), 1)], 1)))

    def forward(self, x):
        z = self.encoder(x)
        time, size = torch.zeros(()), torch.full((), 0.1)
        for _ in range(4):
            first = self.slope(time, z)
            second = self.slope(time + size, z + size * first)
            z = z + size * (first + second) / 2
            time = time + size
            with torch.no_grad():
                size = size * (0.9 / ((second - first).abs().max() + 1e-3)).clamp(0.5, 2)
        if self.detached:
            z = z.detach()
        return self.decoder(z)


def latent_path(detached):
    torch.manual_seed(0)
    model = LatentPath(detached)
    return {
        "model": model,
        "inputs": (torch.randn(5, 3),),
        "optimizer": torch.optim.Adam(model.parameters()),
        "loss": lambda out: out.square().mean(),
    }


def bad_detach_behind_a_solver():
    return latent_path(True)


def good_solver():
    return latent_path(False)


def adversarial(generator_loss):
    """Return a setup whose discriminator detaches the samples, on purpose; the generator has a loss of its own."""
    torch.manual_seed(0)
    generator, judge = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    of_generator, of_judge = torch.optim.Adam(generator.parameters()), torch.optim.Adam(judge.parameters())
    ones, zeros = torch.ones(6, 1), torch.zeros(6, 1)

    def step():
        fake = generator(torch.randn(6, 4))
        of_judge.zero_grad()
        real_loss = F.binary_cross_entropy_with_logits(judge(torch.randn(6, 2)), ones)
        (real_loss + F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)).backward()
        of_judge.step()
        of_generator.zero_grad()
        F.binary_cross_entropy_with_logits(generator_loss(judge, fake), ones).backward()
        of_generator.step()

    return {
        "model": {"generator": generator, "judge": judge},
        "optimizer": {"generator": of_generator, "judge": of_judge},
        "step": step,
    }


def bad_generator_loss_on_detached_samples():
    return adversarial(lambda judge, fake: judge(fake.detach() * 1.0))


def bad_generator_loss_on_other_samples():
    return adversarial(lambda judge, fake: judge(torch.randn(6, 2)))


def good_generator_loss():
    return adversarial(lambda judge, fake: judge(fake))


class Indexer(nn.Linear):
    """Chooses two of four by a score that gets no gradient, and gives the choice another type."""

    @torch.no_grad()
    def forward(self, x):
        return super().forward(x).topk(2).indices.to(torch.int32)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.values, self.indexer = nn.Linear(4, 4), Indexer(4, 4)

    def forward(self, x):
        mask = torch.full((3, 4), -50.0).scatter(1, self.indexer(x).long(), 0.0)
        return (self.values(x) + mask).softmax(1)


def bad_choice_under_no_grad():
    model = Sparse()
    return {
        "model": model,
        "inputs": (torch.randn(3, 4),),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": lambda output: output.square().sum(),
    }


def q_learning(choose):
    """Return a setup of double Q-learning: the target is computed under no_grad, with help of the network itself."""
    torch.manual_seed(0)
    q = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    slow = copy.deepcopy(q).requires_grad_(False)
    scale = nn.Linear(1, 1)
    optimizer = torch.optim.Adam([*q.parameters(), *scale.parameters()])
    state, later, reward = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 1)
    action = torch.randint(0, 2, (6, 1))

    def step():
        with torch.no_grad():
            best = q(later).argmax(1, keepdim=True)
            target = reward + 0.9 * slow(later).gather(1, best) + 0.1 * q(later).max(1, keepdim=True).values
        optimizer.zero_grad()
        F.smooth_l1_loss(scale(choose(q(state)).gather(1, action)), target).backward()
        optimizer.step()

    return {"model": {"q": q, "slow": slow, "scale": scale}, "optimizer": optimizer, "step": step}


def bad_detached_values_beside_a_target():
    return q_learning(lambda values: values.detach())


def good_target_without_gradient():
    return q_learning(lambda values: values)


def critic(loss):
    """Return a setup of an actor and a critic under one loss; the advantage is detached on purpose."""
    torch.manual_seed(0)
    policy, value = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*policy.parameters(), *value.parameters()])
    state, returns = torch.randn(6, 4), torch.randn(6, 1)

    def step():
        dist = torch.distributions.Categorical(logits=policy(state))
        v = value(state)
        advantage = (returns - v).detach()
        optimizer.zero_grad()
        (loss(v, returns) - (dist.log_prob(dist.sample()) * advantage.squeeze(1)).mean()).backward()
        optimizer.step()

    return {"model": {"policy": policy, "value": value}, "optimizer": optimizer, "step": step}


def bad_detached_value_loss():
    return critic(lambda v, returns: F.mse_loss(v.detach(), returns))


def good_detached_advantage():
    return critic(F.mse_loss)


class ActorAndCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic = nn.Linear(5, 2), nn.Linear(7, 1)


def with_steps(actor_loss):
    """Return a setup whose critic trains on a loss of its own, after the actor's."""
    torch.manual_seed(0)
    net = ActorAndCritic()
    actor_optimizer = torch.optim.Adam(net.actor.parameters())
    critic_optimizer = torch.optim.Adam(net.critic.parameters())

    def step():
        state = torch.randn(6, 5)
        action = net.actor(state)
        actor_optimizer.zero_grad()
        actor_loss(action, net.critic(torch.cat([state, action], 1))).backward()
        actor_optimizer.step()
        critic_optimizer.zero_grad()
        (net.critic(torch.cat([state, action.detach()], 1)) - 1).pow(2).mean().backward()
        critic_optimizer.step()

    return {"model": net, "optimizer": {"actor": actor_optimizer, "critic": critic_optimizer}, "step": step}


def bad_detached_below_a_mean():
    def loss(action, q):
        return (0.1 * action.pow(2) - q.detach()).mean()

    return with_steps(loss)


def bad_no_grad_below_sums_of_rows():
    def loss(action, q):
        with torch.no_grad():
            value = q.exp()
        return -(value.sum(-1) / 3 - action.pow(2).sum(-1)).mean()

    return with_steps(loss)


def bad_detached_under_a_mask_that_all_terms_share():
    mask = (torch.arange(6) % 2).float()[:, None]

    def loss(action, q):
        return ((0.1 * action.pow(2) - q.detach()) * mask).sum() / mask.sum()

    return with_steps(loss)


def good_below_a_mean_with_gradient():
    return with_steps(lambda action, q: (0.1 * action.pow(2) - q).mean())


def good_mask_of_the_detached_term_alone():
    mask = torch.zeros(6, 1)
    return with_steps(lambda action, q: (0.1 * action.pow(2) - mask * q.detach()).mean())


def good_detached_advantage_is_a_factor():
    return with_steps(lambda action, q: -(action * (1 - q.detach())).mean())


def good_detached_target_of_a_square():
    return with_steps(lambda action, q: (action.sum(-1, keepdim=True) - q.detach()).pow(2).mean())


def good_straight_through_below_a_mean():
    return with_steps(lambda action, q: (action + (action.round() - action).detach()).mean())


def good_centred_by_a_detached_mean():
    return with_steps(lambda action, q: (action - action.mean(0).detach()).sum() + action.pow(2).mean())


def good_maximum_taken_out_of_an_exponential():
    def loss(action, q):
        largest = action.max(-1, keepdim=True).values.detach()
        return (largest + (action - largest).exp().sum(-1, keepdim=True).log()).mean()

    return with_steps(loss)


def good_entropy_of_a_detached_target():
    def loss(action, q):
        target = torch.cat([q, -q], 1).detach().softmax(-1)
        return (target * target.log() - target * action.log_softmax(-1)).sum(-1).mean()

    return with_steps(loss)


def good_difference_from_an_earlier_policy():
    torch.manual_seed(0)
    policy, x = nn.Linear(5, 3), torch.randn(6, 5)

    def log_probabilities():
        return F.log_softmax(policy(x), -1)

    def loss(out):
        with torch.no_grad():
            before = log_probabilities()
        return (before - log_probabilities()).mean() + out.pow(2).mean()

    return {
        "model": policy,
        "inputs": (x,),
        "optimizer": torch.optim.SGD(policy.parameters(), lr=0.1),
        "loss": loss,
    }


LINES: dict[Callable[[], Any], tuple[str, str, tuple[str, ...]]] = {
    bad_detach_before_an_inner_loop: ("GL401", "h = h.detach()", ("encoder.weight", "encoder.bias")),
    bad_detach_behind_a_solver: (
        "GL401", "z = z.detach()", ("encoder.weight", "encoder.bias", "field.weight", "field.bias")
    ),
    bad_generator_loss_on_detached_samples: (
        "GL401", "judge(fake.detach() * 1.0)", ("generator.weight", "generator.bias")
    ),
    bad_generator_loss_on_other_samples: (
        "GL405", "F.binary_cross_entropy_with_logits(generator_loss(judge, fake), ones).backward()",
        ("generator.weight", "generator.bias"),
    ),
    bad_choice_under_no_grad: ("GL402", "@torch.no_grad()", ("indexer.weight", "indexer.bias")),
    bad_detached_values_beside_a_target: (
        "GL401", "lambda values: values.detach()", ("q.0.weight", "q.0.bias", "q.2.weight", "q.2.bias")
    ),
    bad_detached_value_loss: ("GL401", "F.mse_loss(v.detach(), returns)", ("value.weight", "value.bias")),
    bad_detached_below_a_mean: (
        "GL409", "- q.detach()).mean()", ("actor.weight", "actor.bias", "critic.weight", "critic.bias")
    ),
    bad_no_grad_below_sums_of_rows: (
        "GL409", "with torch.no_grad():", ("actor.weight", "actor.bias", "critic.weight", "critic.bias")
    ),
    bad_detached_under_a_mask_that_all_terms_share: (
        "GL409", "- q.detach()) * mask)", ("actor.weight", "actor.bias", "critic.weight", "critic.bias")
    ),
}  # fmt: skip
"""Builder → the only finding: code, a piece of the line, parameters."""
GOOD = [function for name, function in list(globals().items()) if name.startswith("good_")]


@pytest.mark.parametrize("builder", LINES, ids=lambda builder: builder.__name__)
def test_a_mistake_is_reported_once(builder: Callable[[], Any]) -> None:
    report = gradlint.check(builder)
    assert not report.errors
    code, piece, parameters = LINES[builder]
    (finding,) = report.findings
    assert finding.location is not None
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[finding.location.line - 1]
    assert (finding.code, set(finding.parameters)) == (code, set(parameters))
    assert piece in line


@pytest.mark.parametrize("builder", GOOD, ids=lambda builder: builder.__name__)
def test_the_same_without_the_mistake_is_clean(builder: Callable[[], Any]) -> None:
    report = gradlint.check(builder)
    assert not report.errors
    assert not report.findings


def script(builder: str, folder: Path) -> str:
    """Return what gradlint says of a script that trains a builder's setup."""
    text = (
        Path(__file__)
        .read_text(encoding="utf-8")
        .split("\nLINES: ")[0]
        .replace("import processes\nimport pytest\n", "")
    )
    path = folder / "train.py"
    path.write_text(f"{text}\nsetup = {builder}()\nfor _ in range(9):\n    setup['step']()\n", encoding="utf-8")
    return processes.gradlint(["run", "--output-format", "concise", str(path)], folder).stdout


@pytest.mark.usefixtures("processes")
def test_a_script_with_several_losses_gets_the_same_finding(tmp_path: Path) -> None:
    lines = [line for line in script("bad_generator_loss_on_detached_samples", tmp_path).splitlines() if " GL" in line]
    assert len(lines) == 1
    assert "GL401 detach() cuts the only gradient path to generator.*" in lines[0]


@pytest.mark.usefixtures("processes")
def test_a_script_whose_target_is_computed_under_no_grad_is_clean(tmp_path: Path) -> None:
    assert " GL" not in script("good_target_without_gradient", tmp_path)
