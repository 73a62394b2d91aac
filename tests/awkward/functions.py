"""Awkward models: custom autograd.Functions, library operators, threads, torch.func, subclasses, attention."""

import threading

import numpy as np
import torch
import torch.nn.functional as F
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


class Two(nn.Module):
    """a → f → b → head."""

    def __init__(self, f=None):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.f = f

    def forward(self, x):
        return self.head(self.b(self.f(self.a(x))))


class Scale(Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        y = x * factor
        return y + 0

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


def case_function():
    return setup(Two(lambda h: Scale.apply(h, 2.0)))


early = Scale.apply


def case_function_bound_early():
    return setup(Two(lambda h: early(h, 2.0)))


class Nested(Function):
    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            y = Scale.apply(x, 3.0)
        return Scale.apply(y, 2.0).clone()

    @staticmethod
    def backward(ctx, g):
        return g * 6


def case_function_nested():
    return setup(Two(Nested.apply))


class Ste(Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


def case_function_ste():
    return setup(Two(Ste.apply))


class Reverse(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


def case_function_reversal():
    return setup(Two(Reverse.apply))


class Indices(Function):
    @staticmethod
    def forward(ctx, x):
        v, i = x.sort(-1)
        ctx.mark_non_differentiable(i)
        ctx.save_for_backward(i)
        return v, i

    @staticmethod
    def backward(ctx, g, _):
        (i,) = ctx.saved_tensors
        return torch.zeros_like(g).scatter(-1, i, g)


class UsesIndices(Two):
    def forward(self, x):
        v, i = Indices.apply(self.a(x))
        return self.head(self.b(v) + i)


def case_function_non_differentiable_output():
    return setup(UsesIndices())


class OnlyIndices(Two):
    def forward(self, x):
        _, i = Indices.apply(self.a(x))  # error: [nondifferentiable-upstream] a.*
        return self.head(self.b(x) + i)


def case_function_only_the_non_differentiable_output():
    return setup(OnlyIndices())


class Dirty(Function):
    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, g):
        return g * 2


def case_function_mark_dirty():
    return setup(Two(lambda h: Dirty.apply(h + 0)))


class InNumpy(Function):
    @staticmethod
    def forward(ctx, x):
        y = np.tanh(x.detach().numpy())
        y = torch.from_numpy(y)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


def case_function_with_numpy():
    return setup(Two(InNumpy.apply))


class Same(Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return g


def case_function_returns_its_input():
    return setup(Two(Same.apply))


class NewStyle(Function):
    @staticmethod
    def forward(x, w):
        return x @ w.t()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.t() @ x


class UsesNewStyle(Two):
    def forward(self, x):
        return self.head(self.b(NewStyle.apply(x, self.a.weight)) + self.a.bias)


def case_function_setup_context():
    return setup(UsesNewStyle())


class HalfGradient(Function):
    @staticmethod
    def forward(ctx, x, y):
        return x * y

    @staticmethod
    def backward(ctx, g):
        return None, g


class UsesHalf(Two):
    def forward(self, x):
        h = HalfGradient.apply(self.a(x), self.b(x))  # error: [function-drops-gradient] a.*  # cut: function
        return self.head(h)


def case_function_drops_one_gradient():
    return setup(UsesHalf())


class CallsModule(Function):
    @staticmethod
    def forward(ctx, x, module):
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = module(ctx.x)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, g):
        torch.autograd.backward(ctx.y, g)
        return ctx.x.grad, None


class UsesCallsModule(Two):
    def forward(self, x):
        return self.head(CallsModule.apply(self.a(x), self.b))


def case_function_calls_a_module():
    return setup(UsesCallsModule())


class FunctionInNoGrad(Two):
    def forward(self, x):
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            h = Scale.apply(self.a(x), 2.0)
        return self.head(self.b(h))


def case_function_inside_no_grad():
    return setup(FunctionInNoGrad())


class FunctionInCheckpoint(Two):
    def block(self, h):
        return self.b(Scale.apply(Ste.apply(h), 2.0))

    def forward(self, x):
        h = checkpoint(self.block, self.a(x), use_reentrant=False)
        return self.head(checkpoint(self.block, h, use_reentrant=True))


def case_function_inside_checkpoints():
    return setup(FunctionInCheckpoint())


class Repeated(Two):
    def forward(self, x):
        h = self.a(x)
        for k in range(5):
            h = Scale.apply(h, 1.0 + k) + Scale.apply(h, 0.5)
        return self.head(self.b(h))


def case_function_repeated():
    return setup(Repeated())


class SeveralOutputs(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2, x * 3, None

    @staticmethod
    def backward(ctx, g, h, _):
        return (0 if g is None else g * 2) + (0 if h is None else h * 3)


class UsesSeveral(Two):
    def forward(self, x):
        _, q, _ = SeveralOutputs.apply(self.a(x))
        return self.head(self.b(q))


def case_function_with_several_outputs():
    return setup(UsesSeveral())


def remember_factor(ctx, inputs, output):
    ctx.factor = inputs[1]


def case_library_op():
    @torch.library.custom_op("gradlint_tests::scaled", mutates_args=())
    def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * factor)

    scaled.register_autograd(lambda ctx, g: (g * ctx.factor, None), setup_context=remember_factor)
    return setup(Two(lambda h: scaled(h, 2.0)))


class UsesRanks(Two):
    def forward(self, x):
        return self.head(self.f(self.a(x)) + self.b(x))  # error: [nondifferentiable-upstream] a.*


def case_library_op_without_gradient():
    @torch.library.custom_op("gradlint_tests::ranks", mutates_args=())
    def ranks(x: torch.Tensor) -> torch.Tensor:
        return x.argsort(-1)

    return setup(UsesRanks(ranks))


class InThread(Two):
    def forward(self, x):
        h, found = self.a(x), []
        thread = threading.Thread(target=lambda: found.append(self.b(h)))
        thread.start()
        thread.join()
        return self.head(found[0])


def case_ops_in_another_thread():
    return setup(InThread())


class Mapped(Two):
    def forward(self, x):
        h = torch.vmap(lambda row: self.a(row).tanh())(x)
        return self.head(torch.vmap(self.b, in_dims=1, out_dims=1)(h.unsqueeze(1)).squeeze(1))


def case_vmap():
    return setup(Mapped())


class MappedDetach(Two):
    def one(self, row):
        return self.a(row).detach()  # error: [detached-upstream] a.*

    def forward(self, x):
        return self.head(torch.vmap(self.one)(x) + self.b(x))


def case_detach_inside_vmap():
    return setup(MappedDetach())


class FunctionalGrad(Two):
    def energy(self, row):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(row))))).square().sum()

    def forward(self, x):
        return torch.vmap(torch.func.grad(self.energy))(x) + torch.func.jvp(self.energy, (x,), (torch.ones_like(x),))[1]


def case_functional_grad():
    return setup(FunctionalGrad())


class FunctionalCall(Two):
    def forward(self, x):
        weights = {name: p * 2 for name, p in self.b.named_parameters()}
        return self.head(torch.func.functional_call(self.b, weights, (self.a(x),)))


def case_functional_call():
    return setup(FunctionalCall())


class Jacobian(Two):
    def forward(self, x):
        j = torch.func.jacrev(lambda row: torch.tanh(self.b(torch.tanh(self.a(row)))))(x[0])
        return self.head(j)


def case_jacobian():
    return setup(Jacobian())


class Penalty(Two):
    def forward(self, x):
        x = x.clone().requires_grad_()
        score = self.head(torch.tanh(self.b(torch.tanh(self.a(x))))).sum()
        (g,) = torch.autograd.grad(score, x, create_graph=True)
        return g


def case_gradient_penalty():
    return setup(Penalty(), loss=lambda g: (g.norm(dim=-1) - 1).square().mean())


class Subclass(torch.Tensor):
    pass


class UsesSubclass(Two):
    def forward(self, x):
        return self.head(self.b(self.a(x.as_subclass(Subclass)))).as_subclass(torch.Tensor)


def case_tensor_subclass():
    return setup(UsesSubclass())


class Logging(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


class UsesLogging(Two):
    def forward(self, x):
        h = self.a(x).as_subclass(Logging)
        return self.head(self.b(h * 2 + h.detach()))


def case_tensor_subclass_with_function():
    return setup(UsesLogging())


def case_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.out = nn.Linear(6, 8), nn.Linear(8, 2)
            self.att = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            h = self.inp(x)
            return self.out(self.att(h, h, h)[0])

    return setup(Net(), torch.randn(2, 5, 6))


def case_transformer_encoder():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
            self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True), nn.Linear(6, 2)

        def forward(self, x, mask):
            return self.head(self.body(x, src_key_padding_mask=mask))

    return setup(Net(), torch.randn(2, 5, 6), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))


def case_transformer_decoder():
    return setup(nn.Transformer(6, 2, 1, 1, 12, batch_first=True), torch.randn(2, 5, 6), torch.randn(2, 3, 6))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.att, self.head = nn.MultiheadAttention(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        a = self.att
        out, w = F.multi_head_attention_forward(
            x, x, x, 6, 2, a.in_proj_weight, a.in_proj_bias, None, None, False, 0.0, a.out_proj.weight, a.out_proj.bias
        )
        return self.head(out) + w.detach().mean()


def case_bare_attention_function():
    return setup(Bare(), torch.randn(5, 2, 6))


class NestedTensors(Two):
    def forward(self, x):
        nt = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
        return self.head(torch.nested.to_padded_tensor(self.b(self.a(nt)), 0.0))


def case_nested_tensors():
    return setup(NestedTensors())
