"""What one call of gradlint costs, as ratios against plain Python processes, measured in the same run.

    python tests/bench/start.py [--rounds 7] [--json]

Medians over rounds in which these take turns, every one a process of its own:

- `check / import`: ``gradlint check`` of a small setup against ``python -c "import torch"``, the floor of all that
  knows tensors.
- `check / plain`: the same against a Python process that imports torch, builds the setup, and runs it forward and
  back.
- `run / plain`: ``gradlint run`` of a small training script, three steps, against a Python process that runs ten.

Seconds depend on the machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "fixtures" / "founding" / "detach_in_chain.py"
FORWARD = """
import runpy, sys
made = runpy.run_path(sys.argv[1])["build"]()
output = made["model"](*made["inputs"])
made["loss"](output).backward()
"""
SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(10):
    optimizer.zero_grad()
    x, y = torch.randn(64, 784), torch.randint(0, 10, (64,))
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def seconds(command: list[str], codes: tuple[int, ...]) -> float:
    """What a process takes.

    Raises:
        RuntimeError: it ended with another exit code than expected.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode not in codes:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return took


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT, encoding="utf-8")
        gradlint = [sys.executable, "-m", "gradlint"]
        commands: dict[str, tuple[list[str], tuple[int, ...]]] = {
            "import torch": ([sys.executable, "-c", "import torch"], (0,)),
            "build, forward, backward": ([sys.executable, "-c", FORWARD, str(SETUP)], (0,)),
            "gradlint check": ([*gradlint, "check", f"{SETUP}:build"], (1,)),
            "ten steps": ([sys.executable, str(script)], (0,)),
            "gradlint run": ([*gradlint, "run", str(script)], (0,)),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(options.rounds + 1):
            for name, (command, codes) in commands.items():
                took = seconds(command, codes)
                if number:  # the first round warms the caches of the file system
                    times[name].append(took)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        "check / import": median["gradlint check"] / median["import torch"],
        "check / plain": median["gradlint check"] / median["build, forward, backward"],
        "run / plain": median["gradlint run"] / median["ten steps"],
    }
    if options.json:
        print(json.dumps({"seconds": median, "ratios": ratios}))
        return 0
    for name, value in median.items():
        print(f"{name:<28}{value:8.2f} s")
    for name, value in ratios.items():
        print(f"{name:<28}{value:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
