"""Sharpness-aware minimization: each step climbs, computes the gradient there, and goes back before it descends."""

import torch
from torch import nn


class Climbing(torch.optim.Optimizer):
    def __init__(self, params, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = torch.optim.SGD(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def own_parameters(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def climb(self):
        norm = torch.norm(torch.stack([p.grad.norm() for p in self.own_parameters()]))
        for p in self.own_parameters():
            self.state[p]["before"] = p.data.clone()
            p.add_(p.grad * 0.05 / (norm + 1e-12))
        self.zero_grad()

    @torch.no_grad()
    def descend(self):
        for p in self.own_parameters():
            p.data = self.state[p]["before"]
        self.base.step()
        self.zero_grad()


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = Climbing(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(8):
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.climb()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.descend()
