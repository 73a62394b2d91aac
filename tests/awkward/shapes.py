"""Awkward models: Python control flow, outputs of every shape, recurrent layers, hooks, parametrizations, sharing."""

import collections
import copy
import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence


def setup(model, *inputs, loss=None, optimizer=True):
    made = {"model": model, "inputs": inputs or (torch.randn(4, 6),)}
    if optimizer:
        made["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    if loss is not None:
        made["loss"] = loss
    return made


class Base(nn.Module):
    def __init__(self, *widths, last=3):
        super().__init__()
        widths = widths or (6, 8)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], last)


def mean(out):
    return out.square().mean()


class Branches(Base):
    def forward(self, x):
        h = self.layers[0](x)
        if h.sum() > 1e9:
            return self.head(h.detach())
        for _ in range(int(h.abs().max()) % 2 + 1):
            h = torch.tanh(self.layers[1](h))
        while h.norm().item() > 2.0:
            h = h / 2
        return self.head(h)


def case_python_control_flow():
    return setup(Branches(6, 8, 8), loss=mean)


@dataclasses.dataclass
class Out:
    score: torch.Tensor
    extra: object = None
    note: str = ""


Pair = collections.namedtuple("Pair", "left right")


class Outputs(Base):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        h = self.layers[0](x)
        y = self.head(h)
        return {
            "dict": {"a": y, "b": None, "c": [h.argmax(-1)]},
            "dataclass": Out(y, {"deep": (h.detach(), None)}, "text"),
            "namedtuple": Pair(y, None),
            "nested": [({"x": [y]}, None), 3, "s"],
            "set": {y},
        }[self.shape]


def case_dict_output():
    return setup(Outputs("dict"))


def case_dataclass_output():
    return setup(Outputs("dataclass"))


def case_namedtuple_output():
    return setup(Outputs("namedtuple"))


def case_nested_output_with_loss():
    return setup(Outputs("nested"), loss=lambda out: mean(out[0][0]["x"][0]))


def case_set_output():
    return setup(Outputs("set"), loss=lambda out: mean(next(iter(out))))


class OwnLoss(Base):
    def forward(self, x, labels=None):
        logits = self.head(self.layers[0](x))
        if labels is None:
            return Out(logits, 0)
        return collections.OrderedDict(loss=F.cross_entropy(logits, labels), logits=logits)


def case_output_has_its_loss():
    model = OwnLoss()
    return {"model": model, "inputs": {"x": torch.randn(4, 6), "labels": torch.tensor([0, 1, 2, 0])}}


class Scalar(Base):
    def forward(self, x):
        return self.head(self.layers[0](x)).sum()


def case_scalar_output_without_loss():
    return setup(Scalar())


class TwoHeads(Base):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 1)

    def forward(self, x):
        h = self.layers[0](x)
        return self.head(h), self.other(h), h.argmax(-1)


def case_several_outputs_without_loss():
    return setup(TwoHeads())


class Recurrent(nn.Module):
    def __init__(self, kind, packed=False, **options):
        super().__init__()
        self.embed = nn.Linear(6, 5)
        self.rnn = kind(5, 7, batch_first=True, **options)
        self.head = nn.Linear(14 if options.get("bidirectional") else 7, 2)
        self.packed = packed

    def forward(self, x):
        x = self.embed(x)
        if self.packed:
            x = pack_padded_sequence(x, torch.tensor([4, 3]), batch_first=True, enforce_sorted=False)
        out, _ = self.rnn(x)
        if self.packed:
            out, _ = pad_packed_sequence(out, batch_first=True)
        return self.head(out[:, -1])


def case_lstm():
    return setup(Recurrent(nn.LSTM, num_layers=2, bidirectional=True), torch.randn(2, 4, 6))


def case_gru_packed():
    return setup(Recurrent(nn.GRU, packed=True), torch.randn(2, 4, 6))


def case_lstm_packed():
    return setup(Recurrent(nn.LSTM, packed=True, bidirectional=True, num_layers=2), torch.randn(2, 4, 6), loss=mean)


class Ragged(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(6, 5), nn.RNN(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        packed = pack_sequence([self.embed(x[0]), self.embed(x[1, :2])])
        _, h = self.cell(packed._replace(data=packed.data * 2))
        return self.head(h[-1])


def case_packed_sequence_replaced():
    return setup(Ragged(), torch.randn(2, 3, 6))


class Cells(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.cell, self.head, self.steps = nn.LSTMCell(6, 5), nn.Linear(5, 1), steps

    def forward(self, x):
        state = None
        for t in range(self.steps):
            state = self.cell(x[:, t % x.shape[1]], state)
        return self.head(state[0])


def case_two_hundred_steps():
    return setup(Cells(200), torch.randn(2, 5, 6), loss=mean)


class Truncated(nn.Module):
    """Truncated backpropagation through time: the carry is detached, the same weights get gradient later."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 5), nn.Linear(5, 1)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h if t % 2 else h.detach())
        return self.head(h)


def case_truncated_carry():
    return setup(Truncated(), torch.randn(2, 5, 6), loss=mean)


def double(module, args, output):
    return output * 2


def drop(module, args, output):
    return output.detach()  # error: [detached-upstream] layers.0.*


def pre_drop(module, args):
    return (args[0].detach(),)  # error: [detached-upstream] layers.0.*


def pre_with_kwargs(module, args, kwargs):
    return (args[0] + 1,), kwargs


class Plain(Base):
    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def case_forward_hook_replaces():
    model = Plain()
    model.layers[0].register_forward_hook(double)
    model.head.register_forward_pre_hook(pre_with_kwargs, with_kwargs=True)
    return setup(model, loss=mean)


def case_forward_hook_detaches():
    model = Plain()
    model.layers[0].register_forward_hook(drop)
    return setup(model, loss=mean)


def case_forward_pre_hook_detaches():
    model = Plain()
    model.head.register_forward_pre_hook(pre_drop)
    return setup(model, loss=mean)


def case_backward_and_tensor_hooks():
    model = Plain()
    model.layers[0].register_full_backward_hook(lambda m, gi, go: None)
    model.layers[0].register_full_backward_pre_hook(lambda m, go: None)
    model.head.weight.register_hook(lambda g: g * 2)
    model.head.weight.register_post_accumulate_grad_hook(lambda p: None)
    return setup(model, loss=mean)


class HookInForward(Base):
    def forward(self, x):
        h = self.layers[0](x)
        h.register_hook(lambda g: g.clamp(-1, 1))
        h.retain_grad()
        return self.head(h)


def case_hook_in_forward():
    return setup(HookInForward(), loss=mean)


def case_weight_norm():
    model = Plain()
    parametrizations.weight_norm(model.layers[0])
    parametrizations.spectral_norm(model.head)
    return setup(model, loss=mean)


def case_orthogonal():
    model = Plain(6, 6)
    parametrizations.orthogonal(model.layers[0])
    return setup(model, loss=mean)


def case_old_weight_norm():
    model = Plain()
    nn.utils.weight_norm(model.layers[0])
    nn.utils.spectral_norm(model.head)
    return setup(model, loss=mean)


class Stopped(nn.Module):
    def forward(self, weight):
        return weight.detach()  # error: [detached-upstream] layers.0.parametrizations.weight.original


def case_parametrization_detaches():
    model = Plain()
    parametrize.register_parametrization(model.layers[0], "weight", Stopped())
    return setup(model, loss=mean)


def case_parametrization_cached():
    class Cached(Plain):
        def forward(self, x):
            with parametrize.cached():
                return super().forward(super().forward(x) @ torch.ones(3, 6))

    model = Cached()
    parametrizations.weight_norm(model.layers[0])
    return setup(model, loss=mean)


def case_pruned():
    model = Plain()
    prune.l1_unstructured(model.layers[0], "weight", 0.5)
    return setup(model, loss=mean)


def case_data_parallel():
    return setup(nn.DataParallel(Plain()), loss=mean)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.embed(ids).detach())


def case_tied_weight_detached_on_one_side():
    return setup(Tied(), torch.tensor([[1, 2, 3]]), loss=mean)


class Shared(Base):
    def forward(self, x):
        for _ in range(3):
            x = torch.relu(self.layers[0](x))
        return self.head(x) + self.head(x.detach())


def case_shared_module():
    return setup(Shared(6, 6), loss=mean)


class Collected(nn.Module):
    def __init__(self):
        super().__init__()
        self.list = nn.ParameterList([nn.Parameter(torch.randn(6, 6)) for _ in range(3)])
        self.dict = nn.ParameterDict({"scale": nn.Parameter(torch.ones(6))})
        self.dict["rest"] = nn.Parameter(torch.ones(6))  # warning: [unused-parameter] dict.rest

    def forward(self, x):
        for p in self.list:
            x = torch.tanh(x @ p)
        return x * self.dict["scale"]


def case_parameter_list_and_dict():
    return setup(Collected(), loss=mean)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.LazyLinear(8), nn.LazyLinear(2)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def case_lazy():
    return setup(Lazy(), loss=mean, optimizer=False)


class MadeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = None

    def forward(self, x):
        h = self.body(x)
        if self.head is None:
            self.head = nn.Linear(8, 2)
        return self.head(h)


def case_created_once_in_forward():
    return setup(MadeInForward(), loss=mean, optimizer=False)


class BufferWeight(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("fixed", torch.randn(8, 8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.count += 1
        return self.head(F.linear(self.layers[0](x), self.fixed))


def case_buffer_as_weight():
    return setup(BufferWeight(), loss=mean)


class Ema(Base):
    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.layers[0])
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x):
        with torch.no_grad():
            for a, b in zip(self.teacher.parameters(), self.layers[0].parameters(), strict=True):
                a.mul_(0.9).add_(b, alpha=0.1)
            target = self.teacher(x)
        h = self.layers[0](x)
        self.average.lerp_(h.detach().mean(0), 0.1)
        return self.head(h - self.average), F.mse_loss(h, target)


def case_ema_in_forward():
    return setup(Ema(), loss=lambda out: mean(out[0]) + out[1])


class Criterion(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(3))

    def forward(self, out):
        return (out.square() * self.log_sigma.exp() - self.log_sigma).mean()


def case_criterion_with_parameters():
    model, criterion = Plain(), Criterion()
    both = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.SGD(both, lr=0.1)
    return {"model": model, "inputs": (torch.randn(4, 6),), "optimizer": optimizer, "loss": criterion}


class Adapted(Base):
    """MAML: a copy is updated inside the forward, differentiably."""

    def forward(self, x):
        names, values = zip(*self.named_parameters(), strict=True)
        inner = self.head(torch.tanh(self.layers[0](x))).square().mean()
        grads = torch.autograd.grad(inner, values, create_graph=True)
        fast = {n: v - 0.1 * g for n, v, g in zip(names, values, grads, strict=True)}
        h = torch.tanh(F.linear(x, fast["layers.0.weight"], fast["layers.0.bias"]))
        return F.linear(h, fast["head.weight"], fast["head.bias"])


def case_inner_loop():
    return setup(Adapted(), loss=mean)


class Copied(Base):
    def forward(self, x):
        clone = copy.deepcopy(self.layers[0])
        optimizer = torch.optim.SGD(clone.parameters(), lr=0.1)
        clone(x).square().mean().backward()
        optimizer.step()
        return self.head(self.layers[0](x) + clone(x))


def case_deepcopy_in_forward():
    return setup(Copied(), loss=mean)


def case_double():
    return setup(Plain().double(), torch.randn(4, 6, dtype=torch.float64), loss=mean)


def case_bfloat16():
    return setup(Plain().bfloat16(), torch.randn(4, 6, dtype=torch.bfloat16), loss=mean)
