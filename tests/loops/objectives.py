"""Right loops whose loss is out of the ordinary: adversarial, distilled, recurrent, of several tasks, of copies."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


X, Y = torch.randn(6, 4), torch.randn(6, 2)


def setup(model, optimizer, step, **more):
    return {"model": model, "inputs": (X,), "optimizer": optimizer, "step": step, **more}


def loss_of(model, x=X, y=Y):
    return F.mse_loss(model(x), y)


def build_adversarial_examples():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def attack(x, y):
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(3):
            F.mse_loss(model(x + delta), y).backward()
            delta.data = (delta + 0.1 * delta.grad.detach().sign()).clamp(-0.3, 0.3)
            delta.grad.zero_()
        return (x + delta).detach()

    def step():
        x = attack(X, Y)
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_image_optimized_through_a_frozen_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3)).eval()
    network.requires_grad_(False)
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    optimizer = torch.optim.LBFGS([image], max_iter=3)
    target = network(torch.randn(1, 3, 8, 8)).detach()

    def step():
        def closure():
            with torch.no_grad():
                image.clamp_(-2, 2)
            optimizer.zero_grad()
            loss = F.mse_loss(network(image), target)
            loss.backward()
            return loss

        optimizer.step(closure)

    return {"model": network, "optimizer": optimizer, "step": step, "train": False}


def build_distillation():
    student, teacher = net(), net().eval()
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)

    def step():
        with torch.no_grad():
            target = teacher(X)
        optimizer.zero_grad()
        F.mse_loss(student(X), target).backward()
        optimizer.step()

    return setup(student, optimizer, step)


def build_mean_teacher():
    student = net()
    teacher = copy.deepcopy(student)
    for p in teacher.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        (loss_of(student) + F.mse_loss(student(X), teacher(X))).backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), student.parameters(), strict=True):
                p.lerp_(q, 0.01)

    return {"model": {"student": student, "teacher": teacher}, "optimizer": optimizer, "step": step}


def build_mutual_learning():
    a, b = net(), net()
    opt_a, opt_b = torch.optim.SGD(a.parameters(), 0.1), torch.optim.SGD(b.parameters(), 0.1)

    def step():
        out_a, out_b = a(X), b(X)
        loss_a = F.mse_loss(out_a, Y) + F.mse_loss(out_a, out_b.detach())
        loss_b = F.mse_loss(out_b, Y) + F.mse_loss(out_b, out_a.detach())
        opt_a.zero_grad()
        loss_a.backward()
        opt_a.step()
        opt_b.zero_grad()
        loss_b.backward()
        opt_b.step()

    return {"model": {"a": a, "b": b}, "optimizer": {"a": opt_a, "b": opt_b}, "step": step}


def build_truncated_backpropagation():
    torch.manual_seed(0)
    cell, head = nn.GRUCell(4, 8), nn.Linear(8, 2)
    optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], 1e-3)
    state = {"h": torch.zeros(6, 8)}

    def step():
        h = state["h"].detach()
        loss = 0
        for _ in range(3):
            h = cell(X, h)
            loss = loss + F.mse_loss(head(h), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state["h"] = h

    return {"model": {"cell": cell, "head": head}, "optimizer": optimizer, "step": step}


def build_window_of_kept_graphs():
    """Truncated backpropagation with a window: graphs are kept on purpose, and cut after a few steps."""
    torch.manual_seed(0)
    cell = nn.GRUCell(4, 8)
    optimizer = torch.optim.SGD([*cell.parameters()], 0.0)
    states = [torch.zeros(6, 8)]

    def step():
        if len(states) > 3:
            states[:] = [states[-1].detach()]
        h = cell(X, states[-1])
        states.append(h)
        optimizer.zero_grad()
        torch.autograd.backward(h.pow(2).mean(), retain_graph=True)

    def three():
        for _ in range(3):
            step()
        for p in cell.parameters():
            p.grad.mul_(0.5)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()

    return {"model": cell, "optimizer": optimizer, "step": three}


def build_batches_without_gradient_skipped():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    count = itertools.count()

    def step():
        optimizer.zero_grad()
        loss = loss_of(model)
        if next(count) == 0:
            loss = loss * float("nan")
        if not torch.isfinite(loss):
            return
        loss.backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_foreach_and_fused():
    a, b = nn.Linear(4, 8), nn.Linear(8, 2)
    opts = {
        "a": torch.optim.AdamW(a.parameters(), 1e-3, foreach=True),
        "b": torch.optim.AdamW(b.parameters(), 1e-3, fused=True),
    }

    def step():
        for optimizer in opts.values():
            optimizer.zero_grad()
        F.mse_loss(b(torch.relu(a(X))), Y).backward()
        for optimizer in opts.values():
            optimizer.step()

    return {"model": {"a": a, "b": b}, "optimizer": opts, "step": step}


def build_optimizer_stepped_to_silence_the_scheduler():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    started = []

    def step():
        if not started:
            started.append(True)
            optimizer.zero_grad()
            optimizer.step()
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    return setup(model, optimizer, step)


def build_two_tasks_in_turns():
    body, one, two = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)
    opts = [torch.optim.Adam(m.parameters(), 1e-3) for m in (body, one, two)]
    count = itertools.count()

    def step():
        head = one if next(count) % 2 == 0 else two
        for optimizer in opts:
            optimizer.zero_grad()
        F.mse_loss(head(torch.relu(body(X))), Y).backward()
        for optimizer in opts:
            optimizer.step()

    return {"model": {"body": body, "one": one, "two": two}, "optimizer": opts, "step": step}


def build_denoising_diffusion():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 4))
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step():
        t = torch.rand(6, 1)
        noise = torch.randn_like(X)
        noisy = (1 - t).sqrt() * X + t.sqrt() * noise
        loss = F.mse_loss(model(torch.cat([noisy, t], 1)), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(average.parameters(), model.parameters(), strict=True):
                p.mul_(0.999).add_(q, alpha=0.001)

    return {"model": model, "optimizer": optimizer, "step": step}


def build_retained_graph_of_two_heads():
    body, a, b = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)
    opts = {n: torch.optim.SGD(m.parameters(), 0.1) for n, m in (("body", body), ("a", a), ("b", b))}

    def step():
        h = torch.relu(body(X))
        for optimizer in opts.values():
            optimizer.zero_grad()
        F.mse_loss(a(h), Y).backward(retain_graph=True)
        F.mse_loss(b(h), -Y).backward()
        for optimizer in opts.values():
            optimizer.step()

    return {"model": {"body": body, "a": a, "b": b}, "optimizer": opts, "step": step}


class Mixed(nn.Module):
    """Weighs its layers by numbers that are learned on other data."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(4, 4), nn.Identity()]) for _ in range(2)])
        self.head = nn.Linear(4, 2)
        self.weights = torch.zeros(2, 2, requires_grad=True)

    def forward(self, x):
        for choices, row in zip(self.layers, self.weights.softmax(-1), strict=True):
            x = sum(w * layer(x) for w, layer in zip(row, choices, strict=True))
        return self.head(x)


def build_architecture_search_on_a_copy_that_moved_ahead():
    torch.manual_seed(0)
    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    architecture = torch.optim.Adam([model.weights], 1e-2)

    def step():
        ahead = copy.deepcopy(model)
        grads = torch.autograd.grad(loss_of(model), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(ahead.parameters(), grads, strict=True):
                p.sub_(0.1 * g)
        loss_of(ahead).backward()
        model.weights.grad = ahead.weights.grad.clone()
        architecture.step()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return setup(model, {"weights": optimizer, "architecture": architecture}, step)
