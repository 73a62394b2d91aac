"""Awkward models: gradient that ends, or is computed twice, inside custom Functions and checkpoints."""

import numpy as np
import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint


def setup(model, *inputs, loss=None):
    return {
        "model": model,
        "inputs": inputs or (torch.randn(4, 6),),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": loss or (lambda out: out.square().mean()),
    }


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)


class Twofold(Function):
    """Double backward, materialized gradients, saved outputs."""

    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return Twofold.apply(torch.zeros_like(y)) * g * y


class UsesTwofold(Base):
    def forward(self, x):
        x = x.clone().requires_grad_()
        y = Twofold.apply(torch.tanh(self.a(x)))
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return self.head(self.b(g)) + y.mean()


def case_function_differentiated_twice():
    return setup(UsesTwofold())


class Stopped(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return None


class StoppedInside(Base):
    def forward(self, x):
        return self.head(Stopped.apply(self.a(x)) + self.b(x))  # error: [function-drops-gradient] a.*  # cut: function


def case_function_stops_the_gradient():
    return setup(StoppedInside())


class StoppedTwice(Base):
    def forward(self, x):
        h = Stopped.apply(self.a(x))  # error: [function-drops-gradient] a.*  # cut: function
        h = h.detach() + Stopped.apply(self.b(x))  # error: [function-drops-gradient] b.*  # cut: function
        return self.head(h)


def case_function_then_detach():
    return setup(StoppedTwice())


class NumpyInside(Function):
    @staticmethod
    def forward(ctx, x, names):
        return torch.as_tensor(np.asarray(x.detach())).clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


class ListArgument(Function):
    """Tensors in a list are no inputs to autograd: their gradient is lost."""

    @staticmethod
    def forward(ctx, x, others):
        return NumpyInside.apply(x, ["a"]) + others[0]

    @staticmethod
    def backward(ctx, g):
        return g, None


class UsesListArgument(Base):
    def forward(self, x):
        h = ListArgument.apply(self.b(x), [self.a(x)])  # error: [function-drops-gradient] a.*  # cut: function
        return self.head(h)


def case_function_with_tensors_in_a_list():
    return setup(UsesListArgument())


class DetachInReentrant(Base):
    def inside(self, h):
        return self.b(h.detach())  # error: [detached-upstream] a.*

    def forward(self, x):
        return self.head(checkpoint(self.inside, self.a(x), use_reentrant=True))


def case_detach_inside_reentrant_checkpoint():
    return setup(DetachInReentrant())


class NoGradInCheckpoint(Base):
    def inside(self, h):
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            g = self.a(h)
        return self.b(h) + g

    def forward(self, x):
        return self.head(checkpoint(self.inside, x, use_reentrant=False))


def case_no_grad_inside_checkpoint():
    return setup(NoGradInCheckpoint())
