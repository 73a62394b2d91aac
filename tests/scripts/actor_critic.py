"""Soft actor critic: a round is one step of the critic, two of the actor and two of the temperature."""

import torch
from torch import nn
from torch.nn import functional as F


def network(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(4, 4)

    def sample(self, state):
        mean, spread = self.net(state).chunk(2, -1)
        normal = torch.distributions.Normal(mean, spread.tanh().exp())
        raw = normal.rsample()
        density = normal.log_prob(raw) - torch.log(1 - raw.tanh().pow(2) + 1e-6)
        return raw.tanh(), density.sum(-1)


def value(critic, state, action):
    return critic(torch.cat([state, action], -1)).squeeze(-1)


def train():
    actor, critic, target = Actor(), network(6, 1), network(6, 1)
    target.load_state_dict(critic.state_dict())
    log_alpha = torch.zeros(1, requires_grad=True)
    alpha = log_alpha.exp().item()
    critic_optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    actor_optimizer = torch.optim.Adam(actor.parameters(), 1e-3)
    alpha_optimizer = torch.optim.Adam([log_alpha], 1e-3)
    for _ in range(8):
        state, action, reward, following = (torch.randn(8, n) for n in (4, 2, 1, 4))
        with torch.no_grad():
            next_action, density = actor.sample(following)
            aim = reward.squeeze(-1) + 0.99 * (value(target, following, next_action) - alpha * density)
        critic_loss = F.mse_loss(value(critic, state, action), aim)
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        for _ in range(2):
            own_action, density = actor.sample(state)
            actor_loss = (alpha * density - value(critic, state, own_action)).mean()
            actor_optimizer.zero_grad()
            actor_loss.backward()
            actor_optimizer.step()
            with torch.no_grad():
                _, density = actor.sample(state)
            alpha_loss = (-log_alpha.exp() * (density - 2)).mean()
            alpha_optimizer.zero_grad()
            alpha_loss.backward()
            alpha_optimizer.step()
            alpha = log_alpha.exp().item()
        for p, slow in zip(critic.parameters(), target.parameters(), strict=True):
            slow.data.copy_(0.005 * p.data + 0.995 * slow.data)


torch.manual_seed(0)
train()
