"""What recording training costs, as ratios against the same steps unrecorded, measured in the same run.

    python tests/bench/steps.py [--models mlp,resnet50,bert-base] [--rounds 5] [--json]

For each model (random weights, CPU), medians over rounds in which these take turns:

- `recorded / plain`: a step (clear, forward, loss, backward, AdamW) inside ``gradlint.record`` against one outside.
- `after / plain`: a step in the same block once enough was recorded, against one before any recording: what is left
  behind would show here. (That nothing is, ``test_recording.py`` shows without timing.)
- `verdict ms`: tables and rules after the recording; no part of the ratios.

Seconds depend on the machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
STEPS = 3

Step = Callable[[], None]


def _mlp() -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x, y = torch.randn(64, 784), torch.randint(0, 10, (64,))
    return model, lambda net: nn.functional.cross_entropy(net(x), y)


def _resnet50() -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    images, labels = torch.randn(4, 3, 128, 128), torch.tensor([0, 1, 0, 1])
    model = ResNetForImageClassification(ResNetConfig())
    return model, lambda net: net(pixel_values=images, labels=labels).loss


def _bert_base() -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokens, labels = torch.randint(0, 30522, (2, 64)), torch.tensor([0, 1])
    model = BertForSequenceClassification(BertConfig())
    return model, lambda net: net(input_ids=tokens, labels=labels).loss


MODELS = {"mlp": _mlp, "resnet50": _resnet50, "bert-base": _bert_base}


def _timed(step: Step, times: int = STEPS) -> float:
    """Seconds of one step, the mean of some."""
    began = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - began) / times


def measure(name: str, rounds: int) -> dict[str, float]:
    """The figures of one model; times in seconds."""
    import torch

    import gradlint

    model, loss = MODELS[name]()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()

    step()
    seen: dict[str, list[float]] = {"plain": [], "recorded": [], "after": [], "verdict": []}
    for _ in range(rounds):
        seen["plain"].append(_timed(step))
        with gradlint.record(model, optimizer=optimizer, steps=STEPS) as recording:
            seen["recorded"].append(_timed(step))
            step()  # at its first call the recording ends, and its tables are made
            seen["after"].append(_timed(step))
        began = time.perf_counter()
        gradlint.check(recording)
        seen["verdict"].append(time.perf_counter() - began)
    figures = {key: statistics.median(values) for key, values in seen.items()}
    pairs = list(zip(seen["plain"], seen["recorded"], seen["after"], strict=True))
    return {
        **figures,
        "recorded_per_plain": statistics.median(recorded / plain for plain, recorded, _ in pairs),
        "after_per_plain": statistics.median(after / plain for plain, _, after in pairs),
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds the medians are of (default 5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    models = options.models.split(",")
    if unknown := [name for name in models if name not in MODELS]:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(MODELS)}")
    figures = {name: measure(name, options.rounds) for name in models}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{'':<10} {'plain ms':>9} {'recorded / plain':>17} {'after / plain':>14} {'verdict ms':>11}")
    for name, f in figures.items():
        print(
            f"{name:<10} {f['plain'] * 1e3:>9.1f} {f['recorded_per_plain']:>17.2f} {f['after_per_plain']:>14.2f} "
            f"{f['verdict'] * 1e3:>11.0f}"
        )


if __name__ == "__main__":
    main()
