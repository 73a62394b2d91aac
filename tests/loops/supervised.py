"""Supervised training loops that are right as they are: clearing, accumulating, scheduling, clipping, freezing."""

from __future__ import annotations

import contextlib
import copy
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel


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


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation around another optimizer."""

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
