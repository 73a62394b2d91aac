"""The statements of which generated programs are made, and the helpers that they call.

A statement is a template: ``{o}`` is its result, ``{a}`` and ``{b}`` are earlier values, ``{l}`` is a layer of its own.
"""

# ruff: noqa: E501 (a statement is easier to read on one line)
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEAD = """\
import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
"""

HELPERS = {
    "Double": """
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, g):
                return g * 2
        """,
    "Withheld": """
        class Withheld(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, y):
                return x + y

            @staticmethod
            def backward(ctx, g):
                return g, None
        """,
    "Swapped": """
        class Swapped(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, y):
                ctx.save_for_backward(x)
                return x * y

            @staticmethod
            def backward(ctx, g):
                (x,) = ctx.saved_tensors
                return g * x, g * 2
        """,
    "Marked": """
        class Marked(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                y = x * 2
                ctx.mark_non_differentiable(y)
                return x + 1, y

            @staticmethod
            def backward(ctx, g, h):
                return g
        """,
    "Zeroed": """
        class Zeroed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.sin()

            @staticmethod
            def backward(ctx, g):
                return torch.zeros_like(g)
        """,
    "Asked": """
        class Asked(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, y):
                ctx.save_for_backward(x, y)
                return x * y

            @staticmethod
            def backward(ctx, g):
                x, y = ctx.saved_tensors
                return (g * y if ctx.needs_input_grad[0] else None), (g * x if ctx.needs_input_grad[1] else None)
        """,
    "Written": """
        class Written(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.mark_dirty(x)
                return x.mul_(3)

            @staticmethod
            def backward(ctx, g):
                return g * 3
        """,
    "Inner": """
        class Inner(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                with torch.enable_grad():
                    ctx.x = x.detach().requires_grad_()
                    ctx.y = ctx.x.tanh()
                return ctx.y.detach()

            @staticmethod
            def backward(ctx, g):
                return torch.autograd.grad(ctx.y, ctx.x, g)[0]
        """,
    "frozen_call": """
        @torch.no_grad()
        def frozen_call(layer, x):
            return layer(x)
        """,
    "inference_call": """
        @torch.inference_mode()
        def inference_call(layer, x):
            return layer(x)
        """,
    "off": """
        @contextlib.contextmanager
        def off():
            before = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
            try:
                yield
            finally:
                torch.set_grad_enabled(before)
        """,
    "scripted": """
        @torch.jit.script
        def scripted(x, y):
            return torch.tanh(x) + y
        """,
    "scripted_cut": """
        @torch.jit.script
        def scripted_cut(x, y):
            return x.detach() + y
        """,
    "Gate": """
        class Gate(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(4))
                self.inner = nn.Linear(4, 4)

            def forward(self, x):
                return self.inner(x) * self.scale
        """,
}
"""Name → its definition, for the statements that use it."""

LAYERS = {
    "linear": "nn.Linear(4, 4)",
    "plain": "nn.Linear(4, 4, bias=False)",
    "deep": "nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))",
    "norm": "nn.LayerNorm(4)",
    "gate": "Gate()",
    "weight_norm": "nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))",
    "dropout": "nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))",
}
"""Name → the constructor of a layer."""


@dataclass(frozen=True)
class Template:
    """One kind of statement."""

    name: str
    lines: str
    trains: bool = True
    """True if gradient returns to its layer and to both its operands."""
    needs: str = ""
    """A layer by name, if not every one will do."""
    init: str = ""
    """Lines of ``__init__``."""
    leaves: bool = False
    """True if values leave torch, or pass what is not recorded: only a second run shows where they go."""
    steers: bool = False
    """True if a value decides what runs."""


# fmt: off
def _templates() -> Iterator[Template]:
    def good(name: str, lines: str, needs: str = "", init: str = "", **more: bool) -> Template:
        return Template(name, lines, True, needs, init, **more)

    def bad(name: str, lines: str, needs: str = "", init: str = "", **more: bool) -> Template:
        return Template(name, lines, False, needs, init, **more)

    yield good("layer", "{o} = torch.tanh({l}({a}))")
    yield good("residual", "{o} = {a} + {l}({b})")
    yield good("product", "{o} = {l}({a}) * torch.sigmoid({b})")
    yield good("cat", "{o} = torch.cat([{l}({a})[:, :2], {b}[:, 2:]], -1)", "linear")
    yield good("stack", "{o} = torch.stack([{l}({a}), {b}]).mean(0)")
    yield good("functional", "{o} = F.linear({a}, {l}.weight, {l}.bias)", "linear")
    yield good("matmul", "{o} = {a} @ {l}.weight.T + {l}.bias", "linear")
    yield good("einsum", "{o} = torch.einsum('bi,oi->bo', {a}, {l}.weight) + {l}.bias", "linear")
    yield good("twice", "{o} = {l}({l}({a}).tanh())")
    yield good("if", "if {a}.shape[0] > 1:\n    {o} = {l}({a})\nelse:\n    {o} = {b}")
    yield good("for", "{o} = {b}\nfor _ in range(2):\n    {o} = torch.tanh({l}({o})) + {a}")
    yield good("while", "{o} = {a}\ncount = 0\nwhile count < 2:\n    {o} = {l}({o})\n    count += 1")
    yield good("rows", "{o} = torch.stack([{l}(row) for row in {a}])", "linear")
    yield good("add_", "{o} = {a}.clone()\n{o}.add_({l}({b}))")
    yield good("iadd", "{o} = {a} * 1\n{o} += {l}({b})")
    yield good("setitem", "{o} = {a}.clone()\n{o}[:, 0] = {l}({b}).sum(-1)")
    yield good("setitem_mask", "{o} = {a}.clone()\n{o}[:, torch.tensor([True, False, True, False])] = {l}({b})[:, :2]", "linear")
    yield good("copy_", "{o} = torch.empty(2, 4)\n{o}.copy_({l}({a}))\n{o} = {o} * torch.sigmoid({b})")
    yield good("view_write", "{o} = torch.zeros(2, 4)\n{o}.view(-1)[:].add_({l}({a}).view(-1))\n{o} = {o} + {b}")
    yield good("view_of_row", "{o} = {b} + 0\nrow = {o}[0]\nrow.mul_({l}({a})[0])", "linear")
    yield good("index_put", "{o} = torch.zeros(2, 4).index_put((torch.tensor([0, 1]),), {l}({a})) + {b}")
    yield good("out_of_empty", "{o} = {b}.new_zeros(2, 4)\n{o}[0] = {l}({a})[1]\n{o}[1] = {l}({a})[0]\n{o} = {o} + {b}")
    yield good("masked_fill", "{o} = {l}({a}).masked_fill(torch.eye(4)[:2].bool(), 0.5) + {b}")
    yield good("where", "{o} = torch.where({b}.detach() > 1e6, {b}, {l}({a})) + 0.1 * {b}")
    yield good("clamp", "{o} = {l}({a}).clamp(-1e3, 1e3) + {b}")
    yield good("chunk", "left, right = {l}({a}).chunk(2, -1)\n{o} = torch.cat([right, left], -1) + {b}")
    yield good("unbind", "first, second = {l}({a}).unbind(0)\n{o} = torch.stack([second, first * 2]) + {b}")
    yield good("double", "{o} = Double.apply({l}({a})) + {b}")
    yield good("asked", "{o} = Asked.apply({l}({a}), {b})")
    yield good("swapped", "{o} = Swapped.apply({l}({a}), {b})")
    yield good("written", "{o} = Written.apply({l}({a}) + 0) + {b}")
    yield good("inner", "{o} = Inner.apply({l}({a})) + {b}")
    yield good("marked_first", "{o}, _ = Marked.apply({l}({a}))\n{o} = {o} + {b}")
    yield good("checkpoint", "{o} = checkpoint({l}, {a}, use_reentrant=False) + {b}")
    yield good("checkpoint_lambda", "{o} = checkpoint(lambda v: torch.tanh({l}(v)) + {b}, {a}, use_reentrant=False)")
    yield good("reentrant", "{o} = checkpoint({l}, {a} + self.p{n}, use_reentrant=True) + {b}", init="self.p{n} = nn.Parameter(torch.zeros(4))")
    yield good("sequential", "{o} = checkpoint_sequential([{l}, nn.Tanh()], 2, {a}, use_reentrant=False) + {b}")
    yield good("vmap", "{o} = torch.vmap({l})({a}) + {b}", "linear")
    yield good("vmap_two", "{o} = torch.vmap(lambda u, v: {l}(u) * torch.sigmoid(v))({a}, {b})", "linear")
    yield good("func_grad", "{o} = torch.func.grad(lambda v: torch.tanh({l}(v)).sum())({a}) + {b}", "linear")
    yield good("functional_call", "{o} = torch.func.functional_call({l}, {{k: p * 2 for k, p in {l}.named_parameters()}}, ({a},)) + {b}", "linear")
    yield good("vjp", "{o}, pull = torch.func.vjp({l}, {a})\n{o} = {o} + {b} + pull(torch.ones(2, 4))[0]", "linear")
    yield good("jvp", "{o} = torch.func.jvp(lambda v: torch.tanh({l}(v)), ({a},), (torch.ones(2, 4),))[1] + {b}", "linear")
    yield good("jacrev", "{o} = torch.vmap(torch.func.jacrev(lambda v: torch.tanh({l}(v)).sum()))({a}) + {b}", "linear")
    yield good("autograd_grad", "leaf = {a}.detach().requires_grad_()\n(g,) = torch.autograd.grad(torch.tanh({l}(leaf)).sum(), leaf, create_graph=True)\n{o} = g + {b} + {a}", "linear")
    yield good("scripted", "{o} = scripted({l}({a}), {b})", leaves=True)
    yield good("traced", "{o} = self.traced{n}({a}) + {l}({b})", init="self.traced{n} = torch.jit.trace(nn.Linear(4, 4), torch.zeros(2, 4))", leaves=True)
    yield good("shared", "{o} = self.other{n}({l}({a})) + {b}", "linear", "self.other{n} = nn.Linear(4, 4)\nself.other{n}.weight = {l}.weight")
    yield good("module_list", "{o} = {b}\nfor layer in self.list{n}:\n    {o} = layer({o}) + {l}({a})", init="self.list{n} = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))")
    yield good("parameter", "{o} = {l}({a}) * self.p{n} + {b}", init="self.p{n} = nn.Parameter(torch.ones(4))")
    yield good("hook_scales", "{o} = {l}({a})\n{o}.register_hook(lambda g: g * 0.5)\n{o} = {o} + {b}")
    yield good("forward_hook", "{o} = {l}({a}) + {b}", init="{l}.register_forward_hook(lambda m, i, out: out * 2)")
    yield good("parameter_hook", "{o} = {l}({a}) + {b}", "linear", "{l}.weight.register_hook(lambda g: g.clamp(-1, 1))")
    yield good("straight_through", "soft = torch.softmax({l}({a}), -1)\nhard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)\n{o} = hard + soft - soft.detach() + {b}")
    yield good("rounded_through", "{o} = {l}({a})\n{o} = {o} + ({o}.round() - {o}).detach() + {b}")
    yield good("enable", "with torch.no_grad():\n    with torch.enable_grad():\n        {o} = {l}({a})\n{o} = {o} + {b}")
    yield good("set_true", "with torch.set_grad_enabled(True):\n    {o} = {l}({a}) + {b}")
    yield good("logged", "{o} = {l}({a}) + {b}\nself.log = {o}.norm().item()", leaves=True)
    yield good("logged_list", "{o} = {l}({a}) + {b}\nself.logs = [float(v) for v in {o}.detach().mean(0)]", leaves=True)
    yield good("logged_array", "{o} = {l}({a}) + {b}\nself.log = np.abs({o}.detach().numpy()).max()", leaves=True)
    yield good("checked", "{o} = {l}({a}) + {b}\nassert torch.isfinite({o}).all()", steers=True)
    yield good("guarded", "{o} = {l}({a}) + {b}\nif {o}.abs().max().item() > 1e6:\n    {o} = {o} / 1e6", steers=True, leaves=True)
    yield good("average", "{o} = {l}({a}) + {b}\nwith torch.no_grad():\n    self.mean{n}.mul_(0.9).add_({o}.mean(0), alpha=0.1)", init="self.register_buffer('mean{n}', torch.zeros(4))")
    yield good("statistic", "{o} = {l}({a})\n{o} = {o} / {o}.detach().norm().clamp(min=1) + {b}")
    yield good("target", "{o} = {l}({a})\n{o} = {o} * torch.sigmoid({o}.detach()) + {b}")
    yield good("lstm", "{o} = self.cell{n}({l}({a}), {b})", init="self.cell{n} = nn.GRUCell(4, 4)")
    yield good("attention", "{o} = {l}(F.scaled_dot_product_attention({a}[None], {b}[None], {b}[None])[0]) + {a} + {b}")
    yield good("retain", "{o} = {l}({a}) + {b}\n{o}.retain_grad() if {o}.requires_grad else None")
    yield good("generator", "{o} = sum(layer({a}) for layer in ({l}, nn.Identity())) + {b}")
    yield good("round_trip", "{o} = {l}({a}).to(torch.float64).float() + {b}")
    yield good("complex", "{o} = torch.fft.ifft(torch.fft.fft({l}({a}).to(torch.complex64))).real + {b}")
    yield good("sort", "{o} = {l}({a}).sort(-1).values + {b}")
    yield good("gather", "{o} = {l}({a}).gather(1, torch.tensor([[0, 0, 1, 1]] * 2)) + {b}")
    yield good("map_", "{o} = torch.stack(list(map({l}, {a}.unbind(0)))) + {b}", "linear")
    yield good("saved_hooks", "with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):\n    {o} = {l}({a}) * torch.sigmoid({b})")
    yield good("try", "try:\n    {o} = {l}({a}.reshape(3, 3))\nexcept RuntimeError:\n    {o} = {l}({a}) + {b}")

    # gradient mode
    yield bad("no_grad", "with torch.no_grad():\n    {o} = {l}({a})\n{o} = {o} + {b}")
    yield bad("no_grad_decorator", "{o} = frozen_call({l}, {a}) + {b}")
    yield bad("no_grad_wrapper", "{o} = torch.no_grad()({l})({a}) + {b}")
    yield bad("no_grad_manual", "off_{n} = torch.no_grad()\noff_{n}.__enter__()\n{o} = {l}({a})\noff_{n}.__exit__(None, None, None)\n{o} = {o} + {b}")
    yield bad("exit_stack", "with contextlib.ExitStack() as stack:\n    stack.enter_context(torch.no_grad())\n    {o} = {l}({a})\n{o} = {o} + {b}")
    yield bad("own_context", "with off():\n    {o} = {l}({a})\n{o} = {o} + {b}")
    yield bad("set_grad", "torch.set_grad_enabled(False)\n{o} = {l}({a})\ntorch.set_grad_enabled(True)\n{o} = {o} + {b}")
    yield bad("set_grad_with", "with torch.set_grad_enabled(False):\n    {o} = {l}({a})\n{o} = {o} + {b}")
    yield bad("set_grad_flag", "with torch.set_grad_enabled(not self.training):\n    {o} = {l}({a})\n{o} = {o} + {b}")
    yield bad("inference", "with torch.inference_mode():\n    {o} = {l}({a})\n{o} = {o}.clone() + {b}")
    yield bad("inference_decorator", "{o} = inference_call({l}, {a}).clone() + {b}")
    yield bad("no_grad_view", "with torch.no_grad():\n    {o} = {l}({a})[:, [3, 2, 1, 0]]\n{o} = {o} * torch.sigmoid({b})", "linear")
    yield bad("no_grad_write", "{o} = {b}.clone()\nwith torch.no_grad():\n    {o}.add_({l}({a}))")
    # detach
    yield bad("detach", "{o} = {l}({a}).detach() + {b}")
    yield bad("detach_function", "{o} = torch.detach({l}({a})) + {b}")
    yield bad("detach_", "{o} = {l}({a}) * 2\n{o}.detach_()\n{o} = {o} + {b}")
    yield bad("detach_weight", "{o} = F.linear({a}, {l}.weight.detach(), {l}.bias) + {b}", "linear")
    yield bad("detach_hook", "{o} = {l}({a}) + {b}", init="{l}.register_forward_hook(lambda m, i, out: out.detach())")
    yield bad("detach_pre_hook", "{o} = {l}(self.first{n}({a})) + {b}", init="self.first{n} = nn.Linear(4, 4)\n{l}.register_forward_pre_hook(lambda m, i: (i[0].detach(),))")
    yield bad("data", "{o} = {l}({a}).data + {b}")
    yield bad("data_weight", "{o} = F.linear({a}, {l}.weight.data, {l}.bias.data) + {b}", "linear")
    yield bad("data_copy", "{o} = {b} + 0\n{o}.data.copy_({l}({a}))")
    yield bad("data_add", "{o} = {b} + 0\n{o}.data += {l}({a}).data")
    yield bad("data_set", "{o} = {b} + 0\n{o}.data = {l}({a}).detach()")
    yield bad("detach_write", "{o} = {b} + 0\n{o}.detach().mul_({l}({a}).detach())")
    yield bad("numpy_write", "{o} = {b} + 0\n{o}.detach().numpy()[:, 0] = {l}({a}).detach().numpy()[:, 0]", leaves=True)
    yield bad("variable", "{o} = torch.autograd.Variable({l}({a}).data) + {b}")
    yield bad("new_parameter", "{o} = nn.Parameter({l}({a})) + {b}")
    yield bad("relabel", "{o} = {l}({a}).detach().requires_grad_() + {b}")
    yield bad("deepcopy", "import copy\n{o} = copy.deepcopy({l})({a}) + {b}", "linear")
    yield bad("detached_call", "{o} = torch.func.functional_call({l}, {{k: p.detach() for k, p in {l}.named_parameters()}}, ({a},)) + {b}", "linear")
    yield bad("grad_no_graph", "leaf = {a}.detach().requires_grad_()\n(g,) = torch.autograd.grad(torch.tanh({l}(leaf)).sum(), leaf)\n{o} = g + {b}", "linear")
    yield bad("vmap_detach", "{o} = torch.vmap(lambda row: {l}(row).detach())({a}) + {b}", "linear")
    yield bad("toggled", "{l}.requires_grad_(False)\n{o} = {l}({a})\n{l}.requires_grad_(True)\n{o} = {o} + {b}")
    # values that leave torch
    yield bad("item", "{o} = {b} * {l}({a}).sum().item()", leaves=True)
    yield bad("float", "{o} = {b} + float({l}({a}).mean())", leaves=True)
    yield bad("int", "{o} = {b} * (1 + int(100 * {l}({a}).sum()))", leaves=True)
    yield bad("tolist", "{o} = {b} + torch.tensor({l}({a}).tolist())", leaves=True)
    yield bad("numpy", "{o} = {b} + torch.from_numpy({l}({a}).detach().numpy() * 2)", leaves=True)
    yield bad("numpy_shared", "{o} = torch.from_numpy({l}({a}).detach().numpy()) + {b}", leaves=True)
    yield bad("asarray", "{o} = {b} + torch.as_tensor(np.asarray({l}({a}).data).copy())", leaves=True)
    yield bad("np_function", "{o} = {b} + torch.tensor(np.tanh({l}({a}).detach().numpy()))", leaves=True)
    yield bad("tensor_of_numbers", "{o} = {b} + torch.tensor([float(v) for v in {l}({a})[0]])", leaves=True)
    yield bad("tensor", "{o} = torch.tensor({l}({a})) + {b}")
    yield bad("new_tensor", "{o} = {b}.new_tensor({l}({a})) + {b}")
    yield bad("stacked_items", "{o} = torch.stack([torch.as_tensor(v.item()) for v in {l}({a})[0]]) + {b}", leaves=True)
    # no derivative
    yield bad("argmax", "{o} = {l}({a}).argmax(-1, keepdim=True) * {b}")
    yield bad("round", "{o} = (100 * {l}({a})).round() + {b}")
    yield bad("sign", "{o} = torch.sign({l}({a})) + {b}")
    yield bad("compare", "{o} = ({l}({a}) > 0) * {b}")
    yield bad("compare_float", "{o} = ({l}({a}) > {b}).float() + {b}")
    yield bad("where_condition", "{o} = torch.where({l}({a}) > 0, {b}, -{b})")
    yield bad("mask", "{o} = {b}.masked_fill({l}({a}) > 0, 0.0)")
    yield bad("one_hot", "{o} = F.one_hot({l}({a}).argmax(-1), 4).float() + {b}")
    yield bad("long", "{o} = {b} + (100 * {l}({a})).long()")
    yield bad("floor", "{o} = {b} + torch.floor({l}({a}) * 3)")
    yield bad("normal", "{o} = torch.normal({l}({a}), 0.1) + {b}")
    yield bad("bernoulli", "{o} = torch.bernoulli(torch.sigmoid({l}({a}))) * {b}")
    yield bad("multinomial", "{o} = {b} * torch.multinomial(torch.softmax({l}({a}), -1), 1)")
    yield bad("embed", "{o} = self.table{n}({l}({a}).argmax(-1)) + {b}", init="self.table{n} = nn.Embedding(4, 4)")
    yield bad("topk", "{o} = {b}.gather(1, {l}({a}).topk(4).indices)")
    yield bad("argsort", "{o} = {b}.gather(1, {l}({a}).argsort(-1))")
    yield bad("sample", "{o} = torch.distributions.Normal({l}({a}), 1.0).sample() + {b}")
    yield bad("cast", "{o} = (100 * {l}({a})).to(torch.int64).float() + {b}")
    # Functions and hooks
    yield bad("withheld", "{o} = Withheld.apply({b}, {l}({a}))")
    yield bad("marked", "_, {o} = Marked.apply({l}({a}))\n{o} = {o} + {b}")
    yield bad("zeroed", "{o} = Zeroed.apply({l}({a})) + {b}")
    yield bad("hook_zero", "{o} = {l}({a}) + 0\n{o}.register_hook(torch.zeros_like) if {o}.requires_grad else None\n{o} = {o} + {b}")
    yield bad("reentrant_lost", "{o} = checkpoint({l}, {a}.detach(), use_reentrant=True) + {b}")
    yield bad("scripted_cut", "{o} = scripted_cut({l}({a}), {b})", leaves=True)
    # unused
    yield bad("dropped", "{l}({a})\n{o} = {b} * 2")
    yield bad("shape_only", "{o} = torch.zeros_like({l}({a})) + {b}")
    yield bad("overwritten", "{o} = {l}({a})\n{o} = {b} * 2")
    yield bad("filled", "{o} = {l}({a}) + 0\n{o}.zero_()\n{o} = {o} + {b}")
    yield bad("copied_over", "{o} = {l}({a}) + 0\n{o}.copy_({b})")
    yield bad("unused", "{o} = {b} * 2")
    # only steering
    yield bad("steer_if", "{o} = {b} * 2 if {l}({a}).sum() > 0 else {b} * 3", steers=True)
    yield bad("steer_item", "{o} = {b} * 2 if {l}({a}).sum().item() > 0 else {b} * 3", steers=True, leaves=True)
    yield bad("steer_float", "if float({l}({a}).sum()) > 0:\n    {o} = {b} * 2\nelse:\n    {o} = {b} * 3", steers=True, leaves=True)
    yield bad("steer_named", "k = {l}({a}).sum().item()\n{o} = {b} * 2\nif k > 0:\n    {o} = {b} * 3", steers=True, leaves=True)
    yield bad("steer_bool", "flag = bool({l}({a}).sum() > 0)\n{o} = {b} * 2 if flag else {b} * 3", steers=True)
    yield bad("steer_any", "{o} = {b}\nif ({l}({a}) > 0.5).any():\n    {o} = {o} * 2", steers=True)
    yield bad("steer_while", "gate = {l}({a}).abs().sum()\n{o} = {b}\nwhile gate > 1:\n    gate = gate / 2\n    {o} = {o} * 1.5", steers=True)
# fmt: on

TEMPLATES = {template.name: template for template in _templates()}
"""Name → template."""
