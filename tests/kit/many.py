"""Makes many targets and measures what checking them in one call takes.

    python tests/kit/many.py [--counts 100,300,1000] [--spoil]

Every second target has a cut, and all have modules of the same names. With --spoil every fifth one spoils its process.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LAYERS = """import torch
from torch import nn

WIDTH = {width}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(WIDTH, 8)
        self.b = nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.a(x)){cut}
        return self.b(h)
"""
MODEL = """import torch
from layers import WIDTH, Net
{spoil}

def build():
    model = Net()
    return {{
        "model": model,
        "inputs": (torch.randn(3, WIDTH),),
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "loss": lambda out: out.square().mean(),
    }}
"""
SPOILING = {
    "a default dtype": "torch.set_default_dtype(torch.float64)",
    "a default device": "torch.set_default_device('meta')",
    "no gradient": "torch.set_grad_enabled(False)",
    "inference mode": "torch.inference_mode().__enter__()",
    "determinism": "torch.use_deterministic_algorithms(True)",
    "seeds": "import random, numpy; torch.manual_seed(1); random.seed(1); numpy.random.seed(1)",
    "a patched function": "torch.relu = lambda x: x.detach()",
    "a patched method": "torch.nn.Linear.forward = lambda self, x: torch.zeros(3, self.out_features)",
    "a hook on all modules": "torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o.detach())",
    "a hook on all optimizers": "torch.optim.optimizer.register_optimizer_step_pre_hook(lambda *_: 1 / 0)",
    "patched builtins": "import builtins; builtins.sorted = None",
    "a patched library": "import json, inspect; json.dumps = inspect.signature = None",
    "modules": "import sys, types; sys.modules['layers'] = sys.modules['torch.fx'] = types.ModuleType('layers')",
    "paths": "import sys; sys.path.clear(); sys.path_hooks.clear()",
    "the folder": "import os; os.chdir('/')",
    "the environment": "import os; os.environ.clear(); os.environ['NO_COLOR'] = '1'",
    "warnings": "import warnings; warnings.simplefilter('error')",
    "logging": "import logging; logging.disable(); logging.root.handlers.clear()",
    "a recursion limit": "import sys; sys.setrecursionlimit(90)",
    "an alarm": "import signal; signal.alarm(2)",
    "a thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "memory": "kept = bytearray(10**8)",
    "an end": "import os; os._exit(0)",
}
"""What → a line of a module that changes it for the whole process."""


def write(folder: Path, number: int, spoil: str = "") -> str:
    """Write the files of a target; the target."""
    place = folder / f"part{number:04}"
    place.mkdir()
    cut = ".detach()" if number % 2 else ""
    (place / "layers.py").write_text(LAYERS.format(width=4 + number % 5, cut=cut), encoding="utf-8")
    (place / "model.py").write_text(MODEL.format(spoil=spoil), encoding="utf-8")
    return f"{place.name}/model.py:build"


def check(folder: Path, *targets: str, **environment: str) -> subprocess.Popen[str]:
    """Begin to check targets."""
    command = [sys.executable, "-m", "gradlint", "check", *targets, "--output-format", "json"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, text=True, **streams)


def cpu() -> float:
    """The seconds of CPU that processes which have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    from gradlint.system.process_tree import family

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="100,300,1000")
    parser.add_argument("--spoil", action="store_true")
    options = parser.parse_args()
    spoiling = list(SPOILING.values())
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            lines = [spoiling[i // 5 % len(spoiling)] if options.spoil and not i % 5 else "" for i in range(count)]
            targets = [write(Path(folder), number, line) for number, line in enumerate(lines)]
            began, before = time.monotonic(), cpu()
            process = check(Path(folder), *targets)
            largest: dict[int, int] = {}  # process → its largest memory in MB
            reading = threading.Thread(target=process.communicate)
            reading.start()
            while reading.is_alive():
                for place, pid in enumerate(list(family(process.pid))[:3]):
                    try:
                        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    except (OSError, ValueError, IndexError):
                        continue
                    largest[place] = max(largest.get(place, 0), pages * 4096 // 2**20)
                time.sleep(0.1)
            took = time.monotonic() - began
            memory = ", ".join(f"{largest.get(place, 0)} MB" for place in range(3))
            worked = cpu() - before
            times = f"{took:.1f} s, {worked:.1f} s of CPU, {worked / count * 1000:.0f} ms each"
            print(
                f"{count} targets: exit code {process.returncode}, {times}; gradlint, supervisor, worker: {memory}",
                flush=True,
            )


if __name__ == "__main__":
    main()
