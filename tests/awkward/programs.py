"""Awkward models: parts that are run again, scripted, traced or compiled."""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


def setup(model, *inputs, loss=None):
    return {
        "model": model,
        "inputs": inputs or (torch.randn(4, 6),),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": loss or (lambda out: out.square().mean()),
    }


class Two(nn.Module):
    """a → f → b → head."""

    def __init__(self, f=None):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.f = f

    def forward(self, x):
        return self.head(self.b(self.f(self.a(x))))


class Checkpointed(Two):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        h = checkpoint(lambda h: torch.relu(self.b(h)), self.a(x), use_reentrant=self.reentrant)
        return self.head(h)


def case_checkpoint():
    return setup(Checkpointed(False))


def case_checkpoint_reentrant():
    return setup(Checkpointed(True))


class Starving(Two):
    def forward(self, x):
        run = functools.partial(checkpoint, use_reentrant=True)
        h = run(self.inside, x)  # error: [reentrant-checkpoint-upstream] a.*  # cut: checkpoint
        return self.head(h + self.b(x))

    def inside(self, x):
        return torch.relu(self.a(x))


def case_checkpoint_reentrant_without_grad_inputs():
    return setup(Starving())


class CheckpointNested(Two):
    def forward(self, x):
        return self.head(checkpoint(self.outer, self.a(x), use_reentrant=False))

    def outer(self, h):
        return checkpoint(self.inner, h + 1, use_reentrant=False) * 2

    def inner(self, h):
        return torch.tanh(self.b(h))


def case_checkpoint_nested():
    return setup(CheckpointNested())


class CheckpointSequential(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(4)])
        self.head, self.reentrant = nn.Linear(6, 2), reentrant

    def forward(self, x):
        return self.head(checkpoint_sequential(self.body, 2, x.requires_grad_(), use_reentrant=self.reentrant))


def case_checkpoint_sequential():
    return setup(CheckpointSequential(False))


def case_checkpoint_sequential_reentrant():
    return setup(CheckpointSequential(True))


class DetachInCheckpoint(Two):
    def forward(self, x):
        return self.head(checkpoint(self.inside, self.a(x), use_reentrant=False))

    def inside(self, h):
        return self.b(h.detach())  # error: [detached-upstream] a.*


def case_detach_inside_checkpoint():
    return setup(DetachInCheckpoint())


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, x):
        return torch.relu(self.lin(x))


def case_scripted_module():
    return setup(Two(torch.jit.script(Scripted())))


def case_traced_module():
    return setup(Two(torch.jit.trace(Scripted(), torch.randn(4, 6))))


@torch.jit.script
def scripted(x, y):
    return x * y.sigmoid() + y


class UsesScripted(Two):
    def forward(self, x):
        return self.head(scripted(self.a(x), self.b(x)))


def case_scripted_function():
    return setup(UsesScripted())


class ScriptedStop(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, x):
        return self.lin(x.detach())


def compiled_part():
    return torch.compile(Scripted())


def case_compiled_module():
    return setup(Two(compiled_part()))


@torch.compile
def fused(x):
    return x * x.sigmoid()


def case_compiled_function():
    return setup(Two(fused))


def case_compiled_model():
    return setup(torch.compile(Two(torch.relu)))
