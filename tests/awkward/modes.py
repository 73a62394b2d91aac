"""Awkward models: grad-mode switches in every spelling, and several cuts on one way or side by side."""

import contextlib
import functools

import torch
from torch import nn


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


class NestedModes(Base):
    def forward(self, x):
        with torch.no_grad():
            y = x * 2
            with torch.enable_grad():
                h = self.a(y)
            z = y + 1
        with torch.set_grad_enabled(True):
            h = h + self.b(z)
        return self.head(h)


def case_enable_grad_inside_no_grad():
    return setup(NestedModes())


class NestedCut(Base):
    def forward(self, x):
        with torch.no_grad():  # error: [no-grad-upstream] b.*
            with torch.enable_grad():
                h = self.a(x)
            g = self.b(x)
        return self.head(h + g)


def case_cut_after_inner_enable_grad():
    return setup(NestedCut())


class InnerRegion(Base):
    def forward(self, x):
        with torch.enable_grad():
            with torch.no_grad():  # error: [no-grad-upstream] a.*
                h = self.a(x)
        return self.head(h + self.b(x))


def case_no_grad_inside_enable_grad():
    return setup(InnerRegion())


class TwoNested(Base):
    def forward(self, x):
        with torch.no_grad():  # error: [no-grad-upstream] b.*
            with torch.no_grad():
                z = x * 2
            g = self.b(z)
        return self.head(self.a(x) + g)


def case_nested_no_grad_outer_cuts():
    return setup(TwoNested())


class Inference(Base):
    def forward(self, x):
        with torch.inference_mode():  # error: [no-grad-upstream] a.*
            h = self.a(x)
        return self.head(h.clone() + self.b(x))


def case_inference_mode():
    return setup(Inference())


class SetGrad(Base):
    def forward(self, x):
        with torch.set_grad_enabled(not self.training):  # error: [no-grad-upstream] a.*
            h = self.a(x)
        return self.head(h + self.b(x))


def case_set_grad_enabled():
    return setup(SetGrad())


class SetGradCall(Base):
    def forward(self, x):
        torch.set_grad_enabled(False)  # error: [no-grad-upstream] a.*
        h = self.a(x)
        torch.set_grad_enabled(True)
        return self.head(h + self.b(x))


def case_set_grad_enabled_called():
    return setup(SetGradCall())


def passing(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


class Stacked(Base):
    @passing
    @torch.no_grad()  # error: [no-grad-upstream] a.*
    @passing
    def features(self, x):
        return self.a(x)

    def forward(self, x):
        return self.head(self.features(x) + self.b(x))


def case_stacked_decorators():
    return setup(Stacked())


class DecoratedClassMethod(Base):
    @classmethod
    @torch.no_grad()  # error: [no-grad-upstream] a.*
    def run(cls, layer, x):
        return layer(x)

    def forward(self, x):
        return self.head(self.run(self.a, x) + self.b(x))


def case_decorated_class_method():
    return setup(DecoratedClassMethod())


class DecoratedStatic(Base):
    @staticmethod
    @torch.inference_mode()  # error: [no-grad-upstream] a.*
    def run(layer, x):
        return layer(x)

    def forward(self, x):
        return self.head(self.run(self.a, x).clone() + self.b(x))


def case_decorated_static_method():
    return setup(DecoratedStatic())


class DecoratedBare(Base):
    @torch.no_grad  # error: [no-grad-upstream] a.*
    def features(self, x):
        return self.a(x)

    def forward(self, x):
        return self.head(self.features(x) + self.b(x))


def case_decorated_without_parentheses():
    return setup(DecoratedBare())


class Generator(Base):
    @torch.no_grad()  # error: [no-grad-upstream] a.*
    def parts(self, x):
        for _ in range(2):
            yield self.a(x)

    def forward(self, x):
        total = self.b(x)
        for part in self.parts(x):
            total = total + part
        return self.head(total)


def case_decorated_generator():
    return setup(Generator())


def outermost(layer, x):
    return middle(layer, x)


def middle(layer, x):
    return innermost(layer, x)


def innermost(layer, x):
    with torch.no_grad():  # error: [no-grad-upstream] a.*
        return layer(x)


class Helper(Base):
    def forward(self, x):
        return self.head(outermost(self.a, x) + self.b(x))


def case_no_grad_three_calls_deep():
    return setup(Helper())


class Stack(Base):
    def forward(self, x):
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())  # error: [no-grad-upstream] a.*
            h = self.a(x)
        return self.head(h + self.b(x))


def case_exit_stack():
    return setup(Stack())


class MultiLine(Base):
    def forward(self, x):
        with (  # error until Python 3.12: [no-grad-upstream] a.*
            contextlib.nullcontext(),
            torch.no_grad(),  # error from Python 3.13: [no-grad-upstream] a.*
        ):
            h = self.a(x)
        with contextlib.nullcontext(), torch.no_grad():  # error: [no-grad-upstream] b.*
            g = self.b(x)
        return self.head(h + g)


def case_multi_line_with():
    return setup(MultiLine())


@contextlib.contextmanager
def quiet():
    with torch.no_grad():  # error: [no-grad-upstream] a.*
        yield


class OwnContext(Base):
    def forward(self, x):
        with quiet():
            h = self.a(x)
        return self.head(h + self.b(x))


def case_own_context_manager():
    return setup(OwnContext())


class Saved(Base):
    def __init__(self):
        super().__init__()
        self.off = torch.no_grad()

    def forward(self, x):
        with self.off:  # error: [no-grad-upstream] a.*
            h = self.a(x)
        return self.head(h + self.b(x))


def case_reused_context():
    return setup(Saved())


class Raised(Base):
    def forward(self, x):
        try:
            with torch.no_grad():
                self.a(x)
                raise ValueError
        except ValueError:
            pass
        return self.head(self.a(x) + self.b(x))


def case_no_grad_left_by_an_exception():
    return setup(Raised())


class Series(Base):
    def forward(self, x):
        h = self.a(x).detach()  # error: [detached-upstream] a.*
        g = self.b(h).detach()  # error: [detached-upstream] b.*
        return self.head(g)


def case_cuts_in_series():
    return setup(Series())


class Parallel(Base):
    def forward(self, x):
        left = self.a(x).detach()  # error: [detached-upstream] a.*
        with torch.no_grad():  # error: [no-grad-upstream] b.*
            right = self.b(x)
        return self.head(left + right)


def case_cuts_in_parallel():
    return setup(Parallel())


class BothWays(Base):
    def forward(self, x):
        h = self.a(x)
        left = h.detach()  # error: [detached-upstream] a.*
        right = h.round()  # info: [nondifferentiable-upstream] a.*
        return self.head(left + right + self.b(x))


def case_one_source_cut_twice():
    return setup(BothWays())


class Otherwise(Base):
    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            again = self.a(x)
        return self.head(h.detach() + self.b(h) + again)


def case_gradient_another_way():
    return setup(Otherwise())


class DoubleSeries(Base):
    def forward(self, x):
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            h = self.a(x)
        h = h.detach()
        h = torch.tensor(h.tolist())
        return self.head(h + self.b(x))


def case_cut_again_and_again():
    return setup(DoubleSeries())


class LossCuts(Base):
    def forward(self, x):
        return self.head(self.a(x)), self.b(x)


def case_cut_in_the_loss():
    return setup(LossCuts(), loss=lambda out: out[0].mean() + out[1].detach().mean())  # error: [detached-upstream] b.*


class Relabelled(Base):
    def forward(self, x):
        h = self.a(x).detach().requires_grad_()  # error: [requires-grad-relabel] a.*
        return self.head(h + self.b(x))


def case_relabelled():
    return setup(Relabelled())


class Metric(Base):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(6, 6)  # warning: [unused-parameter] unused.*

    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            self.accuracy = (self.head(self.b(h)).argmax(-1) == 0).float().mean()
        return self.head(self.b(h))


def case_metric_beside_and_layer_never_run():
    return setup(Metric())


class Zeroed(Base):
    def forward(self, x):
        return self.head(self.a(x) + 0.0 * self.b(x))


def case_multiplied_by_zero():
    return setup(Zeroed())


class Replaced(Base):
    def forward(self, x):
        h = self.a(x)
        g = self.b(x)  # warning: [unused-parameter] b.*
        g = torch.zeros_like(g)
        return self.head(h + g)


def case_result_replaced():
    return setup(Replaced())


class Leaf(Base):
    def __init__(self):
        super().__init__()
        self.b = nn.Identity()

    def forward(self, x):
        return self.head(self.b(self.a(x)))


def case_identity():
    return setup(Leaf())
