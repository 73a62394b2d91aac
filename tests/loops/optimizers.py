"""Right loops around optimizers that do more than step: two passes, steps of their own, averages, projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


X, Y = torch.randn(6, 4), torch.randn(6, 2)


def setup(model, optimizer, step, **more):
    return {"model": model, "inputs": (X,), "optimizer": optimizer, "step": step, **more}


def loss_of(model, x=X, y=Y):
    return F.mse_loss(model(x), y)


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization around another optimizer."""

    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base = base(self.param_groups, **kwargs)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * group["rho"] / (norm + 1e-12))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


def build_sam_in_two_steps():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)

    def step():
        loss_of(model).backward()
        optimizer.first_step()
        loss_of(model).backward()
        optimizer.second_step()

    return setup(model, optimizer, step)


def build_sam_with_closure():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)

    def step():
        def closure():
            loss = loss_of(model)
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)

    return setup(model, optimizer, step)


class SignDescent(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = p.data - group["lr"] * p.grad.sign()


def build_optimizer_of_their_own():
    model = net()
    optimizer = SignDescent(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_step_inside_backward():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizers = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)

    def step():
        loss_of(model).backward()

    return setup(model, {str(i): o for i, o in enumerate(optimizers.values())}, step)


def build_conflicting_gradients_projected():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        grads = []
        for target in (Y, -Y):
            optimizer.zero_grad()
            loss_of(model, X, target).backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        optimizer.zero_grad()
        for p, a, b in zip(model.parameters(), *grads, strict=True):
            dot = (a * b).sum()
            p.grad = a + b if dot > 0 else a + b - dot / (b.norm() ** 2 + 1e-9) * b
        optimizer.step()

    return setup(model, optimizer, step)


def build_averaged_weights():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    average = AveragedModel(model)

    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        average.update_parameters(model)

    return setup(model, optimizer, step)


def build_second_optimizer_that_the_setup_does_not_name():
    model = net()
    slow, fast = torch.optim.SGD(model[0].parameters(), 0.01), torch.optim.SGD(model[1:].parameters(), 0.1)

    def step():
        model.zero_grad()
        loss_of(model).backward()
        slow.step()
        fast.step()

    return setup(model, fast, step)


def build_rate_raised_slowly_from_where_a_layer_is_thawed():
    model = net()
    model[0].requires_grad_(False)
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[1:].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)

    def train():
        for epoch in range(8):
            if epoch >= 2:
                model[0].requires_grad_(True)
                optimizer.param_groups[0]["lr"] = 0.01 * (epoch - 2)
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()

    return setup(model, optimizer, train)


def build_norms_that_are_parts_by_themselves():
    """The norms of two pretrained parts stay, that of a new one trains."""
    parts = {name: nn.Linear(4, 4) for name in ("image", "text", "joint")}
    norms = {f"{name}_norm": nn.LayerNorm(4) for name in parts}
    for name in ("image", "text"):
        norms[f"{name}_norm"].requires_grad_(False)
    model = {**parts, **norms}
    optimizer = torch.optim.SGD([p for m in model.values() for p in m.parameters() if p.requires_grad], lr=0.1)

    def step():
        optimizer.zero_grad()
        image, text = (norms[f"{name}_norm"](parts[name](X)) for name in ("image", "text"))
        F.mse_loss(norms["joint_norm"](parts["joint"](image * text)), X).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}


def build_latent_fitted_at_two_rates_before_the_network_trains():
    """Neither optimizer is about the network, which has its turn later."""
    model = net()
    latent = torch.zeros(6, 4, requires_grad=True)
    coarse, fine = torch.optim.Adam([latent], 1e-1), torch.optim.Adam([latent], 1e-3)

    def step():
        for optimizer in (coarse, fine):
            optimizer.zero_grad()
            F.mse_loss(latent, X).backward()
            optimizer.step()

    return setup(model, [coarse, fine], step)
