"""Code hard-wired to CUDA runs on a machine without it."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from torch import nn
from torch.overrides import TorchFunctionMode

from gradlint.recorder.cuda import CpuStandIn, names_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the stand-in is for machines without CUDA")

CUDA: Any = torch.cuda


class Rewriting(TorchFunctionMode):
    """The smallest mode that hands calls to the stand-in."""

    def __init__(self, stand_in: CpuStandIn) -> None:
        super().__init__()
        self.stand_in = stand_in

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in CpuStandIn.functions or not CpuStandIn.keywords.isdisjoint(kwargs):
            call = self.stand_in.rewrite(func, args, kwargs)
            if call is not None:
                func, args, kwargs = call
        return func(*args, **kwargs)


@pytest.fixture
def stand_in() -> Iterator[CpuStandIn]:
    with CpuStandIn() as it, Rewriting(it):
        yield it


def _autocast() -> torch.Tensor:
    with torch.autocast("cuda"):
        return torch.ones(2, device="cuda")


def _default_device() -> torch.Tensor:
    torch.set_default_device("cuda")
    try:
        return nn.Linear(2, 2).weight
    finally:
        torch.set_default_device(None)


def _with_device() -> torch.Tensor:
    with torch.device("cuda"):
        return torch.zeros(2)


def _load() -> torch.Tensor:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer)
    buffer.seek(0)
    loaded: torch.Tensor = torch.load(buffer, map_location="cuda:0")["w"]
    return loaded


def _loader() -> torch.Tensor:
    data = torch.utils.data.TensorDataset(torch.ones(4, 2))
    (batch,) = next(iter(torch.utils.data.DataLoader(data, batch_size=2, pin_memory=True)))
    return batch.to("cuda", non_blocking=True)  # type: ignore[no-any-return]


def _streams() -> torch.Tensor:
    stream = CUDA.Stream()
    with torch.cuda.stream(stream), torch.cuda.device(0):
        x = torch.ones(2).cuda()
    torch.cuda.current_stream().wait_stream(stream)
    x.record_stream(stream)
    torch.cuda.synchronize()
    return x


CALLS: dict[str, Callable[[], Any]] = {
    "tensor.cuda": lambda: torch.ones(2).cuda(),
    "tensor.cuda with index": lambda: torch.ones(2).cuda(0, non_blocking=True),
    "tensor.to string": lambda: torch.ones(2).to("cuda:0"),
    "tensor.to device": lambda: torch.ones(2).to(torch.device("cuda"), torch.float64),
    "tensor.to keyword": lambda: torch.ones(2).to(device="cuda", dtype=torch.float64),
    "tensor.to index": lambda: torch.ones(2).to(0),
    "tensor.type": lambda: torch.ones(2).type("torch.cuda.LongTensor"),
    "tensor.type class": lambda: torch.ones(2).type(CUDA.FloatTensor),
    "factory": lambda: torch.zeros(2, device="cuda"),
    "factory index": lambda: torch.zeros(2, device=0),
    "tensor": lambda: torch.tensor([1.0], device=torch.device("cuda", 0)),
    "new_zeros": lambda: torch.ones(1).new_zeros(2, device="cuda"),
    "pin_memory": lambda: torch.ones(2).pin_memory(),
    "pinned factory": lambda: torch.zeros(2, pin_memory=True),
    "module.cuda": lambda: nn.Linear(2, 2).cuda().weight,
    "module.to": lambda: nn.Sequential(nn.BatchNorm1d(2)).to("cuda")[0].weight,
    "module.to index": lambda: nn.Linear(2, 2).to(0).weight,
    "module made there": lambda: nn.Linear(2, 2, device="cuda").weight,
    "generator": lambda: torch.randn(2, generator=torch.Generator("cuda"), device="cuda"),
    "autocast": _autocast,
    "default device": _default_device,
    "with device": _with_device,
    "load": _load,
    "loader": _loader,
    "streams": _streams,
}


def test_a_process_group_of_gpus_is_one_of_cpus(stand_in: CpuStandIn, tmp_path: Path) -> None:
    distributed: Any = torch.distributed
    distributed.init_process_group("nccl", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cuda", (1,))
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2).to(0), device_ids=[0], output_device=0)
        model(torch.ones(2, 2, device="cuda")).sum().backward()
        assert (distributed.get_backend(), mesh.device_type, model.module.weight.grad is None) == ("gloo", "cpu", False)
    finally:
        distributed.destroy_process_group()
    assert stand_in.used


@pytest.mark.filterwarnings("ignore")
@each("name", CALLS)
def test_runs_on_the_cpu(stand_in: CpuStandIn, name: str) -> None:
    assert CALLS[name]().device.type == "cpu"


@each("name", sorted(set(CALLS) - {"tensor.type class"}))
@pytest.mark.filterwarnings("ignore")
def test_use_is_noted(stand_in: CpuStandIn, name: str) -> None:
    CALLS[name]()
    assert stand_in.used


@each("ask", ["current_device", "get_device_name", "get_device_properties", "mem_get_info", "init"])
def test_questions_are_answered(stand_in: CpuStandIn, ask: str) -> None:
    getattr(torch.cuda, ask)()


def test_what_libraries_ask_in_every_forward_asks_for_no_cuda(stand_in: CpuStandIn) -> None:
    assert (torch.cuda.is_current_stream_capturing(), stand_in.used) == (False, False)


def test_events_measure_time(stand_in: CpuStandIn) -> None:
    start, end = CUDA.Event(enable_timing=True), CUDA.Event(enable_timing=True)
    start.record()
    end.record()
    assert start.elapsed_time(end) >= 0


def test_truth_is_told(stand_in: CpuStandIn) -> None:
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == (False, 0)


def test_moved_leaf_is_no_leaf(stand_in: CpuStandIn) -> None:
    assert not torch.ones(2, requires_grad=True).cuda().is_leaf


def test_parameter_moved_with_its_module_stays(stand_in: CpuStandIn) -> None:
    weight = nn.Linear(2, 2).cuda().weight
    assert weight.cuda() is weight


def test_ordinary_calls_are_left_alone(stand_in: CpuStandIn) -> None:
    torch.ones(2, device="cpu").to(torch.float64).to("cpu").type(torch.float32)
    assert not stand_in.used


def test_generators_stay_generators(stand_in: CpuStandIn) -> None:
    assert isinstance(torch.default_generator, torch.Generator)


def _public() -> dict[str, Any]:
    from torch.utils._device import DeviceContext

    own = {f"cuda.{k}": v for k, v in vars(torch.cuda).items()} | {
        f"nvtx.{k}": v for k, v in vars(torch.cuda.nvtx).items()
    }
    own |= {f"memory.{k}": v for k, v in vars(torch.cuda.memory).items()}
    own |= {f"storage.{k}": v for k, v in vars(torch.UntypedStorage).items()}
    return own | {"load": torch.load, "Generator": torch.Generator, "context": DeviceContext.__init__}


def test_everything_is_put_back_after_an_exception() -> None:
    before = _public()
    with pytest.raises(KeyError), CpuStandIn():
        raise KeyError
    assert _public() == before


def test_modules_imported_meanwhile_keep_no_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch.cuda import Event\nimport torch\nclass Device:\n    Stream = torch.cuda.Stream\n"
    (tmp_path / "takes_cuda_over.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    real_event = CUDA.Event
    with CpuStandIn():
        module = importlib.import_module("takes_cuda_over")
        assert module.Event is not real_event
    monkeypatch.delitem(sys.modules, "takes_cuda_over")
    assert module.Event is real_event
    assert module.Device.Stream is CUDA.Stream


def test_outside_the_context_nothing_is_rewritten() -> None:
    assert CpuStandIn().rewrite(torch.Tensor.cuda, (torch.ones(1),), {}) is None


@each(
    ("device", "index", "expected"),
    [
        ("cuda", False, True),
        ("cuda:1", False, True),
        ("cpu", True, False),
        (torch.device("cuda"), False, True),
        (0, True, True),
        (0, False, False),
        (True, True, False),
        (None, True, False),
    ],
)
def test_names_cuda(device: Any, index: bool, expected: bool) -> None:
    assert names_cuda(device, index) is expected
