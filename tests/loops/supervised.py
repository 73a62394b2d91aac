"""Supervised training loops that are right as they are: clearing, accumulating, scheduling, clipping, freezing."""

from __future__ import annotations

import contextlib
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


def build_plain():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_zeroed_rather_than_removed():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)

    def step():
        optimizer.zero_grad(set_to_none=False)
        loss_of(model).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_cleared_after_the_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step():
        loss_of(model).backward()
        optimizer.step()
        model.zero_grad()

    return setup(model, optimizer, step)


def build_cleared_by_hand():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ways = itertools.cycle(range(4))

    def step():
        way = next(ways)
        for p in model.parameters():
            if p.grad is not None:
                if way == 0:
                    p.grad.data.zero_()
                elif way == 1:
                    p.grad.detach_().zero_()
                elif way == 2:
                    p.grad = torch.zeros_like(p)
                else:
                    p.grad = None
        loss_of(model).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_accumulation_in_one_call():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        for x, y in zip(X.chunk(3), Y.chunk(3), strict=True):
            (loss_of(model, x, y) / 3).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_accumulation_over_calls():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    count = itertools.count(1)

    def step():
        (loss_of(model) / 4).backward()
        if next(count) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()

    return setup(model, optimizer, step)


def build_accumulation_without_sync():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    @contextlib.contextmanager
    def no_sync():
        yield

    def step():
        with no_sync():
            (loss_of(model) / 2).backward()
        (loss_of(model) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return setup(model, optimizer, step)


def build_several_losses_one_step():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        out = model(X)
        F.mse_loss(out, Y).backward(retain_graph=True)
        (0.1 * out.abs().mean()).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_lbfgs():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.LBFGS(model.parameters(), 0.5, max_iter=5, line_search_fn="strong_wolfe")

    def step():
        def closure():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        optimizer.step(closure)

    return setup(model, optimizer, step)


def build_closure_of_adam():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        def closure():
            optimizer.zero_grad()
            for x, y in zip(X.chunk(2), Y.chunk(2), strict=True):
                loss = loss_of(model, x, y)
                loss.backward()
            return loss

        optimizer.step(closure)

    return setup(model, optimizer, step)


def build_scaler_with_skipped_steps():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    count = itertools.count()

    def step():
        optimizer.zero_grad()
        loss = loss_of(model)
        if next(count) < 2:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    return setup(model, optimizer, step)


def build_disabled_scaler():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step():
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return setup(model, optimizer, step)


def build_schedule_per_epoch():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(optimizer, 10)],
        milestones=[2],
    )
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer)

    def epoch():
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            plateau.step(loss_of(model))

    return setup(model, optimizer, epoch)


def build_warm_up_from_zero():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, i / 10))

    def step():
        loss_of(model).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    return setup(model, optimizer, step)


def build_one_cycle():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(model).backward()
        optimizer.step()
        scheduler.step()

    return setup(model, optimizer, step)


def build_head_first_then_all():
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[4].parameters(), 1e-3)
    optimizer.add_param_group({"params": model[1].parameters()})
    count = itertools.count()

    def step():
        if next(count) == 1:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": model[0].parameters(), "lr": 1e-4})
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_halves_in_turns():
    model = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(8, 2)})
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    count = itertools.count()

    def step():
        first = next(count) % 2 == 0
        model["a"].requires_grad_(first)
        model["b"].requires_grad_(not first)
        optimizer.zero_grad()
        F.mse_loss(model["b"](torch.relu(model["a"](X))), Y).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}


def build_two_optimizers_one_loss():
    body, head = nn.Linear(4, 8), nn.Linear(8, 2)
    optimizers = {"body": torch.optim.SparseAdam([nn.Parameter(torch.zeros(1))]), "head": None}
    optimizers = {"body": torch.optim.SGD(body.parameters(), 0.01), "head": torch.optim.Adam(head.parameters(), 1e-3)}

    def step():
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        F.mse_loss(head(torch.relu(body(X))), Y).backward()
        for optimizer in optimizers.values():
            optimizer.step()

    return {"model": {"body": body, "head": head}, "optimizer": optimizers, "step": step}


def build_shared_encoder_stepped_last():
    """Each head is stepped after its own loss, what they share after both."""
    encoder, one, two = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)
    opts = {n: torch.optim.Adam(m.parameters(), 1e-3) for n, m in (("e", encoder), ("1", one), ("2", two))}

    def step():
        for optimizer in opts.values():
            optimizer.zero_grad()
        F.mse_loss(one(torch.relu(encoder(X))), Y).backward()
        opts["1"].step()
        two(torch.relu(encoder(X))).pow(2).mean().backward()
        opts["2"].step()
        opts["e"].step()

    return {"model": {"encoder": encoder, "one": one, "two": two}, "optimizer": opts, "step": step}


def build_center_loss_with_own_optimizer():
    model, centers = net(), nn.Parameter(torch.randn(3, 2))
    optimizer, center_optimizer = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD([centers], 0.5)
    labels = torch.randint(0, 3, (6,))

    def step():
        optimizer.zero_grad()
        center_optimizer.zero_grad()
        out = model(X)
        (F.mse_loss(out, Y) + 0.003 * (out - centers[labels]).pow(2).sum()).backward()
        optimizer.step()
        centers.grad.data *= 1 / 0.003
        center_optimizer.step()

    return {"model": model, "inputs": (X,), "optimizer": {"net": optimizer, "centers": center_optimizer}, "step": step}


def build_validation_every_step():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []

    def validate():
        model.eval()
        with torch.no_grad():
            return loss_of(model).item()

    def epoch():
        total = 0.0
        for _ in range(2):
            model.train()
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            total += loss.item()
            losses.append(loss.detach())
            validate()
        return total

    return setup(model, optimizer, epoch)


def build_batch_norm_kept_in_eval():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        model.train()
        model[1].eval()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return setup(model, optimizer, step)


def build_norm_measured_after_the_step():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), float("inf"))

    return setup(model, optimizer, step)


def build_each_network_clipped_before_its_step():
    a, b = nn.Linear(4, 8), nn.Linear(8, 2)
    opt_a, opt_b = torch.optim.SGD(a.parameters(), 0.1), torch.optim.SGD(b.parameters(), 0.1)

    def step():
        opt_a.zero_grad()
        opt_b.zero_grad()
        F.mse_loss(b(torch.relu(a(X))), Y).backward()
        nn.utils.clip_grad_norm_(a.parameters(), 1.0)
        opt_a.step()
        nn.utils.clip_grad_value_(b.parameters(), 1.0)
        opt_b.step()

    return {"model": {"a": a, "b": b}, "optimizer": {"a": opt_a, "b": opt_b}, "step": step}
