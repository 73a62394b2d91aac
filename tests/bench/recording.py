"""What recording costs, as ratios against plain torch measured in the same run.

    python tests/bench/recording.py [--models resnet50,bert-base,gpt2] [--repeat 5] [--json]

For each model (transformers configurations, random weights, CPU):

- `record / forward`: gradlint's recording of forward and loss (its tables and the putting back included) against the
  plain forward with gradient; both in one process, taking turns.
- `record / fwd+bwd`: the same against plain forward and backward.
- `us per op`: what the forward takes longer while it is recorded, per recorded torch call, in microseconds; of the same
  model on very small inputs, where as many calls take so little that the difference is more than noise.
- `around it ms`: what a recording does besides, before and after the forward: keeping and putting back each tensor and
  module, the tables, the verdict; also on very small inputs.
- `memory`: peak resident memory of a process that builds and records, against one that builds and trains one step.
- `check / step`: ``gradlint check`` as a process against a process that imports torch, builds, and trains one step.

Seconds are medians over `--repeat` rounds and depend on the machine; the ratios are what counts. `import torch` is the
median of as many fresh processes. The build functions below are also the targets of the ``gradlint check``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def build_resnet50() -> dict[str, Any]:
    """ResNet-50 on two pictures of 224 by 224."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig())
    inputs = {"pixel_values": torch.randn(2, 3, 224, 224), "labels": torch.tensor([0, 1])}
    return {"model": model, "inputs": inputs, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3)}


def build_bert_base() -> dict[str, Any]:
    """BERT-base for classification, two texts of 128 tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig())
    inputs = {"input_ids": torch.randint(0, 30522, (2, 128)), "labels": torch.tensor([0, 1])}
    return {"model": model, "inputs": inputs, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3)}


def build_gpt2() -> dict[str, Any]:
    """GPT-2 (124 million parameters), two texts of 128 tokens."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config())
    tokens = torch.randint(0, 50257, (2, 128))
    inputs = {"input_ids": tokens, "labels": tokens}
    return {"model": model, "inputs": inputs, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3)}


MODELS: dict[str, Callable[[], dict[str, Any]]] = {
    "resnet50": build_resnet50,
    "bert-base": build_bert_base,
    "gpt2": build_gpt2,
}


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak_bytes() -> int:
    """Peak resident memory of this process; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _train_once(made: dict[str, Any]) -> None:
    made["model"](**made["inputs"]).loss.backward()
    made["optimizer"].step()


def measure_step(name: str, _: int) -> dict[str, float]:
    """One training step, as a user's script would run it."""
    made = MODELS[name]()
    made["model"].train()
    _train_once(made)
    return {"peak_bytes": _peak_bytes()}


def measure_memory(name: str, _: int) -> dict[str, float]:
    """One recording in a process of its own, for its peak memory."""
    _record(MODELS[name]())
    return {"peak_bytes": _peak_bytes()}


def _record(made: dict[str, Any]) -> int:
    """Records forward and loss; returns the number of recorded calls."""
    try:
        from gradlint.engine.check import Options, record_made
    except ImportError as error:
        raise SystemExit(f"gradlint's recorder is missing here: {error}") from error
    with record_made(made, Options()) as recorded:
        return len(recorded.trace.ops)


def _shrunk(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs with 32 pixels a side, or 8 tokens."""
    return {
        name: value[..., :32, :32] if value.dim() == 4 else value[:, :8] if value.dim() == 2 else value
        for name, value in inputs.items()
    }


def measure_times(name: str, repeat: int) -> dict[str, float]:
    """Medians in seconds of forward, forward and backward, and recording, taking turns in one process."""
    made = MODELS[name]()
    model, inputs = made["model"], made["inputs"]
    model.train()

    def both() -> None:
        model(**inputs).loss.backward()

    operations = _record(made)
    _timed(both)
    times: dict[str, list[float]] = {"forward": [], "forward_backward": [], "record": []}
    for _ in range(repeat):
        times["forward"].append(_timed(lambda: model(**inputs)))
        times["forward_backward"].append(_timed(both))
        # A recording meets gradients that are not there, as in a fresh build.
        model.zero_grad(set_to_none=True)
        times["record"].append(_timed(lambda: _record(made)))

    small = {**made, "inputs": _shrunk(inputs)}
    _record(small)
    times |= {"small_forward": [], "small_recorded_forward": [], "small_around": []}
    marks: list[float] = []
    model.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))
    model.register_forward_hook(lambda *_: marks.append(time.perf_counter()))
    for _ in range(4 * repeat):
        model(**small["inputs"])
        times["small_forward"].append(marks[-1] - marks[-2])
        whole = _timed(lambda: _record(small))
        times["small_recorded_forward"].append(marks[-1] - marks[-2])
        times["small_around"].append(whole - (marks[-1] - marks[-2]))
    return {"ops": operations, **{key: statistics.median(values) for key, values in times.items()}}


WORKERS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "step": measure_step,
    "memory": measure_memory,
    "times": measure_times,
}


def _environment() -> dict[str, str]:
    paths = [str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}


def _process(arguments: list[str], accepted: tuple[int, ...] = (0,)) -> tuple[float, str]:
    """Seconds and standard output of one Python process; ends this script with its complaint if it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=_environment(), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode not in accepted:
        raise SystemExit(
            f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}{done.stdout[-1000:]}"
        )
    return seconds, done.stdout


def _worker(kind: str, model: str, repeat: int) -> tuple[float, dict[str, float]]:
    seconds, output = _process([str(HERE), "--worker", kind, "--models", model, "--repeat", str(repeat)])
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return seconds, result


def measure(model: str, repeat: int) -> dict[str, float]:
    """All figures of one model; times in seconds, memory in bytes."""
    _, figures = _worker("times", model, repeat)
    target = f"{HERE}:{MODELS[model].__name__}"
    steps, checks, peak = [], [], 0.0
    for _ in range(repeat):
        seconds, result = _worker("step", model, 1)
        steps.append(seconds)
        peak = max(peak, result["peak_bytes"])
        # 1 says that there are findings, which is no failure of the check.
        checks.append(_process(["-m", "gradlint", "check", target], accepted=(0, 1))[0])
    recorded_peak = _worker("memory", model, 1)[1]["peak_bytes"]
    extra = figures["small_recorded_forward"] - figures["small_forward"]
    return {
        **figures,
        "step_process": statistics.median(steps),
        "check_process": statistics.median(checks),
        "step_peak_bytes": peak,
        "record_peak_bytes": recorded_peak,
        "record_per_forward": figures["record"] / figures["forward"],
        "record_per_forward_backward": figures["record"] / figures["forward_backward"],
        "us_per_op": extra / figures["ops"] * 1e6,
        "around_ms": figures["small_around"] * 1e3,
        "memory_ratio": recorded_peak / peak,
        "check_per_step": statistics.median(checks) / statistics.median(steps),
    }


_COLUMNS = (
    ("ops", "ops", "{:.0f}"),
    ("forward s", "forward", "{:.3f}"),
    ("fwd+bwd s", "forward_backward", "{:.3f}"),
    ("record s", "record", "{:.3f}"),
    ("record / forward", "record_per_forward", "{:.2f}"),
    ("record / fwd+bwd", "record_per_forward_backward", "{:.2f}"),
    ("us per op", "us_per_op", "{:.1f}"),
    ("around it ms", "around_ms", "{:.1f}"),
    ("memory", "memory_ratio", "{:.2f}"),
    ("check s", "check_process", "{:.2f}"),
    ("step s", "step_process", "{:.2f}"),
    ("check / step", "check_per_step", "{:.2f}"),
)


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: all")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of which the median is taken (default 5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    models = options.models.split(",")
    if unknown := [name for name in models if name not in MODELS]:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(MODELS)}")
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    if options.worker:
        print(json.dumps(WORKERS[options.worker](models[0], options.repeat)))
        return

    import_seconds = statistics.median(_process(["-c", "import torch"])[0] for _ in range(options.repeat))
    figures = {name: measure(name, options.repeat) for name in models}
    if options.json:
        print(json.dumps({"import_torch": import_seconds, "repeat": options.repeat, "models": figures}, indent=2))
        return
    print(f"import torch: {import_seconds:.2f} s (median of {options.repeat})")
    width = max(len(title) for title, _, _ in _COLUMNS)
    print(" " * width + "".join(f"{name:>12}" for name in models))
    for title, key, form in _COLUMNS:
        print(f"{title:<{width}}" + "".join(f"{form.format(figures[name][key]):>12}" for name in models))


if __name__ == "__main__":
    main()
