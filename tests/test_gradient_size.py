"""Steps of training for the sake of measuring: three kinds of gradient are told apart, and nothing is left changed."""

from __future__ import annotations

import copy

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
