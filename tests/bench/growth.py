"""How the time of a check grows with the size of what is checked.

    python tests/bench/growth.py [--cases layers,ties] [--points 3] [--largest 1.0] [--top 0]

For each case a model is generated at sizes that double, up to the largest of the case times `--largest`. Each size runs
in a process of its own. The table gives CPU seconds at the largest size, and exponents: the slope of log(seconds) over
log(size), where 1 is linear. The phases:

- `plain`: what build() and the forward take without gradlint.
- `record`: what gradlint's recording takes more than that.
- `flow`, `rules`, `report`: the analysis, the rules, and the texts (the findings in full, and the summary).

Before each measurement a small one in the same process does the imports.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import math
import pstats
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PHASES = ("plain", "record", "flow", "rules", "report")


def layers(size: int) -> dict[str, Any]:
    """Stacked attention blocks, the middle one cut off."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
            self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
            self.up, self.gate, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)

        def forward(self, x: Any) -> Any:
            h = self.norm1(x)
            h = torch.softmax(self.q(h) @ self.k(h).transpose(-1, -2), dim=-1) @ self.v(h)
            x = x + self.o(h)
            h = self.norm2(x)
            return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(size))
            self.head = nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            for number, block in enumerate(self.blocks):
                x = block(x)
                if number == size // 2:
                    x = x.detach()
            return self.head(x)

    model = Model()
    return {"model": model, "inputs": (torch.randn(1, 4, 16),), "optimizer": torch.optim.AdamW(model.parameters())}


def ops(size: int) -> dict[str, Any]:
    """One layer, and a long chain of operations."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            x = self.lin(x)
            for _ in range(size // 2):
                x = (x * 0.5) + 1.0
            return x

    model = Model()
    return {"model": model, "inputs": (torch.randn(1, 4),), "optimizer": torch.optim.SGD(model.parameters())}


def parameters(size: int, *, cut: bool = False, groups: bool = False) -> dict[str, Any]:
    """Many parameters in one list; half of them cut off, or each in a group of its own."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in range(size))

        def forward(self, x: Any) -> Any:
            weights = list(self.weights)
            kept = torch.stack(weights[size // 2 :] if cut else weights).sum(0)
            if cut:
                kept = kept + torch.stack([w.detach() * 2 for w in weights[: size // 2]]).sum(0)
            return x * kept

    model = Model()
    held: Any = [{"params": [p], "lr": 0.1} for p in model.parameters()] if groups else model.parameters()
    return {"model": model, "inputs": (torch.randn(3, 2),), "optimizer": torch.optim.SGD(held)}


def starved(size: int) -> dict[str, Any]:
    """Many parameters, half of them cut off one by one."""
    return parameters(size, cut=True)


def groups(size: int) -> dict[str, Any]:
    """As many parameter groups as parameters."""
    return parameters(size, groups=True)


def frozen(size: int) -> dict[str, Any]:
    """Layers of which every other is frozen, one statement for each."""
    found = modules(size)
    for layer in list(found["model"])[::2]:
        layer.weight.requires_grad_(False)
        layer.bias.requires_grad = False
    return found


def modules(size: int) -> dict[str, Any]:
    """A long Sequential."""
    import torch
    from torch import nn

    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(size)))
    return {"model": model, "inputs": (torch.randn(1, 2),), "optimizer": torch.optim.SGD(model.parameters())}


def unused(size: int) -> dict[str, Any]:
    """Heads in a list, of which the first alone runs."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(size))
            for number in range(size):
                setattr(self, f"extra{number}", nn.Linear(2, 2))

        def forward(self, x: Any) -> Any:
            return self.heads[0](x)

    model = Model()
    return {"model": model, "inputs": (torch.randn(1, 2),), "optimizer": torch.optim.SGD(model.parameters())}


def ties(size: int) -> dict[str, Any]:
    """Pairs of layers with one weight, of which every other pair came apart again."""
    import torch
    from torch import nn

    class Pair(nn.Module):
        def __init__(self, parted: bool) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
            self.other.weight = self.one.weight
            if parted:
                self.one.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: Any) -> Any:
            return self.other(self.one(x))

    model = nn.Sequential(*(Pair(number % 2 == 0) for number in range(size)))
    return {"model": model, "inputs": (torch.randn(1, 2),), "optimizer": torch.optim.SGD(model.parameters())}


def loads(size: int) -> dict[str, Any]:
    """Layers that each load a state of their own; a third of them nothing, a third are initialised again."""
    import torch
    from torch import nn

    found = modules(size)
    for number, layer in enumerate(found["model"]):
        state = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
        layer.load_state_dict({f"x.{k}": v for k, v in state.items()} if number % 3 == 0 else state, strict=False)
        if number % 3 == 1:
            nn.init.normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return found


def losses(size: int) -> dict[str, Any]:
    """A loss of many terms, some of which have no gradient and some of which are never added."""
    import torch
    from torch import nn

    heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(size))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Linear(2, 2), heads

        def forward(self, x: Any) -> Any:
            x = self.body(x)
            total = torch.zeros(())
            for number, head in enumerate(self.heads):
                term = nn.functional.mse_loss(head(x), torch.zeros(3, 1))
                if number % 4 == 0:
                    term = term.detach()
                if number % 4 != 1:
                    total = total + term
            return total

    model = Model()
    return {"model": model, "inputs": (torch.randn(3, 2),), "loss": lambda out: out,
            "optimizer": torch.optim.SGD(model.parameters())}  # fmt: skip


def steps(size: int) -> dict[str, Any]:
    """A recurrent cell, unrolled."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(2, 2), nn.Linear(2, 1)

        def forward(self, x: Any) -> Any:
            state = torch.zeros(1, 2)
            for _ in range(size):
                state = self.cell(x, state)
            return self.head(state)

    model = Model()
    return {"model": model, "inputs": (torch.randn(1, 2),), "optimizer": torch.optim.SGD(model.parameters())}


CASES: dict[str, tuple[Callable[[int], dict[str, Any]], int]] = {
    "layers": (layers, 1000),
    "ops": (ops, 200_000),
    "parameters": (parameters, 100_000),
    "starved": (starved, 16_000),
    "groups": (groups, 8_000),
    "frozen": (frozen, 8_000),
    "modules": (modules, 50_000),
    "unused": (unused, 8_000),
    "ties": (ties, 4_000),
    "loads": (loads, 4_000),
    "losses": (losses, 4_000),
    "steps": (steps, 5_000),
}
"""Case → (its training setup, the largest size)."""


def measure(case: str, size: int, top: int = 0) -> dict[str, float]:
    """Return the CPU seconds of each phase of one check."""
    from gradlint.engine import check
    from gradlint.engine.options import Options
    from gradlint.experiments.settle import analyse
    from gradlint.findings import Report
    from gradlint.load.buildable import SetupAtHand
    from gradlint.report import full, overview
    from gradlint.report.view import View
    from gradlint.rulekit import registry, selection

    rules = selection.select(registry.load(), (), (), ()).rules
    build = CASES[case][0]
    marks = [time.process_time()]

    def lap() -> float:
        marks.append(time.process_time())
        return marks[-1] - marks[-2]

    setup = build(size)
    output = setup["model"](*setup["inputs"])
    del output, setup
    seconds = {"plain": lap()}
    profile = cProfile.Profile() if top else contextlib.nullcontext()
    with profile:
        options, report = Options(overview=True), Report()
        with check._recording(SetupAtHand(lambda: build(size), case), options, case) as recorded:
            seconds["record"] = lap() - seconds["plain"]
            flow = analyse(recorded.trace, recorded.replay)
            seconds["flow"] = lap()
            check._judged(report, flow, rules, options)
            seconds["rules"] = lap()
        seconds["record"] += lap()  # putting back
        view = View(root=HERE.parent)
        full.render(report, view, [])
        overview.render(report, view, overview.Wanted())
        seconds["report"] = lap()
    if isinstance(profile, cProfile.Profile):
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(top)
    return seconds


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Return the slope of log(seconds) over log(size); nan where the seconds are too short to tell."""
    if len(points) < 2 or min(seconds for _, seconds in points) < 0.005:
        return math.nan
    xs, ys = [math.log(size) for size, _ in points], [math.log(seconds) for _, seconds in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--points", type=int, default=3, help="how many sizes, each half of the next")
    parser.add_argument("--largest", type=float, default=1.0, help="the largest size, as a share of the case's own")
    parser.add_argument("--top", type=int, default=0, help="show that many functions of a profile of the largest size")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case, size = options.one[0], int(options.one[1])
        measure(case, 10)  # imports
        print(json.dumps(measure(case, size, options.top)))
        return
    print(f"{'case':12}{'size':>8}" + "".join(f"{phase:>9}{'':>6}" for phase in (*PHASES, "gradlint")))
    for case in options.cases.split(","):
        sizes = [int(CASES[case][1] * options.largest) >> shift for shift in reversed(range(options.points))]
        found = []
        for size in sizes:
            command = [sys.executable, str(HERE), "--one", case, str(size)]
            if options.top and size == sizes[-1]:
                command += ["--top", str(options.top)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{case:12}{size:8}  exit status {done.returncode}", flush=True)
                break
            found.append((size, json.loads(done.stdout)))
        if len(found) < len(sizes):
            continue
        row = f"{case:12}{sizes[-1]:8}"
        for phase in (*PHASES, "gradlint"):
            points = [(n, sum(t.values()) - t["plain"] if phase == "gradlint" else t[phase]) for n, t in found]
            row += f"{points[-1][1]:9.2f}{exponent(points):6.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
