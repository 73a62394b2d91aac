"""Compares gradlint's verdicts on generated programs with brute force: a real backward, and changed parameters.

``python tests/kit/fuzz.py --models N --seed S`` judges the programs with the seeds from S on in three forms: by their
loss, by their step, and as a script. It prints the disagreements of each kind, each with the smallest program that
shows it. ``--jobs`` runs them in several processes, ``--seeds`` names seeds one by one. ``--command`` compares the
findings of ``gradlint run`` on each script with those of the recording in this process.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import generated
import torch
from generated import Program, smaller
from generated_templates import TEMPLATES
from script import recorded
from torch import Tensor

from gradlint import Report, Rule, Severity
from gradlint.engine.check import check_trace, record_made
from gradlint.engine.options import Options
from gradlint.experiments.settle import analyse
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import OutcomeKind, kind_of
from gradlint.recorder.user_code import SEED, seed
from gradlint.rulekit import registry

ROUNDS = 3
LOSSES_OF_GRADIENT = frozenset({OutcomeKind.NO_GRADIENT, OutcomeKind.UNUSED})
NUDGES = (0.1, 3.0, -10.0)
NOT_A_NUMBER = (math.nan,)
"""A change that reaches the loss where values saturate, or where a norm takes the change out again."""
MORE_NOISES = 40
"""Number of random models on which changes are tried before a verdict about data counts as wrong."""


@dataclass(frozen=True)
class Disagreement:
    """One false statement of gradlint about a program."""

    form: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.form}: {self.kind}: {self.text}"


# -- running a program ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what programs print and warn of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.set_grad_enabled(True):
        warnings.simplefilter("ignore")
        yield


class Loaded:
    """A program in a file, which can be executed."""

    def __init__(self, source: str, folder: Path) -> None:
        self.path = folder / "program.py"
        self.path.write_text(source, encoding="utf-8")
        self.code = compile(source, str(self.path), "exec")

    @functools.cached_property
    def nudged(self) -> Nudged:
        """A model of it for changes of parameters."""
        return Nudged(self)

    def names(self, main: str = "program") -> dict[str, Any]:
        """Execute it and return its names."""
        module = types.ModuleType(main)
        module.__file__ = str(self.path)
        exec(self.code, vars(module))
        return vars(module)


# -- brute force ------------------------------------------------------------------------------------------------------


@dataclass
class Truth:
    """What plain torch shows of one form of a program."""

    frozen: frozenset[str] = frozenset()
    given: set[str] = field(default_factory=set)
    """Parameters that a backward gives a gradient."""
    moved: set[str] = field(default_factory=set)
    """Parameters with a gradient that is not zero everywhere."""
    held: frozenset[str] = frozenset()
    still: frozenset[str] = frozenset()
    """Parameters that their optimizer does not move."""
    optimizers: tuple[frozenset[str], ...] = ()


def _about_parameters(made: dict[str, Any]) -> Truth:
    model = made["model"]
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [g for o in made["optimizer"].values() for g in o.param_groups]
    return Truth(
        frozenset(n for n, p in model.named_parameters() if not p.requires_grad),
        held=frozenset(names[id(p)] for g in groups for p in g["params"]),
        still=frozenset(names[id(p)] for g in groups for p in g["params"] if g["lr"] == 0),
        optimizers=tuple(
            frozenset(names[id(p)] for g in o.param_groups for p in g["params"]) for o in made["optimizer"].values()
        ),
    )


def truth_of_loss(program: Loaded) -> Truth:
    """Return what one forward and one backward show."""
    made = program.names()["build"]()
    truth = _about_parameters(made)
    seed()
    loss = made["loss"](made["model"](*made["inputs"]))
    if not loss.isfinite():
        raise ArithmeticError("the loss overflows")
    if loss.requires_grad:
        loss.backward()
    for name, p in made["model"].named_parameters():
        if p.grad is not None:
            truth.given.add(name)
            if p.grad.any():
                truth.moved.add(name)
    return truth


def truth_of_steps(program: Loaded) -> Truth:
    """Return what some rounds of training show."""
    made = program.names()["build_step"]()
    truth = _about_parameters(made)

    def note(name: str, p: Tensor) -> None:
        truth.given.add(name)
        assert p.grad is not None
        if not p.grad.isfinite().all():
            raise ArithmeticError("the loss overflows")
        if p.grad.any():
            truth.moved.add(name)

    for name, p in made["model"].named_parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(functools.partial(lambda p, name: note(name, p), name=name))
    seed()
    for _ in range(ROUNDS + 1):  # the last as gradlint's further runs start from there
        made["step"]()
    return truth


class Nudged:
    """A model of a program whose parameters can be changed, to see whether the loss changes."""

    def __init__(self, program: Loaded) -> None:
        self.made = program.names()["build"]()
        self.model = self.made["model"]
        self.state = {id(t): (t, t.detach().clone()) for t in (*self.model.parameters(), *self.model.buffers())}
        self.path = str(program.path)
        self.plain: dict[float, tuple[Tensor, int]] = {}

    def loss(self, name: str, size: float, noise: float) -> tuple[Tensor, int]:
        """Return the loss with one parameter changed, and with noise on all of them; and the path of the run."""
        with torch.no_grad():
            for tensor, value in self.state.values():
                tensor.data.copy_(value)
            generator = torch.Generator().manual_seed(int(noise * 1000))
            for other, p in self.model.named_parameters():
                if noise:
                    p.data.add_(noise * torch.randn(p.shape, generator=generator))
                if other == name and math.isnan(size):
                    p.data.fill_(size)
                elif other == name:
                    own = torch.Generator().manual_seed(int(abs(size) * 1000))
                    p.data.add_(size * torch.randn(p.shape, generator=own))
        seed(SEED + int(noise * 1000))  # under one seed, dropout may hide a parameter from each of the losses
        with executed_path(self.path) as path, unchecked_distributions():
            value: Tensor = self.made["loss"](self.model(*self.made["inputs"]))
        return value.detach(), path[0]

    def changes(self, name: str, sizes: Iterable[float] = NUDGES, noises: Sequence[float] = (0.0, 0.02)) -> bool:
        """Return True if the loss changes with a parameter while the same code runs."""
        for noise in noises:
            if noise not in self.plain:
                self.plain[noise] = self.loss("", 0.0, noise)
        for size in sizes:
            for noise in noises:
                with contextlib.suppress(ValueError, RuntimeError):  # a program may refuse what is not a number
                    value, path = self.loss(name, size, noise)
                    if path == self.plain[noise][1] and not torch.equal(self.plain[noise][0], value):
                        return True
        return False


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Let distributions take what is not a number."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


@contextlib.contextmanager
def executed_path(file: str) -> Iterator[list[int]]:
    """Take down which instructions of a file run, as one number."""
    path = [0]

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != file:
            return None
        frame.f_trace_opcodes = True
        path[0] = hash((path[0], event, frame.f_code.co_firstlineno, frame.f_lasti))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield path
    finally:
        sys.settrace(before)


# -- gradlint ---------------------------------------------------------------------------------------------------------


@functools.cache
def rules() -> tuple[type[Rule], ...]:
    """Return the rules."""
    return registry.load(packs=False).rules


@dataclass
class Said:
    """The verdicts of gradlint on one form of a program."""

    kinds: dict[str, OutcomeKind]
    report: Report
    flow: Flow


def said_of_build(program: Loaded, name: str) -> Said:
    """Return the verdicts on a build function."""
    with record_made(program.names()[name], Options()) as made:
        return _said(analyse(made.trace, made.replay))


def said_of_script(program: Loaded) -> Said:
    """Return the verdicts on the program as a script, recorded in this process."""
    module = types.ModuleType("__main__")
    module.__file__ = str(program.path)
    return _said(analyse(recorded("program", ROUNDS, module, lambda: exec(program.code, vars(module))), None))


def _said(flow: Flow) -> Said:
    report = check_trace(flow.trace, rules(), Options(), flow.evidence)
    kinds = {p.fqn: kind_of(flow, p) for p in flow.trace.parameters if p.in_tree}
    return Said(kinds, report, flow)


FORMS: dict[str, tuple[Callable[[Loaded], Truth], Callable[[Loaded], Said]]] = {
    "loss": (truth_of_loss, lambda program: said_of_build(program, "build")),
    "step": (truth_of_steps, lambda program: said_of_build(program, "build_step")),
    "run": (truth_of_steps, said_of_script),
}
"""Form of a program → what plain torch shows of it, and what gradlint says."""


# -- comparing --------------------------------------------------------------------------------------------------------


def disagreements(program: Program, loaded: Loaded, form: str, figures: Figures) -> Iterator[Disagreement]:
    """Yield where gradlint is wrong about one form of a program."""

    def wrong(kind: str, text: str) -> Disagreement:
        return Disagreement(form, kind, text)

    find_truth, ask_gradlint = FORMS[form]
    try:
        truth = find_truth(loaded)
    except Exception:
        return  # nothing to judge: the loss has no gradient or overflows, or autograd refuses a write
    try:
        said = ask_gradlint(loaded)
    except Exception as error:
        yield wrong("failed", f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return
    if said.report.errors:
        yield wrong("failed", said.report.errors[0].message.splitlines()[0])
        return
    figures.judged[form] += 1
    figures.parameters.update(kind.value for kind in said.kinds.values())
    for name in said.kinds:
        yield from _about(program, loaded, said, truth, name, wrong)
    reported = {name for f in said.report.findings if f.severity > Severity.INFO for name in f.parameters}
    everywhere = {f.code for f in said.report.findings if not f.parameters and f.severity > Severity.INFO}
    for name, kind in said.kinds.items():
        if kind is OutcomeKind.NO_GRADIENT and name not in reported and not everywhere:
            yield wrong("no finding", f"{name} has no gradient, and no finding names it")
    if program.is_correct:
        for f in said.report.findings:
            if f.severity > Severity.INFO:
                line = f.location.line if f.location else 0
                yield wrong("false alarm", f"{f.code} line {line}: {f.message}")


def _about(
    program: Program, loaded: Loaded, said: Said, truth: Truth, name: str, wrong: Callable[[str, str], Disagreement]
) -> Iterator[Disagreement]:
    kind = said.kinds[name]
    told = f"{name} is said to be {kind.value!r}"
    if name in truth.frozen:
        if kind is not OutcomeKind.FROZEN:
            yield wrong("frozen", f"{told}, and is frozen")
    elif truth.optimizers and name not in truth.held:
        if kind is not OutcomeKind.NOT_IN_OPTIMIZER:
            yield wrong("optimizer", f"{told}, and no optimizer holds it")
    elif name in truth.still:
        if kind is not OutcomeKind.ZERO_LR:
            yield wrong("optimizer", f"{told}, and its learning rate is 0")
    elif name in truth.moved:
        if kind is not OutcomeKind.TRAINS:
            yield wrong("denies gradient", f"{told}, and has a gradient")
    elif kind is OutcomeKind.TRAINS:
        if name not in truth.given:
            yield wrong("invents gradient", f"{told}, and has none")
    elif kind is OutcomeKind.UNKNOWN:
        own = [held for held in truth.optimizers if name in held]
        waits = bool(own) and not any(held & truth.moved for held in own)
        undecided = {p.fqn for p in said.flow.by_index(said.flow.undecided)}
        if not waits and not (name in undecided and _may_stay_open(program, said, wrong("", "").form)):
            yield wrong("unknown", f"{told}: {said.flow.why_undecided}")
    elif kind not in LOSSES_OF_GRADIENT:
        yield wrong("other", told)
    else:
        yield from _about_data(loaded, name, kind, wrong, told)


def _may_stay_open(program: Program, said: Said, form: str) -> bool:
    """Return True if only a further run shows it: values left torch in a script, or training has diverged by then."""
    if "bound of 40 runs" in said.flow.why_undecided:
        return True
    diverged = ("the loss is not finite", "the loss is so large")
    if form != "loss" and any(d in said.flow.why_undecided for d in diverged):  # the truth looks at gradients
        return True
    return form == "run" and any(TEMPLATES[s.template].leaves for s in program.statements)


def _about_data(
    loaded: Loaded,
    name: str,
    kind: OutcomeKind,
    wrong: Callable[[str, str], Disagreement],
    told: str,
) -> Iterator[Disagreement]:
    if kind is OutcomeKind.UNUSED:
        if loaded.nudged.changes(name):
            yield wrong("misses data", f"{told}, and the loss changes with it")
    elif kind is OutcomeKind.NO_GRADIENT:
        noises = [0.1 * n for n in range(1, MORE_NOISES)]
        tries: tuple[Any, ...] = ((), (NOT_A_NUMBER,), ((0.1, 1.0, 5.0, 100.0), noises))
        if not any(loaded.nudged.changes(name, *sizes) for sizes in tries):
            yield wrong("invents data", f"{told}, and the loss does not change with it")


# -- many programs ----------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What a number of programs came to."""

    programs: int = 0
    judged: collections.Counter[str] = field(default_factory=collections.Counter)
    """Form → number of programs."""
    parameters: collections.Counter[str] = field(default_factory=collections.Counter)
    """Outcome → number of verdicts."""
    correct: int = 0
    wrong: dict[int, list[Disagreement]] = field(default_factory=dict)
    """Seed → disagreements."""

    def kinds(self) -> list[str]:
        """Return the kinds of disagreements."""
        return sorted({d.kind for wrong in self.wrong.values() for d in wrong})

    def text(self) -> str:
        """Return them in words."""
        by_kind = collections.Counter(kind for wrong in self.wrong.values() for kind in {d.kind for d in wrong})
        lines = [
            f"{self.programs} programs, {self.correct} of them correct; judged: "
            + ", ".join(f"{self.judged[form]} by {form}" for form in FORMS),
            f"{sum(self.parameters.values())} verdicts on parameters: "
            + ", ".join(f"{count} {kind}" for kind, count in self.parameters.most_common()),
            f"{len(self.wrong)} programs with a disagreement",
            *(f"  {kind}: {count}" for kind, count in by_kind.most_common()),
        ]
        return "\n".join(lines)

    def add(self, other: Figures) -> None:
        """Add other figures to these."""
        self.programs += other.programs
        self.correct += other.correct
        self.judged.update(other.judged)
        self.parameters.update(other.parameters)
        self.wrong.update(other.wrong)


def judge(program: Program, folder: Path, figures: Figures | None = None) -> list[Disagreement]:
    """Return where gradlint is wrong about a program, and count what was judged."""
    loaded = Loaded(program.source, folder)
    found: list[Disagreement] = []
    figures = Figures() if figures is None else figures
    with quiet():
        for form in FORMS:
            found += disagreements(program, loaded, form, figures)
    return found


def judge_seeds(seeds: Sequence[int]) -> Figures:
    """Judge the programs of some seeds."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        for number in seeds:
            program = generated.program(number)
            figures.programs += 1
            figures.correct += program.is_correct
            wrong = judge(program, Path(folder), figures)
            if wrong:
                figures.wrong[number] = wrong
    return figures


def findings_of_command(path: Path) -> list[str]:
    """Return the findings of ``gradlint run`` on a script, each in one line."""
    command = [sys.executable, "-m", "gradlint", "run", "--output-format", "json", "--steps", str(ROUNDS), path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        return [f"no JSON, exit code {done.returncode}: {done.stderr[-200:]}"]
    found = [_line(f["code"], f["line"], f["parameters"]) for f in document["findings"] if f["severity"] != "info"]
    return sorted([*found, *(f"error: {error['message']}" for error in document["errors"])])


def _line(code: str, line: int | None, parameters: Iterable[str]) -> str:
    return f"{code} {line} {', '.join(parameters)}"


def judge_by_command(seeds: Sequence[int]) -> Figures:
    """Compare what the command says of programs with what the recording in this process does."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        for number in seeds:
            program = generated.program(number)
            figures.programs += 1
            figures.correct += program.is_correct
            loaded = Loaded(program.source, Path(folder))
            with quiet():
                try:
                    report = said_of_script(loaded).report
                except Exception:
                    continue  # the script itself fails
            findings = (f for f in report.findings if f.severity > Severity.INFO)
            here = sorted(_line(f.code, f.location and f.location.line, f.parameters) for f in findings)
            there = findings_of_command(loaded.path)
            figures.judged["run"] += 1
            if here != there:
                text = f"here {sorted(set(here) - set(there))}, there {sorted(set(there) - set(here))}"
                figures.wrong[number] = [Disagreement("run", "the command differs", text)]
    return figures


def shrunk(program: Program, kind: str) -> tuple[Program, Disagreement]:
    """Return the smallest program found with a disagreement of a kind."""
    with tempfile.TemporaryDirectory() as folder:

        def shows(candidate: Program) -> Disagreement | None:
            try:
                wrong = judge(candidate, Path(folder))
            except Exception:
                return None
            return next((d for d in wrong if d.kind == kind), None)

        shown = shows(program)
        assert shown is not None
        while found := next(((c, d) for c in smaller(program) if (d := shows(c)) is not None), None):
            program, shown = found
        return program, shown


def _work(seeds: Sequence[int], by_command: bool = False) -> Figures:
    torch.set_num_threads(1)
    return judge_by_command(seeds) if by_command else judge_seeds(seeds)


def main() -> None:
    """Judge many programs and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds instead")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-shrink", action="store_true", help="print no programs")
    parser.add_argument("--show", action="store_true", help="print the program of each seed")
    parser.add_argument("--command", action="store_true", help="compare `gradlint run`, and shrink nothing")
    options = parser.parse_args()
    seeds = options.seeds or list(range(options.seed, options.seed + options.models))
    if options.show:
        for number in seeds:
            print(generated.program(number).source)
        return
    began = time.monotonic()
    figures = Figures()
    parts = [seeds[i : i + 50] for i in range(0, len(seeds), 50)]
    work = functools.partial(_work, by_command=options.command)
    with (
        multiprocessing.get_context("spawn").Pool(options.jobs)
        if options.jobs > 1
        else contextlib.nullcontext() as pool
    ):
        for done in pool.imap_unordered(work, parts) if pool is not None else map(work, parts):
            figures.add(done)
            for number, wrong in done.wrong.items():
                print(f"seed {number}: {wrong[0]}", file=sys.stderr, flush=True)
    print(figures.text())
    print(f"{time.monotonic() - began:.0f} seconds")
    if not (options.no_shrink or options.command):
        for kind in figures.kinds():
            number = min(n for n, wrong in figures.wrong.items() if any(d.kind == kind for d in wrong))
            program, shown = shrunk(generated.program(number), kind)
            print(f"\n{'#' * 100}\n# {kind}, seed {number}: {shown}\n{program.source}")
    sys.exit(bool(figures.wrong))


if __name__ == "__main__":
    main()
