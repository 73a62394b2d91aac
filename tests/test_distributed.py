"""Models that are sharded or wrapped for several processes, in one process on torch's fake process group."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from cases import each
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import gradlint
from gradlint.recorder.hooks.sharding import MODULES

if not dist.is_available() or torch.__version__.startswith(("2.4.", "2.5.")):
    pytest.skip("this torch shards nothing on the CPU", allow_module_level=True)

Setup = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def two_ranks() -> Iterator[None]:
    fake = importlib.import_module("torch.testing._internal.distributed.fake_pg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=2)
        yield
        dist.destroy_process_group()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    def __init__(self, cuts: bool = False) -> None:
        super().__init__()
        self.cuts = cuts
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](self.first(x))
        if self.cuts:
            x = x.detach()
        return self.head(self.blocks[1](x))


def shard(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def split(model: nn.Module) -> nn.Module:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def flatten(model: nn.Module, use_orig_params: bool = True) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    policy, cpu = ModuleWrapPolicy({Block}), torch.device("cpu")
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=use_orig_params, device_id=cpu)


def flatten_whole(model: nn.Module) -> nn.Module:
    return flatten(model, use_orig_params=False)


def with_loss(model: nn.Module, optimizer: Any = None) -> Setup:
    optimizer = optimizer or torch.optim.AdamW(model.parameters())
    return {"model": model, "optimizer": optimizer, "inputs": torch.randn(3, 4), "loss": lambda out: out.square().sum()}


def with_step(model: nn.Module, optimizer: Any = None) -> Setup:
    optimizer = optimizer or torch.optim.AdamW(model.parameters())
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 0])

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}


def found(build: Callable[[], Any]) -> list[tuple[str, list[str]]]:
    report = gradlint.check(build)
    assert not report.errors
    return [(f.code, sorted(f.parameters)) for f in report.findings]


BEFORE = [f"{layer}.{name}" for layer in ("blocks.0.down", "blocks.0.up", "first") for name in ("bias", "weight")]
FORMS = [with_loss, with_step]
CLEAN = [
    *((form, way) for form in FORMS for way in (shard, split, flatten, flatten_whole)),
]


@each(("form", "way"), CLEAN)
def test_a_model_that_trains_is_clean(form: Callable[..., Setup], way: Callable[..., nn.Module]) -> None:
    assert found(lambda: form(way(Net()))) == []


@each(("form", "way"), [(form, way) for form in FORMS for way in (shard, split)])
def test_a_cut_is_found_behind_sharding(form: Callable[..., Setup], way: Callable[..., nn.Module]) -> None:
    assert found(lambda: form(way(Net(cuts=True)))) == [("GL401", BEFORE)]


@each("form", FORMS)
def test_an_optimizer_made_before_sharding_holds_nothing_of_the_model(form: Callable[..., Setup]) -> None:
    def build() -> Setup:
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters())
        return form(shard(model), optimizer)

    assert [code for code, _ in found(build)] == ["GL304"]


def test_frozen_shards_are_frozen() -> None:
    def build() -> Setup:
        model = Net()
        model.first.requires_grad_(False)
        model = shard(model)
        return with_step(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))

    report = gradlint.check(build)
    assert not report.findings and (report.targets[0].frozen, report.targets[0].reached) == (2, 10)


def test_shards_and_hooks_of_torch_are_as_before() -> None:
    model = shard(Net())
    held = list(model.parameters())
    setup = with_step(model)
    setup["step"]()
    for form in (with_loss(model, setup["optimizer"]), setup):
        assert not gradlint.check(form).findings
        assert all(a is b for a, b in zip(held, model.parameters(), strict=True))
        setup["step"]()


def test_what_a_flat_parameter_hides_is_said() -> None:
    report = gradlint.check(lambda: with_step(flatten(Net(cuts=True))))
    assert any("fully_shard" in note.message for note in report.notes), report.notes


@each("form", FORMS)
def test_synchronized_batch_norm_is_recorded_without_a_gpu(form: Callable[..., Setup]) -> None:
    def build() -> Setup:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        return form(nn.SyncBatchNorm.convert_sync_batchnorm(model))

    assert found(build) == []


def test_torch_gathers_where_it_is_followed() -> None:
    shard(Net())
    modules = [importlib.import_module(name) for name in MODULES if importlib.util.find_spec(name) is not None]
    assert modules and all("to_unsharded" in vars(module.FSDPParam) for module in modules)
