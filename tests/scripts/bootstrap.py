"""Learning without labels: a slow copy of the encoder gives the targets (BYOL).

The backbone stands under two names on purpose, and the whole model is moved to a device.
"""

import copy

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        return self.projector(self.backbone(x))


class Learner(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.online = Encoder(backbone)
        self.predictor = nn.Linear(8, 8)
        self.slow = copy.deepcopy(self.online)
        for p in self.slow.parameters():
            p.requires_grad = False
        self.to("cpu")

    def follow(self, decay=0.99):
        for new, old in zip(self.online.parameters(), self.slow.parameters(), strict=True):
            old.data = decay * old.data + (1 - decay) * new.data

    def forward(self, x):
        guess = self.predictor(self.online(x + 0.1 * torch.randn_like(x)))
        with torch.no_grad():
            target = self.slow(x + 0.1 * torch.randn_like(x))
        return 2 - 2 * nn.functional.cosine_similarity(guess, target.detach(), dim=-1).mean()


torch.manual_seed(0)
learner = Learner(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16)))
optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 1e-3)
for _ in range(8):
    loss = learner(torch.randn(6, 12))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    learner.follow()
