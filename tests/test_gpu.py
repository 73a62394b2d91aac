"""Training on a GPU: what is found there is what is found on the CPU, and nothing is changed.

The scripts name CUDA. Where there is none, `gradlint run` gives them stand-ins.
What `check` does is tried on a GPU only.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from script import codes, run
from torch import nn

import gradlint

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

HEAD = """
import torch
from torch import nn
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self, cuts):
        super().__init__()
        self.body, self.head, self.cuts = nn.Linear(8, 8), nn.Linear(8, 2), cuts
    def forward(self, x):
        x = self.body(x).tanh()
        return self.head(x.detach() if self.cuts else x)
"""

STEPS = {
    "plain": """
        model = Net(CUTS).cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(4, 2).cuda(non_blocking=True)
        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        """,
    "fused": """
        model = Net(CUTS).to("cuda:0")
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=torch.cuda.is_available())
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(4, 2, device="cuda")
        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        """,
    "capturable": """
        model = Net(CUTS).cuda()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2, capturable=torch.cuda.is_available())
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(4, 2, device="cuda")
        def step():
            optimizer.zero_grad(set_to_none=False)
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        """,
    "mixed precision": """
        model = Net(CUTS).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(4, 2, device="cuda")
        def step():
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16 if torch.cuda.is_available() else torch.bfloat16):
                loss = nn.functional.mse_loss(model(x).float(), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        """,
    "pinned": """
        from torch.utils.data import DataLoader, TensorDataset
        model = Net(CUTS).cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        loader = DataLoader(TensorDataset(torch.randn(8, 8), torch.randn(8, 2)), batch_size=4, pin_memory=True)
        def step():
            for x, y in loader:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x.to("cuda", non_blocking=True)), y.cuda(non_blocking=True)).backward()
                optimizer.step()
        """,
    "a stream": """
        model = Net(CUTS).cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        stream = torch.cuda.Stream()
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(4, 2, device="cuda")
        def step():
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
        """,
    "data parallel": """
        model = Net(CUTS).cuda()
        parallel = nn.DataParallel(model) if torch.cuda.is_available() else model
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(4, 2, device="cuda")
        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(parallel(x), y).backward()
            optimizer.step()
        """,
}
"""A name → how a step is taken; without CUDA, what has no stand-in is left out."""
CASES = [
    *((name, cuts) for name in ("plain", "mixed precision") for cuts in (False, True)),
    *(
        pytest.param(name, cuts, marks=pytest.mark.slow)
        for name in STEPS
        if name not in ("plain", "mixed precision")
        for cuts in (False, True)
    ),
]


def text(name: str, cuts: bool) -> str:
    return HEAD + textwrap.dedent(STEPS[name]).replace("CUTS", str(cuts))


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(("name", "cuts"), CASES)
def test_script_on_cuda(tmp_path: Path, name: str, cuts: bool) -> None:
    _, report = run(tmp_path, "while True: step()", head=text(name, cuts))
    assert report["errors"] == []
    assert codes(report) == (["GL401"] if cuts else [])


def built(folder: Path, name: str, cuts: bool) -> dict[str, Any]:
    """Return what a script makes; its file is there for findings to name."""
    path = folder / "setup_on_cuda.py"
    path.write_text(text(name, cuts), encoding="utf-8")
    names: dict[str, Any] = {"__name__": "setup_on_cuda"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


@needs_gpu
@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_step_on_a_gpu(tmp_path: Path, name: str, cuts: bool) -> None:
    names = built(tmp_path, name, cuts)
    report = gradlint.check({key: names[key] for key in ("model", "optimizer", "step")})
    assert report.errors == []
    assert [finding.code for finding in report.findings] == (["GL401"] if cuts else [])


@needs_gpu
def test_all_on_the_gpu_is_as_it_was(tmp_path: Path) -> None:
    names = built(tmp_path, "mixed precision", False)
    model, optimizer, scaler = names["model"], names["optimizer"], names["scaler"]
    names["step"]()
    before = [tensor.clone() for tensor in (*model.parameters(), *(p.grad for p in model.parameters()))]
    state, scale, random = repr(optimizer.state_dict()), scaler.state_dict(), torch.cuda.get_rng_state()
    gradlint.check({"model": model, "optimizer": optimizer, "step": names["step"]})
    after = [*model.parameters(), *(p.grad for p in model.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (repr(optimizer.state_dict()), scaler.state_dict()) == (state, scale)
    assert torch.equal(torch.cuda.get_rng_state(), random)


@needs_gpu
def test_no_memory_of_the_gpu_is_kept(tmp_path: Path) -> None:
    names = built(tmp_path, "plain", False)
    setup = {key: names[key] for key in ("model", "optimizer", "step")}
    gradlint.check(setup)
    torch.cuda.synchronize()
    used = torch.cuda.memory_allocated()
    for _ in range(3):
        gradlint.check(setup)
    assert torch.cuda.memory_allocated() <= used


@needs_gpu
def test_inputs_are_found_on_the_gpu() -> None:
    report = gradlint.check(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).cuda())
    assert report.errors == []


@needs_gpu
def test_model_on_the_gpu_and_inputs_on_the_cpu_are_the_users_error() -> None:
    report = gradlint.check({"model": nn.Linear(8, 4).cuda(), "inputs": (torch.ones(2, 8),)})
    assert "same device" in report.errors[0].message


@needs_two
def test_model_on_two_gpus() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8, device="cuda:0"), nn.Linear(8, 2, device="cuda:1")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).tanh().to("cuda:1"))  # type: ignore[no-any-return]

    report = gradlint.check({"model": Split(), "inputs": (torch.randn(4, 8, device="cuda:0"),)})
    assert (report.errors, report.findings) == ([], [])
