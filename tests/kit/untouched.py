"""What each way into gradlint leaves changed, for each way in which the code under it may end.

python tests/kit/untouched.py                          the table: ways in × endings, and what differs
python tests/kit/untouched.py --interrupts 1200        Ctrl-C at so many lines and bytecodes of a recording
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import linecache
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import fingerprint
import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradlint
from gradlint.api.explain import explain
from gradlint.api.recording import Watch
from gradlint.engine.options import Options
from gradlint.lock.take import snapshot_target
from gradlint.testing.assertions import Assertions

HERE = Path(gradlint.__file__).parent
RNG = np.random.default_rng(3)
"""A generator that a module of the user's holds."""


class Loud(TorchFunctionMode):
    """A function mode of the user's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Quiet(TorchDispatchMode):
    """A dispatch mode of the user's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Net(nn.Module):
    """A network with state of every kind."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.last = nn.Linear(4, 2)
        self.register_buffer("count", torch.zeros(()))
        self.noise = torch.Generator().manual_seed(5)
        self.held = {"python": random.Random(6), "numpy": np.random.default_rng(7)}
        self.case = [case]  # no module

    def forward(self, x: Any) -> Any:
        self.case[0].reach("forward")
        self.count += 1
        x = x + torch.rand(x.shape, generator=self.noise) * self.held["python"].random() * self.held["numpy"].random()
        return self.last(self.frozen(self.drop(self.norm(self.first(x)))))


class Case:
    """A training setup of the user's, which may end anywhere."""

    def __init__(self) -> None:
        self.place = ""
        self.deed: Callable[[], object] = lambda: None
        self.model = Net(self)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.own = torch.Generator().manual_seed(8)
        self.train()  # gradients and a state of the optimizer are there
        self.model.norm.eval()
        self.model.first.register_forward_hook(lambda *a: None)
        self.model.first.register_full_backward_hook(lambda *a: None)
        self.model.last.weight.register_hook(lambda g: None)
        self.model.last._register_state_dict_hook(lambda *a: None)  # its public name is not in torch 2.4
        self.optimizer.register_step_post_hook(lambda *a: None)

    def reach(self, place: str) -> None:
        """Do the deed at its place."""
        if place == self.place:
            self.deed()

    def loss(self, output: Any) -> Any:
        """Return the loss."""
        self.reach("loss")
        return output.square().mean() * float(torch.rand((), generator=self.own))

    def step(self) -> None:
        """Train a little."""
        self.reach("step")
        self.train()

    def train(self) -> None:
        """Train one step."""
        self.optimizer.zero_grad()
        (self.model(torch.randn(3, 4)).square().mean() * RNG.random()).backward()
        self.optimizer.step()
        self.scheduler.step()

    def build(self) -> dict[str, Any]:
        """Return the setup."""
        self.reach("build")
        torch.randn(2), random.random(), np.random.rand()
        return self.setup()

    def setup(self) -> dict[str, Any]:
        """Return the setup, without running anything."""
        return {
            "model": self.model,
            "inputs": (torch.ones(3, 4),),
            "optimizer": self.optimizer,
            "loss": self.loss,
            "step": self.step,
        }

    def table(self, *, trained: bool) -> fingerprint.Table:
        """Return everything that must not change; `trained` leaves out what training itself changes."""
        table = fingerprint.process() | fingerprint.hooks([self.model], [self.optimizer])
        if not trained:
            generators = [self.model.noise, *self.model.held.values(), self.own, RNG]
            table |= fingerprint.values([self.model], [self.optimizer, self.scheduler], generators)
        return table


FILE = """
import torch
from torch import nn

def build():
    case = __import__("untouched").CASES[-1]
    case.reach("build")
    return case.setup()
"""
CASES: list[Case] = []


def _in_a_block(case: Case, *arguments: Any) -> None:
    with gradlint.record(*arguments) as recording:
        for _ in range(4):
            case.reach("forward")
            case.step()
    gradlint.check(recording)


def _decorated(case: Case) -> None:
    gradlint.record()(lambda: [case.step() for _ in range(4)])()


def _callback(case: Case) -> None:
    watch = Watch("log")
    watch.begin(case.model, [case.optimizer])
    try:
        for _ in range(4):
            case.step()
            watch.after_step()
        watch.end()
    except BaseException:
        watch.end(judge=False)
        raise


WAYS_IN: dict[str, tuple[Callable[[Case, str], object], bool]] = {
    "check of a function": (lambda case, file: gradlint.check(case.build), False),
    "check of a setup": (lambda case, file: gradlint.check(case.setup()), False),
    "check of a target": (lambda case, file: gradlint.check(file), False),
    "check with numeric": (lambda case, file: gradlint.check(case.build, numeric=True), False),
    "trace": (lambda case, file: gradlint.trace(case.build), False),
    "explain": (lambda case, file: explain(file, "first.weight"), False),
    "snapshot": (lambda case, file: snapshot_target(file, Options()), False),
    "assertion": (lambda case, file: Assertions().assert_gradient_flows(case.build, to="first.*"), False),
    "record": (lambda case, file: _in_a_block(case), True),
    "record of a model": (lambda case, file: _in_a_block(case, case.model), True),
    "record as a decorator": (lambda case, file: _decorated(case), True),
    "callback": (lambda case, file: _callback(case), True),
}
"""Way in → (what is called, True if the training in it is the user's own)."""
PLACES = ("build", "forward", "loss", "step")


def _raising(error: BaseException) -> Callable[[], object]:
    def deed() -> None:
        raise error

    return deed


def _deep() -> object:
    return _deep()


DEEDS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "raise ValueError": _raising(ValueError("no")),
    "Ctrl-C": _raising(KeyboardInterrupt()),
    "sys.exit": lambda: sys.exit(3),
    "endless recursion": _deep,
    "raise MemoryError": _raising(MemoryError()),
    "enter a device": lambda: torch.device("cpu").__enter__(),
    "enter a function mode": lambda: Loud().__enter__(),
    "enter a dispatch mode": lambda: Quiet().__enter__(),
    "set a default device": lambda: torch.set_default_device("cpu"),
    "enter no_grad": lambda: torch.no_grad().__enter__(),
}
LEFT_OVER = frozenset(name for name in DEEDS if name.startswith(("enter", "set")))
"""What user code leaves behind itself, which only a run that gradlint makes takes back."""


def outcome(way: str, place: str, deed: str, folder: Path) -> tuple[int, list[str]]:
    """Return how many things were compared after one way in ended in one way, and the names of those that differ."""
    enter, trained = WAYS_IN[way]
    file = folder / "target.py"
    file.write_text(FILE, encoding="utf-8")
    torch.manual_seed(1)
    case = Case()
    CASES[:] = [case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = case.table(trained=trained)
        case.place, case.deed = place, DEEDS[deed]
        interrupted = False
        try:
            enter(case, f"{file}:build")
        except KeyboardInterrupt:
            interrupted = True
        except (Exception, SystemExit):
            pass
        case.place = ""
        found = fingerprint.differences(before, case.table(trained=trained))
    if (deed == "Ctrl-C" and reaches(way, place)) is not interrupted:
        found.append("the interrupt is lost")
    return len(before), found


def reaches(way: str, place: str) -> bool:
    """Return True if a way in runs the code at a place."""
    if WAYS_IN[way][1]:
        return place in ("step", "forward")
    if place == "build":
        return way != "check of a setup"
    if way == "assertion":
        return place == "forward"
    return True


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield (way in, place, deed) of every run."""
    for way, (_, trained) in WAYS_IN.items():
        yield way, "", "nothing"
        for place in PLACES:
            for deed in DEEDS:
                if deed != "nothing" and reaches(way, place) and not (trained and deed in LEFT_OVER):
                    yield way, place, deed


def endings_table(ways: list[str]) -> bool:
    """Print the number of differences for each way in and ending; return True if there is one."""
    results: dict[str, dict[str, int]] = {way: {} for way in ways}
    compared = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        for way, place, deed in rows():
            if way not in results:
                continue
            number, found = outcome(way, place, deed, Path(folder))
            runs, compared = runs + 1, compared + number
            results[way][deed] = results[way].get(deed, 0) + len(found)
            for difference in found:
                print(f"{way}, {place}, {deed}: {difference}", file=sys.stderr)
    width = max(map(len, results))
    print(" " * width, *DEEDS, sep=" | ")
    for way, row in results.items():
        print(way.ljust(width), *(str(row.get(deed, "-")).rjust(len(deed)) for deed in DEEDS), sep=" | ")
    differences = sum(sum(row.values()) for row in results.values())
    print(f"{runs} runs, {compared} things compared, {differences} differences")
    return bool(differences)


# -- interrupts -------------------------------------------------------------------------------------------------------

Spot = tuple[CodeType, int, int]
"""A code object, a line or (as a negative number, less one) the offset of an instruction, and which visit of it."""


class Spots(contextlib.AbstractContextManager["Spots"]):
    """Traces the lines and instructions of gradlint's own code, and of contextlib's, which runs between them."""

    def __init__(self, at: Spot | None = None) -> None:
        self.visits: dict[tuple[CodeType, int], int] = {}
        self._at = at
        self.raised = False

    def __enter__(self) -> Spots:
        sys.settrace(self._called)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(str(HERE)) and not (file == contextlib.__file__ and _by_gradlint(frame)):
            return None
        if self._at is not None and frame.f_code is not self._at[0]:
            return None
        frame.f_trace_opcodes = self._at is None or self._at[1] < 0
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("line", "opcode"):
            key = (frame.f_code, frame.f_lineno if event == "line" else -1 - frame.f_lasti)
            count = self.visits[key] = self.visits.get(key, 0) + 1
            if self._at == (*key, count):
                sys.settrace(None)
                self.raised = True
                raise KeyboardInterrupt
        return self._stepped


def _by_gradlint(frame: FrameType) -> bool:
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename == contextlib.__file__:
        caller = caller.f_back
    return caller is not None and caller.f_code.co_filename.startswith(str(HERE))


AROUND = ("undo.py", "recording.py", "cuda.py", "session.py", "observation.py", "replay.py", "steps.py", "perturb.py")
"""Files whose every line is interrupted."""


def is_around(code: CodeType) -> bool:
    """Return True for code that sets a recording up or takes it down."""
    path = Path(code.co_filename)
    return path.name in AROUND or path.parent.name in ("hooks", "restore") or path.name == "contextlib.py"


def is_out_of_reach(spot: Spot) -> bool:
    """Return True for a place where no code of gradlint can hold against an interrupt, or where Python allows none.

    The first are the instructions of a public `__exit__` before its `try` and those of an `__enter__` that returns. The
    second is the end of a `with` block: tracing calls it a line, and Python looks for no signal there.
    """
    code, place, visit = spot
    if place >= 0 and visit > 1 and linecache.getline(code.co_filename, place).lstrip().startswith("with "):
        return True
    return code in (gradlint.Recording.__exit__.__code__, gradlint.Recording.__enter__.__code__) and place < 0


def spots(run: Callable[[], object], number: int, seed: int) -> list[Spot]:
    """Return places to interrupt: the first and last visit of every line around a recording, and random others."""
    with Spots() as visited:
        run()
    every = [(c, p, n) for (c, p), most in visited.visits.items() for n in {1, most}]
    every = [spot for spot in every if not is_out_of_reach(spot)]
    every.sort(key=lambda spot: (spot[0].co_filename, spot[0].co_firstlineno, spot[1:]))
    lines = [s for s in every if s[1] >= 0 and is_around(s[0])]
    others = [s for s in every if not (s[1] >= 0 and is_around(s[0]))]
    draw = random.Random(seed)
    draw.shuffle(lines)
    draw.shuffle(others)
    return [*lines, *others][:number] if number >= len(lines) else lines[:number]


def interrupted(run: Callable[[], object], spot: Spot) -> tuple[bool, bool]:
    """Return whether an interrupt was raised at a place, and whether it came out of the run."""
    tracer = Spots(spot)
    try:
        with tracer:
            run()
    except KeyboardInterrupt:
        return True, True
    except Exception:
        if "--verbose" in sys.argv:
            traceback.print_exc()
        if not tracer.raised:
            raise
    return tracer.raised, False


@dataclass
class Interrupted:
    """What interrupts of one way in came to."""

    raised: int = 0
    compared: int = 0
    """Number of things that were compared after them."""
    lost: int = 0
    left: int = 0
    """Number of interrupts after which something differs."""
    faults: list[str] = field(default_factory=list)

    def cells(self) -> tuple[int, int, int, int]:
        """Return its row of a table."""
        return self.raised, self.compared, self.lost, self.left


def interrupts(way: str, number: int, seed: int, only: str = "") -> Interrupted:
    """Interrupt one way in at so many places, each in a run of its own."""
    result = Interrupted()
    enter, trained = WAYS_IN[way]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "target.py"
        file.write_text(FILE, encoding="utf-8")
        torch.manual_seed(1)
        case = Case()
        CASES[:] = [case]

        def run() -> None:
            enter(case, f"{file}:build")

        run()
        chosen = [spot for spot in spots(run, number, seed) if only in spot[0].co_name]
        gc.freeze()  # so that the collections below look at what the runs leave, and not at all of torch
        before = case.table(trained=trained)
        for spot in chosen:
            gc.collect()  # what an interrupt left suspended ends here, and not amid the next run
            was, came_out = interrupted(run, spot)
            is_lost = was and not came_out
            left = fingerprint.differences(before, case.table(trained=trained))
            result.raised += was
            result.compared += len(before) * was
            result.lost += is_lost
            result.left += bool(left)
            if is_lost or left:
                code, place, visit = spot
                at = f"{Path(code.co_filename).name} {code.co_name} {place} ({visit})"
                result.faults.append(f"{at}: {'lost' if is_lost else ''} {left[:3]}")
                case = Case()
                CASES[:] = [case]
                fingerprint.mend()
                before = case.table(trained=trained)
        gc.unfreeze()
    return result


def interrupts_table(ways: list[str], number: int, seed: int, only: str) -> bool:
    """Print what interrupts of each way in came to; return True if one was lost or left something."""
    width = max(map(len, ways))
    print(" " * width, "interrupts", "things compared", "lost", "left something", sep=" | ")
    rows = []
    for way in ways:
        row = interrupts(way, -(-number // len(ways)), seed, only)
        rows.append(row.cells())
        print(way.ljust(width), "{:10} | {:15} | {:4} | {:14}".format(*row.cells()), sep=" | ", flush=True)
        for fault in row.faults:
            print(f"  {fault}", file=sys.stderr, flush=True)
    total = [sum(column) for column in zip(*rows, strict=True)]
    print("all".ljust(width), "{:10} | {:15} | {:4} | {:14}".format(*total), sep=" | ")
    return any(total[2:])


def main() -> None:
    """Print a table, or the interrupts."""
    sys.modules["untouched"] = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--way", default=",".join(WAYS_IN), help="which, with commas between them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--only", default="", help="interrupt only code of this name")
    arguments = parser.parse_args()
    began = time.monotonic()
    ways = arguments.way.split(",")
    if arguments.interrupts:
        is_wrong = interrupts_table(ways, arguments.interrupts, arguments.seed, arguments.only)
    else:
        is_wrong = endings_table(ways)
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
