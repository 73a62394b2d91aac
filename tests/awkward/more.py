"""Awkward models: library code, stranger Functions, nested transforms, optimizers and copies in unusual places."""

import copy
import functools
import math
import operator
import queue
import threading

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable
from torch.nn.utils import fusion


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


class OldVariable(Base):
    def forward(self, x):
        h = Variable(self.a(x))  # error: [value-roundtrip-upstream] a.*
        return self.head(h + self.b(x))


def case_variable():
    return setup(OldVariable())


class NewTensor(Base):
    def forward(self, x):
        h = x.new_tensor(self.a(x))  # error: [value-roundtrip-upstream] a.*
        return self.head(h + self.b(x))


def case_new_tensor():
    return setup(NewTensor())


class AsTensorSame(Base):
    """as_tensor gives a tensor back as it is."""

    def forward(self, x):
        return self.head(torch.as_tensor(self.a(x)) + torch.as_tensor(self.b(x), dtype=torch.float32))


def case_as_tensor_keeps():
    return setup(AsTensorSame())


class Loop(Base):
    def forward(self, x):
        h = self.a(x)
        total = 0
        for row in h:
            total = total + sum(float(v) for v in row)  # error: [value-roundtrip-upstream] a.*
        return self.head(self.b(x) * total)


def case_float_in_a_loop():
    return setup(Loop())


class PythonMax(Base):
    def forward(self, x):
        h = self.a(x)
        best = max(h[0])
        ordered = sorted(h[1], key=float)
        return self.head(self.b(x) * best + ordered[0] + functools.reduce(operator.add, h.unbind(0)))


def case_python_max_and_sorted():
    return setup(PythonMax())


class Ceil(Base):
    def forward(self, x):
        n = math.ceil(abs(self.a(x).mean()))
        return self.head(self.b(self.a(x))) / max(n, 1)


def case_number_from_a_layer_that_trains():
    return setup(Ceil())


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.gn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.interpolate(self.gn(self.bn(self.conv(x))), scale_factor=2, mode="bilinear")
        x = F.max_pool2d(x, 2, return_indices=True)[0]
        grid = F.affine_grid(torch.eye(2, 3).repeat(2, 1, 1), [2, 4, 3, 3], align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        return self.head(F.unfold(F.fold(F.unfold(x, 2), (3, 3), 2), 3).view(2, 4, 9).mean(-1))


def case_convolution_and_pooling():
    return setup(Norms(), torch.randn(2, 3, 8, 8))


class Unpool(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.back = nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3)

    def forward(self, x):
        h, where = F.max_pool2d(self.conv(x), 2, return_indices=True)
        return self.back(F.max_unpool2d(h, where, 2))


def case_unpooling_with_indices():
    return setup(Unpool(), torch.randn(1, 1, 6, 6))


class Fused(nn.Module):
    """The weights of two layers are folded together in the forward, differentiably."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        weight = self.conv.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, self.bn.bias + (self.conv.bias - self.bn.running_mean) * scale)


def case_weights_folded_in_forward():
    return setup(Fused(), torch.randn(2, 2, 3, 3))


class FusedByLibrary(Fused):
    def forward(self, x):
        self.eval()
        fused = fusion.fuse_conv_bn_eval(self.conv, self.bn)
        self.train()
        return fused(x) + self.bn(self.conv(x))


def case_weights_folded_by_the_library():
    return setup(FusedByLibrary(), torch.randn(2, 2, 3, 3))


class MixtureOfExperts(nn.Module):
    def __init__(self, top):
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.top = top

    def forward(self, x):
        weights, chosen = F.softmax(self.gate(x), -1).topk(self.top)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == e)
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return out


def case_mixture_of_experts():
    return setup(MixtureOfExperts(2), torch.randn(32, 6))


class HardGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x):
        chosen = self.gate(x).argmax(-1)  # error: [nondifferentiable-upstream] gate.*
        return torch.where((chosen == 0)[:, None], self.experts[0](x), self.experts[1](x))


def case_hard_gate():
    return setup(HardGate(), torch.randn(16, 6))


class Quantized(Base):
    def __init__(self):
        super().__init__()
        self.code = nn.Embedding(8, 6)

    def forward(self, x):
        z = self.a(x)
        nearest = torch.cdist(z, self.code.weight).argmin(-1)
        q = self.code(nearest)
        commit = F.mse_loss(z, q.detach()) + F.mse_loss(q, z.detach())
        return self.head(self.b(z + (q - z).detach())), commit


def case_vector_quantizer():
    return setup(Quantized(), loss=lambda out: out[0].mean() + out[1])


class MomentumEncoder(Base):
    def __init__(self):
        super().__init__()
        self.target = copy.deepcopy(self.a)
        self.register_buffer("bank", torch.randn(6, 8))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def update(self, keys):
        for p, q in zip(self.a.parameters(), self.target.parameters(), strict=True):
            q.data = q.data * 0.99 + p.data * 0.01
        at = int(self.place)
        self.bank[:, at : at + 4] = keys.t()
        self.place[0] = (at + 4) % 8

    def forward(self, x):
        q = F.normalize(self.a(x), dim=-1)
        with torch.no_grad():
            k = F.normalize(self.target(x), dim=-1)
        bank = self.bank.clone().detach()
        self.update(k)
        return self.head(self.b(q)).mean() + (q * k).sum(-1).mean() + (q @ bank).logsumexp(-1).mean()


def case_momentum_encoder():
    return setup(MomentumEncoder())


class Equilibrium(Base):
    def forward(self, x):
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(4):
                z = torch.tanh(self.a(z) / 4 + x)
        z = torch.tanh(self.a(z) / 4 + x)
        return self.head(self.b(z))


def case_fixed_point_then_one_step():
    return setup(Equilibrium())


class Queue(Base):
    def forward(self, x):
        q = queue.Queue()
        q.put(self.a(x))
        memo = {}
        memo["h"] = [q.get(), None]
        return self.head(self.b(copy.copy(memo)["h"][0]))


def case_containers_on_the_way():
    return setup(Queue())


class Worker(Base):
    """The thread works for the log only."""

    def forward(self, x):
        h = self.a(x)
        thread = threading.Thread(target=lambda: self.b.weight.detach().norm().item())
        thread.start()
        thread.join()
        return self.head(self.b(h))


def case_thread_for_the_log():
    return setup(Worker())


class MaskedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)
        self.register_buffer("mask", torch.triu(torch.full((5, 5), float("-inf")), 1))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(-1, -2)).masked_fill(self.mask == float("-inf"), -1e9)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(scores.softmax(-1) @ v + attended)


def case_attention_by_hand():
    return setup(MaskedAttention(), torch.randn(2, 5, 6))


class NestedMaps(Base):
    def pair(self, u, v):
        return (torch.tanh(self.a(u)) * self.b(v)).sum()

    def forward(self, x):
        scores = torch.vmap(torch.vmap(self.pair, in_dims=(None, 0)), in_dims=(0, None))(x, x)
        return self.head(scores @ x)


def case_nested_vmap():
    return setup(NestedMaps())


class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        members = [nn.Linear(6, 3) for _ in range(3)]
        params, _ = torch.func.stack_module_state(members)
        self.weight, self.bias = nn.Parameter(params["weight"].detach()), nn.Parameter(params["bias"].detach())
        self.shape = [nn.Linear(6, 3, device="meta")]

    def forward(self, x):
        def call(weight, bias):
            return torch.func.functional_call(self.shape[0], {"weight": weight, "bias": bias}, (x,))

        return torch.vmap(call)(self.weight, self.bias)


def case_stacked_ensemble():
    return setup(Ensemble())


class RoundInVmap(Base):
    def one(self, row):
        return self.a(row).argmax()  # error: [nondifferentiable-upstream] a.*

    def forward(self, x):
        index = torch.vmap(self.one)(x)
        return self.head(self.b(x) * index[:, None])


def case_argmax_inside_vmap():
    return setup(RoundInVmap())


class NoGradInVmap(Base):
    def one(self, row):
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            return self.a(row)

    def forward(self, x):
        return self.head(torch.vmap(self.one)(x) + self.b(x))


def case_no_grad_inside_vmap():
    return setup(NoGradInVmap())


class GradOfLoss(Base):
    """A learned update: parameters go through torch.func.grad and come out differentiable."""

    def forward(self, x):
        names = dict(self.b.named_parameters())

        def inner(weights):
            return torch.func.functional_call(self.b, weights, (self.a(x),)).square().mean()

        grads = torch.func.grad(inner)(names)
        fast = {n: p - 0.1 * grads[n] for n, p in names.items()}
        return self.head(torch.func.functional_call(self.b, fast, (x,)))


def case_func_grad_of_parameters():
    return setup(GradOfLoss())


class Hypernetwork(Base):
    def forward(self, x):
        weight = self.a(x).view(4, 6)
        return self.head(F.linear(self.b(x), torch.cat([weight, weight[:2]])))


def case_hypernetwork():
    return setup(Hypernetwork())


class OutGiven(Base):
    def forward(self, x):
        h = torch.stack([self.a(x), self.b(x)]).mean(0)
        return self.head(torch.addmm(h, x @ torch.eye(6), torch.eye(6)).clamp_(min=-1).sub_(0.1))


def case_stack_and_addmm():
    return setup(OutGiven())


class Foreach(Base):
    def forward(self, x):
        left, right = torch._foreach_add([self.a(x), self.b(x)], 1.0)
        left, _ = torch._foreach_mul([left, right.detach()], 2.0)
        return self.head(left + right)


def case_foreach():
    return setup(Foreach())


class Meshed(Base):
    def forward(self, x):
        u, v = torch.meshgrid(self.a(x)[0], torch.arange(6.0), indexing="ij")
        p, q = torch.broadcast_tensors(self.b(x), torch.zeros(1, 6))
        return self.head(u + v)[:4] + self.head(p) + q.sum().item()


def case_meshgrid_and_broadcast():
    return setup(Meshed())


class Assigned(Base):
    """The weight is replaced by a computed tensor for the time of the forward."""

    def forward(self, x):
        weight = self.b.weight
        del self.b.weight
        self.b.weight = weight * 2
        out = self.head(self.b(self.a(x)))
        del self.b.weight
        self.b.weight = weight
        return out


def case_weight_replaced_for_a_while():
    return setup(Assigned())


class WeightData(Base):
    """The weights are renormalized by hand before use: they still get gradient."""

    def forward(self, x):
        self.a.weight.data /= self.a.weight.data.norm(dim=-1, keepdim=True)
        with torch.no_grad():
            self.b.weight.clamp_(-1, 1)
        return self.head(self.b(self.a(x)))


def case_weights_renormalised_by_hand():
    return setup(WeightData())


class Frozen(Base):
    def __init__(self):
        super().__init__()
        self.a.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            h = self.a(x)
        return self.head(self.b(h))


def case_frozen_part_under_no_grad():
    model = Frozen()
    trainable = [p for p in model.parameters() if p.requires_grad]
    return {"model": model, "inputs": (torch.randn(4, 6),), "optimizer": torch.optim.SGD(trainable, lr=0.1)}


class CutInThread(Base):
    def forward(self, x):
        h, found = self.a(x), []  # error: [value-roundtrip-upstream] a.*
        thread = threading.Thread(target=lambda: found.append(h.detach() * 2))
        thread.start()
        thread.join()
        return self.head(found[0] + self.b(x))


def case_cut_in_a_thread():
    return setup(CutInThread())


class WorkInThread(Base):
    def forward(self, x):
        found = []
        thread = threading.Thread(target=lambda: found.append(self.a(x).argmax(-1)))
        thread.start()  # error: [value-roundtrip-upstream] a.*
        thread.join()
        return self.head(self.b(x) * found[0][:, None])


def case_work_in_a_thread():
    return setup(WorkInThread())


class CopyOfResult(Base):
    def forward(self, x):
        h = self.a(x)  # error: [value-roundtrip-upstream] a.*
        return self.head(copy.copy(h) + self.b(x))


def case_copy_of_a_result():
    return setup(CopyOfResult())


@torch.jit.script
def scripted_stop(x):
    return x.detach() * 2


class CutInScript(Base):
    def forward(self, x):
        h = self.a(x)
        return self.head(scripted_stop(h) + self.b(x))  # error: [nondifferentiable-upstream] a.*


def case_cut_in_a_scripted_function():
    return setup(CutInScript())


def case_criterion_that_stays_in_eval():
    """It is not in the model and learns all the same."""
    model = nn.Linear(4, 2)
    criterion = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 3))
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], 1e-3)
    x, classes = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])

    def step():
        criterion.eval()  # warning: [training-in-eval-mode]
        optimizer.zero_grad()
        F.cross_entropy(criterion(model(x)), classes).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}
