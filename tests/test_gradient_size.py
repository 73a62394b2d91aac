"""Steps of training for the sake of measuring: three kinds of gradient are told apart, and nothing is left changed."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from table import FIXTURES
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradlint
from gradlint.engine import check as engine
from gradlint.experiments import gradient_size
from gradlint.flow.flow import Flow


class Net(nn.Module):
    """`body` trains, `stuck` and `after` are both zero, `idle` is unused."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.stuck = nn.Linear(4, 4, bias=False)
        self.after = nn.Linear(4, 2, bias=False)
        self.head = nn.Linear(4, 2)
        self.idle = nn.Linear(4, 2)
        nn.init.zeros_(self.stuck.weight)
        nn.init.zeros_(self.after.weight)

    def forward(self, x):
        h = self.body(x)
        return self.head(h) + self.after(self.stuck(h))


def setup():
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    x = torch.randn(6, 4)
    net(x).sum().backward()
    optimizer.step()  # with a state, and gradients left from it
    return {"model": net, "inputs": (x,), "optimizer": optimizer, "loss": lambda out: out.square().mean()}


def measured(made):
    with engine.record_made(made, engine.Options()) as recorded:
        trace = recorded.trace
        found = gradient_size.measure(trace, recorded.replay, Flow(trace).judged)
        return {trace.parameters[i].fqn: g for i, g in found.gradients.items()}, found


def everything(made):
    model, optimizer = made["model"], made["optimizer"]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    states = {f"{i}.{k}": v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    return {name: t.detach().clone() for name, t in {**tensors, **grads, **states}.items()}


def test_none_zero_and_alive_are_three_things():
    gradients, _ = measured(setup())
    assert not any(name.startswith("idle.") for name in gradients)  # it gets no gradient at all
    assert gradients["stuck.weight"].zero and gradients["after.weight"].zero
    assert all(gradients["head.weight"].sizes)


def test_what_opens_up_later_is_not_zero():
    made = setup()
    nn.init.normal_(made["model"].stuck.weight)
    gradients, found = measured(made)
    assert gradients["stuck.weight"].sizes[0] == 0.0 and not gradients["stuck.weight"].zero
    assert found.steps == gradient_size.STEPS


def test_the_call_that_stops_it_is_named():
    gradients, _ = measured(setup())
    stop = gradients["stuck.weight"].stop
    assert (stop.name, stop.zeros, stop.single) == ("linear", True, False)


def test_everything_is_put_back_bit_for_bit():
    made = setup()
    before, versions = everything(made), {n: p._version for n, p in made["model"].named_parameters()}
    modes = {n: m.training for n, m in made["model"].named_modules()}
    random = torch.get_rng_state()
    report = gradlint.check(made, numeric=True)
    after = everything(made)
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert {n: p._version for n, p in made["model"].named_parameters()} == versions
    assert {n: m.training for n, m in made["model"].named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert [f.code for f in report.findings if f.code == "GL605"] and not report.errors
    assert not [n for n in report.notes if "put back" in n.message]


def test_gradients_are_measured_on_request_only():
    report = gradlint.check(setup())
    assert "GL605" not in {f.code for f in report.findings}
    assert "gradients are measured with --numeric only" in {s.reason for s in report.skipped if s.code == "GL605"}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.LBFGS])
def test_any_optimizer_will_do(optimizer):
    made = setup()
    made["optimizer"] = optimizer(made["model"].parameters(), lr=1e-3)
    kept = copy.deepcopy(made["model"].state_dict())
    assert "GL605" in {f.code for f in gradlint.check(made, numeric=True).findings}
    assert all(torch.equal(t, kept[n]) for n, t in made["model"].state_dict().items())


def test_optimizers_that_step_in_the_backward_do_not_step():
    made = setup()
    steps = []
    for p in made["model"].parameters():
        p.register_post_accumulate_grad_hook(steps.append)
    gradients, _ = measured(made)
    assert not steps and gradients["stuck.weight"].zero


class Checkpointed(nn.Linear):
    """Only a real backward tells what is inside of a reentrant checkpoint."""

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=True)


def test_optimizers_that_step_in_the_backward_do_not_step_in_a_proof():
    model, steps = Checkpointed(3, 2), []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(steps.append)
    x = torch.randn(2, 3, requires_grad=True)
    assert gradlint.check({"model": model, "inputs": (x,)}).clean and not steps
    model(x).sum().backward()
    assert len(steps) == 2


def test_sparse_and_half_gradients_are_measured():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2))
    made = {"model": model.to(torch.bfloat16), "inputs": (torch.tensor([[0, 1], [2, 2]]),)}
    gradients, found = measured(made)
    assert not found.failure and all(all(g.sizes) for g in gradients.values())


def test_a_run_that_fails_is_said():
    calls = []

    class Once(nn.Linear):
        def forward(self, x):
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError("only once")
            return super().forward(x)

    report = gradlint.check({"model": Once(3, 2), "inputs": (torch.randn(2, 3),)}, numeric=True)
    assert any("only once" in n.message for n in report.notes) and not report.errors


class TwoOutputs(nn.Linear):
    def forward(self, x):
        out = super().forward(x)
        return out, out.detach()


def test_an_output_without_gradient_beside_another_is_left_out():
    gradients, found = measured({"model": TwoOutputs(3, 2), "inputs": (torch.randn(2, 3),)})
    assert not found.failure and all(all(g.sizes) for g in gradients.values())


def test_a_zero_behind_nan_is_no_zero():
    made = {"model": nn.Linear(3, 2), "inputs": (torch.full((2, 3), float("nan")),)}
    gradients, _ = measured({**made, "loss": lambda out: out.clamp(min=0).sum()})
    assert gradients["bias"].sizes[0] is None


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return x * self.w.sqrt()


@pytest.mark.parametrize("loss", [None, lambda out: out.sum()])
def test_only_a_loss_is_asked_where_its_gradient_becomes_infinite(loss):
    made = {"model": Root(), "inputs": (torch.ones(3),)}
    _, found = measured(made if loss is None else {**made, "loss": loss})
    assert bool(found.spoilt) is (loss is not None)


def test_a_recording_without_a_forward_measures_nothing():
    with engine.record_made(setup(), engine.Options()) as recorded:
        found = gradient_size.measure(dataclasses.replace(recorded.trace, roots=[]), recorded.replay, ())
    assert found.failure == "no forward was run"


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "single"),
    [
        ("softmax", (torch.ones(2, 1), 1), {}, True),
        ("softmax", (torch.ones(2, 1),), {"dim": -1}, True),
        ("softmax", (torch.ones(2, 3), 1), {}, False),
        ("softmax", (torch.ones(2, 1), None), {}, False),
        ("softmax", (torch.ones(()), 0), {}, False),
        ("scaled_dot_product_attention", (torch.ones(1, 3, 2), torch.ones(1, 1, 2)), {}, True),
        ("scaled_dot_product_attention", (torch.ones(1, 1, 2), torch.ones(1, 3, 2)), {}, False),
        ("scaled_dot_product_attention", (torch.ones(1, 3, 2),), {"key": torch.ones(1, 1, 2)}, True),
    ],
)
def test_a_softmax_over_one_element_is_told(name, args, kwargs, single):
    assert gradient_size._single(name, args[0], args, kwargs) is single


def test_a_set_up_with_nothing_but_a_step_says_what_to_add():
    made = setup()
    model, optimizer = made["model"], made["optimizer"]

    def step():
        optimizer.zero_grad()
        model(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()

    with engine.record_made({"model": model, "optimizer": optimizer, "step": step}, engine.Options()) as recorded:
        report = engine.check_trace(recorded.trace, [], engine.Options(numeric=True))
    assert "no gradient was measured: the step is not run again: give 'inputs' and 'loss' beside 'step'" in [
        note.message for note in report.notes
    ]


def test_command_line(tmp_path):
    from click.testing import CliRunner

    from gradlint.cli.app import app

    target = f"{FIXTURES / 'zero_gradient.py'}:bad_two_zero_convolutions_in_a_row"
    plain = CliRunner().invoke(app, ["check", target, "--output-format", "concise"], standalone_mode=False)
    asked = CliRunner().invoke(app, ["check", target, "--numeric", "--output-format", "concise"], standalone_mode=False)
    assert (plain.return_value, asked.return_value) == (0, 1)
    assert "GL605" in asked.output
