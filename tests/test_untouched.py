"""Whatever ends the code under it, gradlint leaves the user's process and objects as they were."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import fingerprint
import numpy as np
import pytest
import torch
import untouched
from cases import each
from torch import nn
from untouched import Loud

import gradlint
from gradlint.system.undo import Turn, Undo

ROWS = list(untouched.rows())
MAIN = [row for row in ROWS if row[0] in ("check of a function", "record of a model") and row[2] != "endless recursion"]
"""The runs of the two main ways in."""
SOON = MAIN[::3]
"""Those among them that are fast enough together: each place, and each deed at one place at least."""


@each(("way", "place", "deed"), SOON)
def test_the_main_ways_in(way: str, place: str, deed: str, tmp_path: Path) -> None:
    assert untouched.outcome(way, place, deed, tmp_path)[1] == []


@pytest.mark.slow
@each(("way", "place", "deed"), [row for row in ROWS if row not in SOON])
def test_every_way_in(way: str, place: str, deed: str, tmp_path: Path) -> None:
    assert untouched.outcome(way, place, deed, tmp_path)[1] == []


@pytest.mark.slow
@each("way", ["check of a function", "record of a model", "record as a decorator", "callback"])
def test_interrupts_at_any_line(way: str) -> None:
    result = untouched.interrupts(way, 30, seed=0)
    assert result.raised >= 25 and result.faults == []


# -- what undoes ------------------------------------------------------------------------------------------------------


class Owner:
    """Something with an attribute."""

    name: Any = "original"


def test_replacements_may_end_in_any_order() -> None:
    first, second = Undo(), Undo()
    first.replace(Owner, "name", "first")
    second.replace(Owner, "name", "second")
    first.close()
    assert Owner.name == "second"
    second.close()
    assert Owner.name == "original"


def test_a_replacement_of_the_users_own_stays() -> None:
    undo = Undo()
    undo.replace(Owner, "name", "gradlint's")
    try:
        Owner.name = "the user's"
        undo.close()
        assert Owner.name == "the user's"
    finally:
        Owner.name = "original"


def test_an_attribute_that_was_not_there_is_gone() -> None:
    class Plain:
        pass

    with Undo() as undo:
        undo.replace(Plain, "added", 1)
    assert "added" not in vars(Plain)


def test_an_interrupted_end_is_begun_again() -> None:
    calls: list[int] = []

    def interrupted() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    undo = Undo()
    undo.call(calls.append, 2)
    undo.call(interrupted)
    with pytest.raises(KeyboardInterrupt):
        undo.close()
    assert calls == [1, 1, 2]


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals here")
def test_a_signal_waits_until_the_end() -> None:
    calls: list[str] = []
    undo = Undo()
    undo.call(calls.append, "last")
    undo.call(signal.raise_signal, signal.SIGINT)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        undo.close()
    assert calls == ["last"] and signal.getsignal(signal.SIGINT) is handler


def test_a_part_that_is_left_open_ends_with_the_whole() -> None:
    calls: list[str] = []
    undo = Undo()
    context = undo.part()
    context.__enter__().call(calls.append, "part")
    undo.close()
    assert calls == ["part"]


# -- several recordings -----------------------------------------------------------------------------------------------


class Sleeping(nn.Module):
    """A model that takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.linear, self.seconds = nn.Linear(4, 2), seconds

    def forward(self, x: Any) -> Any:
        time.sleep(self.seconds)
        return self.linear(x)


def setup(model: nn.Module) -> dict[str, Any]:
    return {"model": model, "inputs": (torch.ones(2, 4),)}


def test_two_threads_record_one_after_the_other() -> None:
    reports: list[Any] = []
    before = fingerprint.process()
    threads = [
        threading.Thread(target=lambda s=seconds: reports.append(gradlint.check(setup(Sleeping(s)))))
        for seconds in (0.05, 0.1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.errors for report in reports] == [[], []]
    assert fingerprint.differences(before, fingerprint.process()) == []


def test_a_thread_that_a_recording_waits_for_is_refused() -> None:
    reports: list[Any] = []

    class Asking(nn.Linear):
        def forward(self, x: Any) -> Any:
            thread = threading.Thread(target=lambda: reports.append(gradlint.check(setup(nn.Linear(4, 2)))))
            thread.start()
            thread.join()
            return super().forward(x)

    assert gradlint.check(setup(Asking(4, 2))).errors == []
    [report] = reports
    assert "cannot be recorded in a thread" in report.errors[0].message


def test_a_check_inside_of_a_forward_is_no_part_of_the_recording() -> None:
    inner: list[Any] = []

    class Checking(nn.Linear):
        def forward(self, x: Any) -> Any:
            inner.append(gradlint.check(setup(nn.Linear(4, 2)), name="inner"))
            return super().forward(x)

    model = Checking(4, 2)
    before = fingerprint.process()
    trace = gradlint.trace(setup(model))
    assert [report.errors for report in inner] == [[]]
    assert [op.name for op in trace.ops].count("linear") == 1
    assert fingerprint.differences(before, fingerprint.process()) == []


def test_blocks_that_overlap() -> None:
    model = nn.Linear(4, 2)
    before = fingerprint.process() | fingerprint.hooks([model])
    first, second = gradlint.record(model), gradlint.record(model)
    first.__enter__()
    second.__enter__()
    model(torch.ones(2, 4)).sum().backward()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert fingerprint.differences(before, fingerprint.process() | fingerprint.hooks([model])) == []
    assert first.trace.training is not None and second.trace.training is not None


def test_a_thread_that_is_gone_keeps_nobody_waiting() -> None:
    undo = Undo()
    recording = gradlint.record(nn.Linear(4, 2), name="left open")
    thread = threading.Thread(target=recording.__enter__)
    thread.start()
    thread.join()
    try:
        assert gradlint.check(setup(nn.Linear(4, 2))).errors == []
    finally:
        recording.__exit__(None, None, None)
        undo.close()
    assert Turn._queue == []


# -- what user code holds, or leaves ----------------------------------------------------------------------------------


def test_a_mode_left_entered_by_build_is_active_in_the_forward_and_taken_off_afterwards() -> None:
    seen: list[list[str]] = []

    class Looking(nn.Linear):
        def forward(self, x: Any) -> Any:
            seen.append([type(mode).__name__ for mode in torch.overrides._get_current_function_mode_stack()])
            return super().forward(x)

    def build() -> dict[str, Any]:
        Loud().__enter__()
        return setup(Looking(4, 2))

    for _ in range(2):
        assert gradlint.check(build).errors == []
        assert torch.overrides._get_current_function_mode_stack() == []
    assert {name for names in seen for name in names} == {"Loud", "Recorder"}


GENERATORS = {
    "torch": lambda: torch.Generator().manual_seed(7),
    "numpy": lambda: np.random.default_rng(7),
    "numpy's old one": lambda: np.random.RandomState(7),
    "python": lambda: random.Random(7),
}


def draw(generator: Any) -> float:
    if isinstance(generator, torch.Generator):
        return float(torch.rand((), generator=generator))
    return float(generator.random() if hasattr(generator, "random") else generator.rand())


class Noisy(nn.Module):
    """A model that draws from a generator, wherever it is."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.linear, self.held = nn.Linear(4, 2), held

    def forward(self, x: Any) -> Any:
        found = self.held
        while isinstance(found, (list, dict)):
            found = next(iter(found.values() if isinstance(found, dict) else found))
        return self.linear(x) * draw(found)


@each("kind", GENERATORS)
def test_generators_in_attributes(kind: str) -> None:
    for wrap in (lambda g: g, lambda g: [g], lambda g: {"rng": g}):
        generator = GENERATORS[kind]()
        gradlint.check(setup(Noisy(wrap(generator))))
        assert draw(generator) == draw(GENERATORS[kind]())


@each("kind", GENERATORS)
def test_generators_that_build_and_loss_reach(kind: str) -> None:
    generator = GENERATORS[kind]()

    def build() -> dict[str, Any]:
        draw(generator)
        return {**setup(nn.Linear(4, 2)), "loss": lambda out: out.sum() * draw(generator)}

    assert gradlint.check(build).errors == []
    assert draw(generator) == draw(GENERATORS[kind]())


@each("convert", [lambda m: m.double().float(), lambda m: m.half().float(), lambda m: m.to(torch.bfloat16).float()])
def test_conversion_by_swapping(convert: Any) -> None:
    def build() -> dict[str, Any]:
        model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False))
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model = convert(model)
            model.load_state_dict(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)).state_dict())
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        return setup(model)

    report = gradlint.check(build)
    assert report.errors == [] and report.targets[0].trainable == 2


def test_tensors_exchanged_by_the_user() -> None:
    def build() -> dict[str, Any]:
        model = nn.Linear(4, 2)
        torch.utils.swap_tensors(model.weight, nn.Parameter(torch.ones(2, 4)))
        return setup(model)

    assert gradlint.check(build).errors == []


def test_a_notebooks_lines_of_source_stay() -> None:
    import linecache

    linecache.cache["<cell 1>"] = (10, None, ["x = 1\n"], "<cell 1>")
    try:
        gradlint.check(setup(nn.Linear(4, 2)))
        assert linecache.getline("<cell 1>", 1) == "x = 1\n"
    finally:
        linecache.cache.pop("<cell 1>", None)
