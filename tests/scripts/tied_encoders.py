"""A critic and an actor whose encoders share a layer, which the critic had first; the actor runs first."""

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x, detach=False):
        h = torch.relu(self.conv(x))
        return self.fc(h.detach() if detach else h)


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.out = Encoder(), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.encoder(x, detach=True))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.q = Encoder(), nn.Linear(8, 1)

    def forward(self, x):
        return self.q(self.encoder(x))


critic = Critic()
actor = Actor()
actor.encoder.conv.weight = critic.encoder.conv.weight
actor.encoder.conv.bias = critic.encoder.conv.bias
critic_optimizer = torch.optim.Adam(critic.parameters())
actor_optimizer = torch.optim.Adam([*actor.encoder.fc.parameters(), *actor.out.parameters()])
x = torch.randn(6, 4)
for _ in range(4):
    actor_optimizer.zero_grad()
    actor(x).square().mean().backward()
    actor_optimizer.step()
    critic_optimizer.zero_grad()
    (critic(x) - 1).square().mean().backward()
    critic_optimizer.step()
