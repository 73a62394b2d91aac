"""``gradlint.record``, the callbacks, and what the frameworks' own objects are understood as."""

from __future__ import annotations

import builtins
import gc
import logging
import os
import sys
import textwrap
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

import gradlint
import gradlint.recorder.calls.values
from gradlint import TrainingFault, UsageError


class Loop:
    """A small model that trains."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.x, self.y = torch.randn(6, 4), torch.randn(6, 2)

    def train(self, steps=4, clear=True):
        for _ in range(steps):
            if clear:
                self.optimizer.zero_grad()
            nn.functional.mse_loss(self.model(self.x), self.y).backward()
            self.optimizer.step()


def codes(report) -> list[str]:
    """The codes of the findings."""
    return [f.code for f in report.findings]


def test_block_is_judged_at_its_lines():
    loop = Loop()
    with gradlint.record(loop.model, optimizer=loop.optimizer) as recording:
        loop.train(clear=False)
    (finding,) = gradlint.check(recording).findings
    assert finding.code == "GL501"
    assert finding.location.line == Loop.train.__code__.co_firstlineno + 4


def test_right_block_is_clean_and_says_what_was_seen():
    loop = Loop()
    with gradlint.record(loop.model, optimizer=loop.optimizer) as recording:
        loop.train()
    report = gradlint.check(recording)
    assert report.clean and report.targets[0].trainable == 4 and report.targets[0].reached == 4


def test_model_and_optimizer_are_found():
    loop = Loop()
    with gradlint.record() as recording:
        loop.train(clear=False)
    assert codes(gradlint.check(recording)) == ["GL501"]


def test_decorated_function_holds_the_last_trace():
    loop = Loop()

    @gradlint.record(loop.model, optimizer=loop.optimizer)
    def train(clear):
        loop.train(clear=clear)
        return "done"

    assert train(True) == "done" and gradlint.check(train.trace).clean
    train(False)
    assert codes(gradlint.check(train.trace)) == ["GL501"]


def test_a_decorated_function_that_calls_itself_is_told_why_that_cannot_be_recorded():
    @gradlint.record()
    def twice(more):
        if more:
            twice(False)

    with pytest.raises(gradlint.UsageError, match="has begun already"):
        twice(True)


def test_the_block_runs_on_after_the_recording():
    loop, other = Loop(), Loop()
    with gradlint.record(loop.model, optimizer=loop.optimizer, steps=2) as recording:
        loop.train(5)
    other.train(5)
    assert len(recording.trace.training.steps) == 2
    assert all(torch.equal(p, q) for p, q in zip(loop.model.parameters(), other.model.parameters(), strict=True))


def test_all_steps_are_recorded_on_demand():
    loop = Loop()
    with gradlint.record(loop.model, optimizer=loop.optimizer, steps=None) as recording:
        loop.train(7)
    assert len(recording.trace.training.steps) == 7


def test_hooks_and_modes_are_gone_after_an_exception():
    loop, call = Loop(), nn.Module.__call__
    with pytest.raises(ZeroDivisionError), gradlint.record(loop.model, optimizer=loop.optimizer):
        loop.train(1)
        1 / 0  # noqa: B018
    assert nn.Module.__call__ is call and torch.overrides._get_current_function_mode_stack() == []
    assert not any(p._post_accumulate_grad_hooks for p in loop.model.parameters())


def _patchable() -> dict[str, object]:
    """All that a recording may put something into: attributes, hooks, modes."""
    schedulers = [LRScheduler, *vars(lr_scheduler).values()]
    owners = [
        Optimizer, nn.Module, nn.Parameter, type(nn.Parameter), type(torch.autograd.Variable), torch.autograd,
        torch.Tensor, torch.amp.GradScaler, torch.autograd.grad_mode.inference_mode, torch.overrides, threading.Thread,
        os, sys, builtins, *(s for s in schedulers if isinstance(s, type)), torch.optim.SGD, torch.optim.Adam,
    ]  # fmt: skip
    found: dict[str, object] = {f"{o}.{name}": value for o in owners for name, value in vars(o).items()}
    for place in (torch.nn.modules.module, sys.modules[Optimizer.__module__]):
        for name, value in vars(place).items():
            found[f"{place.__name__}.{name}"] = dict(value) if isinstance(value, dict) else value
    found["function modes"] = torch.overrides._get_current_function_mode_stack()
    found["profile"] = sys.getprofile()
    if sys.version_info >= (3, 12):
        found["tools"] = [sys.monitoring.get_tool(i) for i in range(6)]
    return found


@pytest.mark.parametrize("ending", ["block", "enough", "step in a mode of its own", "steps without a forward"])
def test_nothing_is_left_patched_once_recording_has_ended(ending):
    loop = Loop()
    before = _patchable()
    recording = gradlint.record(loop.model, optimizer=loop.optimizer, steps=2)
    with recording:
        if ending == "block":
            loop.train(1)
        elif ending == "enough":
            loop.train(3)
            assert _patchable() == before  # although the block goes on
        elif ending == "step in a mode of its own":
            with torch.device("cpu"):
                loop.train(3)
        else:
            loop.train(2)
            loop.optimizer.step()
            loop.train(1)
    assert _patchable() == before
    for parameter in loop.model.parameters():
        assert not parameter._post_accumulate_grad_hooks and not parameter._backward_hooks
    observation = weakref.ref(recording.trace)
    del recording
    gc.collect()
    assert observation() is None


def test_a_fault_of_gradlints_own_is_told_and_leaves_training_alone(monkeypatch):
    loop, other = Loop(), Loop()
    other.train(4)
    with gradlint.record(loop.model, optimizer=loop.optimizer) as recording:
        loop.train(1)
        monkeypatch.setattr(gradlint.recorder.calls.values.Tensors, "add", None)
        loop.train(3)
    report = gradlint.check(recording)
    assert [e.message for e in report.errors] == [
        "gradlint itself failed while it recorded (TypeError: 'NoneType' object is not callable); please report it"
    ]
    assert all(torch.equal(p, q) for p, q in zip(loop.model.parameters(), other.model.parameters(), strict=True))


def test_wrong_arguments_are_told():
    with pytest.raises(UsageError, match="optimizer"):
        gradlint.record(Loop().model, optimizer="adam")


def trainer(tmp_path, *, cut=False, callbacks=()):
    """A Hugging Face Trainer of a tiny BERT."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertForSequenceClassification(config)
    if cut:
        model.bert.embeddings.register_forward_hook(lambda module, args, output: output.detach())
    data = [{"input_ids": torch.randint(0, 50, (8,)), "labels": torch.tensor(i % 2)} for i in range(16)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=4, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks))


@pytest.mark.filterwarnings("ignore")
def test_trainer_is_understood_as_what_build_returns(tmp_path):
    pytest.importorskip("transformers")
    report = gradlint.check(lambda: trainer(tmp_path, cut=True), name="trainer")
    assert not report.errors and codes(report) == ["GL401"]
    assert all(name.startswith("bert.embeddings.") for name in report.findings[0].parameters)


@pytest.mark.filterwarnings("ignore")
def test_transformers_callback_logs(tmp_path, caplog):
    pytest.importorskip("accelerate")
    from gradlint.integrations.transformers import GradlintCallback

    callback = GradlintCallback(steps=2)
    with caplog.at_level(logging.WARNING, "gradlint"):
        trainer(tmp_path, cut=True, callbacks=[callback]).train()
    assert codes(callback.watch.report) == ["GL401"]
    assert "GL401" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_transformers_callback_raises(tmp_path):
    pytest.importorskip("accelerate")
    from gradlint.integrations.transformers import GradlintCallback

    with pytest.raises(TrainingFault, match="GL401"):
        trainer(tmp_path, cut=True, callbacks=[GradlintCallback("raise", steps=2)]).train()
    assert torch.overrides._get_current_function_mode_stack() == []


LIT = """
    import lightning.pytorch as L
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Lit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.enc, self.dec = nn.Linear(4, 8), nn.Linear(8, 2)

        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.randn(16, 4), torch.randn(16, 2)), 4)

        def training_step(self, batch, number):
            x, y = batch
            return nn.functional.mse_loss(self.dec(self.enc(x).detach()), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3)
    """


@pytest.mark.filterwarnings("ignore")
def test_lightning_module_is_understood_as_what_build_returns(tmp_path):
    pytest.importorskip("lightning")
    (tmp_path / "lit.py").write_text(textwrap.dedent(LIT) + "\ndef build():\n    return Lit()\n")
    report = gradlint.check(f"{tmp_path / 'lit.py'}:build")
    assert not report.errors and codes(report) == ["GL401"]
    assert report.findings[0].parameters == ("enc.weight", "enc.bias")


@pytest.mark.filterwarnings("ignore")
def test_lightning_callback_raises(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from gradlint.integrations.lightning import GradlintCallback

    scope: dict = {}
    exec(compile(textwrap.dedent(LIT), "lit.py", "exec"), scope)
    fit = lightning.Trainer(
        max_steps=5, logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False,
        callbacks=[GradlintCallback("raise")],
    )  # fmt: skip
    with pytest.raises(TrainingFault, match="GL401"):
        fit.fit(scope["Lit"]())


def test_what_a_step_computed_is_freed_without_the_collector():
    """A recording that kept outputs until the next collection would take the memory of several steps."""
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    gc.disable()
    try:
        with gradlint.record(model):
            output = model(x)
            output.sum().backward()
            freed = weakref.ref(output)
            del output
            assert freed() is None
    finally:
        gc.enable()


class _Marker:
    """Something of the user's, of which the holders can be counted."""


def _holders(thing) -> int:
    return len([r for r in gc.get_referrers(thing) if isinstance(r, dict)])


def _calls_of_every_kind(model, marker):
    """Call what makes the recorder look into this function's frame; return what holds `marker` afterwards."""
    layer, x = model, torch.randn(3, 4)
    layer(x).pow(2).mean().backward()
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], 0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    return _holders(marker)


def test_reading_a_frame_keeps_none_of_its_variables_alive():
    """Up to Python 3.12, reading ``f_locals`` leaves a dict of all variables on the frame."""
    marker = _Marker()
    plain = _calls_of_every_kind(nn.Linear(4, 2), marker)
    with gradlint.record():
        recorded = _calls_of_every_kind(nn.Linear(4, 2), marker)
    assert recorded == plain


def test_a_dict_that_the_user_got_from_locals_keeps_its_content():
    def train(width):
        options = locals()
        model = nn.Linear(width, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(torch.randn(3, width)).sum().backward()
        optimizer.step()
        return options

    with gradlint.record():
        assert train(4)["width"] == 4


def _threads_noted(before=lambda model: None, during=lambda model: None) -> bool:
    """Record a training with work in a thread before it and in each step; return True if a note tells of a thread."""

    def in_thread(work, model):
        thread = threading.Thread(target=work, args=(model,))
        thread.start()
        thread.join()

    loop = Loop()
    with gradlint.record() as recording:
        in_thread(before, loop.model)
        for _ in range(3):
            loop.train(steps=1)
            in_thread(during, loop.model)
    return any("thread" in note.message for note in gradlint.check(recording).notes)


def test_a_thread_that_loads_weights_before_training_is_no_note():
    assert not _threads_noted(before=lambda model: nn.init.zeros_(model[0].bias))


def test_a_thread_that_prepares_data_is_no_note():
    assert not _threads_noted(during=lambda model: torch.randn(3, 4).mul_(2).mean())


def test_a_thread_that_reads_a_shape_is_no_note():
    assert not _threads_noted(during=lambda model: model[0].weight.shape.numel())


def test_a_thread_that_computes_with_parameters_during_training_is_noted():
    assert _threads_noted(during=lambda model: model[0].weight.norm())


def test_a_thread_that_writes_parameters_during_training_is_noted():
    assert _threads_noted(during=lambda model: model[0].weight.data.mul_(0.9))


def test_a_thread_keeps_its_own_run_method():
    found = []

    class Worker(threading.Thread):
        def run(self):
            found.append(vars(self).get("run"))

    with gradlint.record():
        worker = Worker()
        worker.start()
        worker.join()
    assert found == [None]


class _Solver(nn.Module):
    """Wraps a network, as solvers do for each call."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + x


def _names_found(model, call):
    """Record a training of a model; return the names of the parameters that were found."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradlint.record() as recording:
        for _ in range(3):
            optimizer.zero_grad()
            call(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    return [name for p in recording.trace.parameters for name in p.aliases]


def test_a_network_that_each_call_wraps_anew_has_one_name():
    network = nn.Linear(4, 4)
    assert _names_found(network, lambda x: _Solver(network)(x)) == ["weight", "bias"]


def test_a_part_that_is_wrapped_anew_has_the_name_of_the_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    names = _names_found(model, lambda x: model(x) + _Solver(model[0])(x))
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_networks_that_share_a_part_keep_their_names():
    body = nn.Linear(4, 4)
    nets = nn.ModuleList([nn.Sequential(body, nn.Linear(4, 2)), nn.Sequential(body, nn.Linear(4, 2))])
    first, second = nets
    names = _names_found(nets, lambda x: first(x) - second(x))
    assert len(names) == 8


class _OwnParameters(nn.Module):
    """A module that defines ``parameters()`` itself, and takes no arguments."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(2))])

    def forward(self, x):
        return nn.functional.linear(x, *self.weights)

    def parameters(self):
        return self.weights


def test_a_module_may_define_parameters_itself():
    class Meta(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _OwnParameters()

        def forward(self, x):
            return self.net(x)

    model = Meta()
    optimizer = torch.optim.SGD(model.net.parameters(), 0.1)
    with gradlint.record() as recording:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    assert gradlint.check(recording).findings == []


def test_buffers_that_a_functional_call_puts_in_are_not_compared() -> None:
    """A batch of networks under vmap: the recording begins while their buffers are torch.func's wrappers."""
    networks = [torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).eval() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(networks)
    x = torch.randn(5, 4)

    def run(p: Any, b: Any) -> Any:
        return torch.func.functional_call(networks[0], (p, b), (x,))

    with gradlint.record() as recording:
        optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            torch.vmap(run)(parameters, buffers).sum().backward()
            optimizer.step()
    assert not gradlint.check(recording).errors


def test_write_to_many_tensors_reads_each_of_its_own():
    def build():
        one, other = nn.Linear(4, 2), nn.Linear(4, 2)
        with torch.no_grad():
            torch._foreach_lerp_(list(one.parameters()), list(other.parameters()), 0.5)
        return {"model": nn.ModuleDict({"one": one, "other": other}), "step": lambda: None}

    trace = gradlint.trace(build)
    read = {
        p.fqn: {trace.owners[v] for w in p.writes for v in w.sources if v in trace.owners} for p in trace.parameters
    }
    assert read["one.weight"] == {trace.by_fqn["other.weight"].index}
    assert read["one.bias"] == {trace.by_fqn["other.bias"].index}
