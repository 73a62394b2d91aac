"""Awkward models: in-place operations, views, buffers filled piece by piece, values that leave torch."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def setup(model, *inputs, loss=None):
    made = {
        "model": model,
        "inputs": inputs or (torch.randn(4, 6),),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": loss or (lambda out: out.square().mean()),
    }
    return made


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)


class Column(Base):
    def forward(self, x):
        h = self.a(x)
        h = h.clone()
        h[:, 0] = self.b(x).sum(-1)
        return self.head(h)


def case_setitem_column():
    return setup(Column())


class Filled(Base):
    def forward(self, x):
        out = torch.zeros(3, x.shape[0], 6)
        for i, layer in enumerate((self.a, self.b)):
            out[i] = layer(x)
        out[2].copy_(x)
        return self.head(out.mean(0))


def case_preallocated_buffer():
    return setup(Filled())


class FilledDetached(Base):
    def forward(self, x):
        out = torch.zeros(2, x.shape[0], 6)
        out[0] = self.a(x).detach()  # error: [detached-upstream] a.*
        out[1] = self.b(x)
        return self.head(out.sum(0))


def case_preallocated_buffer_with_a_detached_part():
    return setup(FilledDetached())


class FilledNumpy(Base):
    def forward(self, x):
        out = np.zeros((x.shape[0], 6), dtype=np.float32)
        out[:] = self.a(x).detach().numpy()  # error: [value-roundtrip-upstream] a.*
        return self.head(torch.from_numpy(out) + self.b(x))


def case_numpy_array_filled():
    return setup(FilledNumpy())


class Scattered(Base):
    def forward(self, x):
        h, g = self.a(x), self.b(x)
        out = torch.zeros_like(h)
        out.index_add_(0, torch.tensor([0, 1, 2, 3]), h)
        out.scatter_(1, torch.tensor([[0], [1], [2], [3]]), g[:, :1])
        out = out.masked_scatter(out > 0.5, g)
        out.masked_fill_(out < -3, 0.0)
        out.index_copy_(0, torch.tensor([1]), g[:1])
        out.index_put_((torch.tensor([0]),), g[:1], accumulate=True)
        return self.head(out)


def case_scatter_and_index():
    return setup(Scattered())


class Relus(Base):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = torch.relu_(self.a(x))
        h = F.relu(self.b(h), inplace=True) + 0
        h += x
        h = self.relu(F.dropout(h * 2, 0.5, True, True))
        return self.head(h)


def case_inplace_activations():
    return setup(Relus())


class Views(Base):
    def forward(self, x):
        out = torch.zeros(4, 6)
        flat = out.view(-1)
        part = flat[3:9]
        part.view(2, 3).transpose(0, 1).add_(self.a(x)[:3, :2])
        out.t().unsqueeze(0)[0, 2] += self.b(x)[:, 0]
        return self.head(out)


def case_chained_views():
    return setup(Views())


class Split(Base):
    def forward(self, x):
        h = self.a(x)
        left, right = h.chunk(2, -1)
        q, k = torch.split(self.b(left.repeat(1, 2)), 3, -1)
        return self.head(torch.cat([q * right, k], -1))


def case_chunk_and_split():
    return setup(Split())


class OutArgument(Base):
    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            buffer = torch.empty(4, 6)
            torch.mul(x, 2.0, out=buffer)
        return self.head(h + buffer + self.b(x))


def case_out_argument_of_inputs():
    return setup(OutArgument())


class OutArgumentCut(Base):
    def forward(self, x):
        buffer = torch.empty(4, 6)
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            torch.mul(self.a(x), 2.0, out=buffer)
        return self.head(buffer + self.b(x))


def case_out_argument_cut():
    return setup(OutArgumentCut())


class DataWrite(Base):
    def forward(self, x):
        h = torch.zeros(4, 6)
        h.data = self.a(x)  # error: [value-roundtrip-upstream] a.*
        return self.head(h + self.b(x))


def case_data_assignment():
    return setup(DataWrite())


class DataCopy(Base):
    def forward(self, x):
        h = self.b(x)
        h.data.add_(self.a(x).data)  # error: [value-roundtrip-upstream] a.*
        return self.head(h)


def case_data_add():
    return setup(DataCopy())


class DataClamp(Base):
    """Writing through ``.data`` leaves the gradient as it was: nothing is starved."""

    def forward(self, x):
        h = self.b(self.a(x))
        h.data.clamp_(-1, 1)
        return self.head(h)


def case_data_clamp():
    return setup(DataClamp())


class DetachInPlace(Base):
    def forward(self, x):
        h = self.a(x)
        h.detach_()  # error: [detached-upstream] a.*
        return self.head(h + self.b(x))


def case_detach_in_place():
    return setup(DetachInPlace())


class MutatesInput(Base):
    def forward(self, x):
        x = x.mul_(0.5)
        x[:, 0] = 0
        return self.head(self.a(x) + self.b(x))


def case_forward_mutates_its_input():
    return setup(MutatesInput())


class CopyNoGrad(Base):
    def forward(self, x):
        h = self.b(x).clone()
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            h.copy_(self.a(x))
        return self.head(h)


def case_copy_under_no_grad():
    return setup(CopyNoGrad())


class Logged(Base):
    """Values leave torch for logging, shapes and control flow only."""

    def __init__(self):
        super().__init__()
        self.seen, self.registered = [], {}

    def forward(self, x):
        h = self.a(x)
        self.seen.append(h.mean().item())
        self.registered["norm"] = float(h.norm()), h.detach().numpy().std(), h.tolist()
        print(f"{h.max():.3f}", math.sqrt(abs(h.sum().item())))
        if h.sum().item() > 0 and bool((h > 0).any()):
            h = h + 1
        n = int(h.detach().abs().sum()) % 2 + 1
        return self.head(torch.cat([self.b(h)] * n).reshape(n, -1, 6).mean(0))


def case_values_leave_for_logging():
    return setup(Logged())


class ItemBack(Base):
    def forward(self, x):
        scale = self.a(x).mean().item()  # error: [value-roundtrip-upstream] a.*
        return self.head(self.b(x) * scale)


def case_item_multiplies():
    return setup(ItemBack())


class MathBack(Base):
    def forward(self, x):
        scale = math.exp(self.a(x).mean())  # error: [value-roundtrip-upstream] a.*
        return self.head(self.b(x) * torch.full((6,), scale))


def case_math_of_a_tensor():
    return setup(MathBack())


class ListBack(Base):
    def forward(self, x):
        values = self.a(x).tolist()  # error: [value-roundtrip-upstream] a.*
        return self.head(self.b(x) + torch.tensor(values))


def case_tolist_and_back():
    return setup(ListBack())


class TensorOfTensors(Base):
    def forward(self, x):
        means = [row.mean() for row in self.a(x)]
        factor = torch.tensor(means)  # error: [value-roundtrip-upstream] a.*
        return self.head(self.b(x) * factor[:, None])


def case_tensor_of_a_list():
    return setup(TensorOfTensors())


class NumpyBack(Base):
    def forward(self, x):
        h = self.a(x).detach().numpy()  # error: [value-roundtrip-upstream] a.*
        h = np.tanh(h) + 1
        return self.head(self.b(x) * torch.as_tensor(h))


def case_numpy_and_back():
    return setup(NumpyBack())


class NumpyFunctionOnTensor(Base):
    def forward(self, x):
        with torch.no_grad():  # error: [no-grad-upstream] a.*
            h = self.a(x)
        return self.head(self.b(x) + torch.from_numpy(np.tanh(h.numpy())))


def case_numpy_function_under_no_grad():
    return setup(NumpyFunctionOnTensor())


class ShapeOnly(Base):
    def forward(self, x):
        h = self.a(x)
        n, m = h.shape
        noise = torch.zeros(n, m).to(h).type_as(h) + h.new_ones(m)
        return self.head(self.b(h + noise * torch.empty_like(h).fill_(2)))


def case_shapes_only():
    return setup(ShapeOnly())


class Renormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.bag = nn.Embedding(10, 6, max_norm=0.1, padding_idx=0), nn.EmbeddingBag(10, 6, max_norm=0.5)
        self.head = nn.Linear(6, 2)

    def forward(self, ids):
        return self.head(self.embed(ids).mean(1) + self.bag(ids))


def case_embedding_max_norm():
    return setup(Renormed(), torch.tensor([[1, 2], [3, 4]]))


class Selected(Base):
    def forward(self, x):
        h, g = self.a(x), self.b(x)
        values, order = h.sort(-1)
        top = g.topk(3, -1)
        picked = torch.gather(h, 1, order[:, :3]) * top.values
        q = torch.quantile(h, 0.5, dim=-1, keepdim=True)
        h = torch.where(h > q, h, g)
        h = h[torch.randperm(4)][:, order[0]]
        keep = h[h > -100].view(4, 6)
        return self.head(keep + F.pad(picked, (0, 3)) + values.cummax(-1).values + torch.einsum("bi,bj->bj", h, g))


def case_sort_gather_where():
    return setup(Selected())


class IndexOnly(Base):
    def forward(self, x):
        index = self.a(x).argmax(-1)  # error: [nondifferentiable-upstream] a.*
        return self.head(self.b(x)[index % 4])


def case_index_by_argmax():
    return setup(IndexOnly())


class NonZero(Base):
    def forward(self, x):
        rows = (self.a(x) > 0).any(-1).nonzero()  # error: [nondifferentiable-upstream] a.*
        return self.head(self.b(x)[rows[:, 0]]) if len(rows) else self.head(x)


def case_mask_to_rows():
    return setup(NonZero())


class Rounded(Base):
    def forward(self, x):
        h = torch.round(self.a(x) * 4) / 4  # error: [nondifferentiable-upstream] a.*
        return self.head(h + self.b(x))


def case_round():
    return setup(Rounded())


class Straight(Base):
    def forward(self, x):
        h = self.a(x)
        h = h + (h.round() - h).detach()
        g = F.gumbel_softmax(self.b(x), hard=True)
        return self.head(h * g)


def case_straight_through():
    return setup(Straight())


class Drawn(Base):
    def forward(self, x):
        normal = torch.distributions.Normal(self.a(x), F.softplus(self.b(x)))
        return self.head(normal.rsample())


def case_rsample():
    return setup(Drawn())


class DrawnHard(Base):
    def forward(self, x):
        normal = torch.distributions.Normal(self.a(x), 1.0)
        return self.head(normal.sample() + self.b(x))  # error: [nondifferentiable-upstream] a.*


def case_sample():
    return setup(DrawnHard())


class Reinforce(Base):
    def forward(self, x):
        choice = torch.distributions.Categorical(logits=self.a(x))
        action = choice.sample()
        reward = self.head(self.b(x)).sum(-1) * (action == 1)
        return choice.log_prob(action) * reward.detach() + reward


def case_score_function():
    return setup(Reinforce())


class Dot(Base):
    def forward(self, x):
        h = torch.linalg.solve(self.a(x)[:, :4] @ torch.eye(4) + 9 * torch.eye(4), self.b(x))
        return self.head(torch.fft.ifft(torch.fft.fft(h)).real)


def case_linalg_and_fft():
    return setup(Dot())


class ComplexNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, dtype=torch.complex64), nn.Linear(6, 2)

    def forward(self, x):
        z = self.a(x.to(torch.complex64))
        return self.b(torch.view_as_real(z * z.conj())[..., 0] + z.abs() + z.angle().detach() + z.imag)


def case_complex():
    return setup(ComplexNet())


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 6, sparse=True)
        self.values = nn.Parameter(torch.randn(3))
        self.head = nn.Linear(6, 2)

    def forward(self, ids):
        matrix = torch.sparse_coo_tensor(torch.tensor([[0, 1, 1], [1, 0, 1]]), self.values, (2, 2))
        return self.head(torch.sparse.mm(matrix, self.embed(ids).mean(1)))


def case_sparse():
    return setup(Sparse(), torch.tensor([[1, 2], [3, 4]]))


class Autocast(Base):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.b(torch.relu(self.a(x)))
            with torch.autocast("cpu", enabled=False):
                h = h.float()
            return self.head(h)


def case_autocast():
    return setup(Autocast(), loss=lambda out: out.float().mean())


class OverwrittenBesideAutograd(Base):
    def forward(self, x):
        h = torch.relu(self.b(x)).detach()
        h.data.copy_(self.a(x))  # error: [value-roundtrip-upstream] a.*  # warning: [unused-parameter] b.*
        return self.head(h)


def case_overwritten_beside_autograd():
    """Nothing is left of ``b``, although its tensor reaches the loss."""
    return setup(OverwrittenBesideAutograd())
