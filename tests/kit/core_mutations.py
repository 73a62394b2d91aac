"""Deletes the conditions of the recorder's rooms one at a time and lists those whose loss no test notices.

    python tests/kit/core_mutations.py [--room ROOM ...] [--sample N] [--seed S] [--only PART ...] [--verbose]

ROOM is recorder, experiments or restore, and PART a part of a file's path or of what is deleted. Each condition has a
switch (`switches`), so torch and the tree are imported once.

1. Every setup is recorded with all conditions in place: those of the fixtures, of the awkward models and of the loops,
   as they are built, made before gradlint sees them, and as scripts; and programs of the fuzzer. What is taken down of
   each: its findings, the verdict on each of its parameters, what is left of the recording in the process and in the
   training setup; its time; and the switches that it feels.
2. Each condition is deleted in a fork, for the setups that feel it, quickest first, until one tells something else.
3. What survives is given to the tests that feel it, in the same way.

A part of the setups is asked before the tests are, and the rest after them. Conditions that are only asked while a
module is imported are left out.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import importlib
import io
import os
import pickle
import pkgutil
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import switches
import table

ROOMS = ("recorder", "experiments", "restore")
MOST_CASES = 30
"""Number of setups that a deletion is tried on."""
MOST_TESTS = 30
MOST_SECONDS = 60
"""Seconds of computing after which a deletion counts as noticed, because it does not come to an end."""
PATIENCE = 1200.0
"""Seconds after which one that only waits does; the machine may be busy."""
OUT_OF_TIME = "out of time"
PROGRAMS = range(100, 140)
"""Seeds of the fuzzer's programs."""
TESTS = tuple(
    "preserved untouched caller_undisturbed settings freed_storage exported_memory same_values perturb gradient_size"
    " steps step_replay replay recording cut_places related_places parameter_names executed warned steering"
    " torch_internals trace_is_data cost cuda awkward_models zero_in_steps reached_in_steps markers intent"
    " pretrained_loads frozen_in_turns zero_gradient_ops api setup inputs assertions real_models one_cause"
    " restore_conditions".split()
)
"""Test files that record in their own process."""


# -- what setups tell -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One recording, and what it tells."""

    name: str
    run: Callable[[], list[str]]


def cases() -> list[Case]:
    """Return all setups in all their forms."""
    import fuzz
    import messages
    import mutations

    found = []
    for place in mutations.SETUPS:
        for path in sorted(place.glob("*.py")):
            if path.stem in mutations.SLOW:
                continue
            for builder in table.builders(path, "bad_", "good_", "build", "case_"):
                found.append(Case(f"{builder.id} built", functools.partial(_built, builder)))
                third = zlib.crc32(builder.id.encode()) % 3
                if place == table.FIXTURES and messages.means_the_same_made_before(builder) and third == 0:
                    found.append(Case(f"{builder.id} made before", functools.partial(_made_before, builder)))
                if third == 1:
                    found.append(Case(f"{builder.id} script", functools.partial(_script, builder)))
    for seed in PROGRAMS:
        found += [Case(f"program {seed} {form}", functools.partial(_program, seed, form)) for form in fuzz.FORMS]
    return found


def _options() -> Any:
    from gradlint.engine.options import Options

    return Options(numeric=True, overview=True)


def _told(report: Any, builder: Any = None) -> list[str]:
    import messages

    from gradlint import Severity

    if builder is None:
        found = [f for f in report.findings if f.severity > Severity.INFO]
    else:
        found = messages.told(builder, report.findings)
    told = sorted("\n".join(messages.lines(f)) for f in found)
    told += [f"failure: {failure.message}" for failure in report.errors]
    for overview in report.overviews:
        told += [f"{p.name}: {p.outcome} {p.requires_grad} {p.groups}" for p in overview.parameters]
    return told


def _built(builder: Any) -> list[str]:
    from gradlint.engine.check import check_target

    return _told(check_target(builder.target, table.rules(), _options()), builder)


def _made_before(builder: Any) -> list[str]:
    import fingerprint
    import torch
    from torch import nn

    from gradlint.engine.check import check_setup

    setup = builder.load()()
    parts: list[Any] = list(setup.values()) if isinstance(setup, dict) else [setup]
    parts = [each for part in parts for each in (part.values() if isinstance(part, dict) else (part,))]
    models = [part for part in parts if isinstance(part, nn.Module)]
    optimizers = [part for part in parts if isinstance(part, torch.optim.Optimizer)]

    def objects() -> dict[str, Any]:
        modes = {f"modes {n}": [m.training for m in model.modules()] for n, model in enumerate(models)}
        return {**fingerprint.values(models, optimizers), **fingerprint.hooks(models, optimizers), **modes}

    before = objects()
    told = _told(check_setup(setup, table.rules(), _options()), builder)
    return told + _names(fingerprint.differences(before, objects()))


def _script(builder: Any) -> list[str]:
    import forms

    try:
        trace = forms._script(builder)
    except forms.Inexpressible:
        return []
    return _told(_report(trace), builder)


def _report(trace: Any, replay: Any = None) -> Any:
    from gradlint.engine.check import check_trace
    from gradlint.experiments.settle import analyse

    return check_trace(trace, table.rules(), _options(), analyse(trace, replay).evidence)


def _program(seed: int, form: str) -> list[str]:
    import fuzz
    import generated

    with tempfile.TemporaryDirectory() as folder:
        said = fuzz.FORMS[form][1](fuzz.Loaded(generated.program(seed).source, Path(folder)))
        return _told(said.report) + [f"{name}: {kind}" for name, kind in said.kinds.items()]


def _names(differences: Sequence[str]) -> list[str]:
    """Return what differs, without addresses."""
    return [f"left: {difference.partition(':')[0]}" for difference in differences]


class Teller:
    """Runs cases and tells what becomes of each, what it leaves in the process included."""

    def __init__(self) -> None:
        self.before = self._process()
        self.left: set[str] = set()

    @staticmethod
    def _process() -> dict[str, Any]:
        import fingerprint

        return {**fingerprint.cheap(), **dict(fingerprint._modes()), **dict(fingerprint._attributes())}

    def tell(self, case: Case) -> list[str]:
        """Return what is told of a case."""
        import fingerprint
        import torch

        torch.manual_seed(0)
        random.seed(0)
        main = sys.modules["__main__"]
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                told = case.run()
        except Exception as error:
            told = [f"raised {type(error).__name__}"]
        finally:
            sys.modules["__main__"] = main
        torch.set_grad_enabled(True)  # what a build leaves on is its own
        if case.name.endswith(("built", "loss", "step")):
            return told
        now = self._process()
        left = _names(fingerprint.differences(self.before, {name: now.get(name) for name in self.before}))
        new = sorted(set(left) - self.left)
        self.left |= set(left)
        return told + new


# -- asking them ------------------------------------------------------------------------------------------------------


@dataclass
class Reached:
    """What one case or test reaches, takes and tells."""

    name: str
    numbers: frozenset[int]
    seconds: float
    told: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Its form, or its file of tests."""
        return self.name.partition("::")[0] if "::" in self.name else self.name.rpartition(" ")[2]


def _out_of_time(*_: Any) -> None:
    raise TimeoutError


class Fork:
    """A fork of this process that works for it."""

    def __init__(self, work: Callable[[], Any], computing: int | None = None, patience: float = 36000.0) -> None:
        self.patience = patience
        self.reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(self.reader)
            try:
                if computing is not None:
                    used = int(time.process_time())
                    resource.setrlimit(resource.RLIMIT_CPU, (used + computing, used + computing))
                answer = pickle.dumps(work())
                with os.fdopen(writer, "wb") as file:
                    file.write(answer)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(writer)

    def answer(self) -> Any:
        """Return what it came to; None if it did not come to an end."""
        answer = b""
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, self.patience)
        try:
            with os.fdopen(self.reader, "rb") as file:
                answer = file.read()
        except TimeoutError:
            os.kill(self.child, signal.SIGKILL)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.waitpid(self.child, 0)
        return pickle.loads(answer) if answer else None


def map_cases(chosen: Sequence[Case]) -> tuple[list[Reached], list[str]]:
    """Return what each case reaches and tells, and the modules that were imported for it."""
    found, teller = [], Teller()
    for case in chosen:
        switches.felt.clear()
        started = time.process_time()
        told = teller.tell(case)
        found.append(Reached(case.name, frozenset(switches.felt), time.process_time() - started, told))
    return found, sorted(sys.modules)


def first_difference(mine: Sequence[tuple[Case, list[str]]]) -> tuple[str, str]:
    """Return the name of the first case that tells something else than before, and what; empty if none does."""
    teller = Teller()
    for case, before in mine:
        told = teller.tell(case)
        if told != before:
            return case.name, "; ".join(sorted(set(told) ^ set(before))[:2]).replace("\n", " ")[:200]
    return "", ""


def quickest(number: int, reached: Sequence[Reached], most: int) -> list[Reached]:
    """Return the quickest of what reaches a mutant, of all kinds in turn."""
    by_kind: dict[str, list[Reached]] = collections.defaultdict(list)
    for each in sorted(reached, key=lambda r: r.seconds):
        if number in each.numbers:
            by_kind[each.kind].append(each)
    ranked = [(rank, n, each) for n, kind in enumerate(by_kind.values()) for rank, each in enumerate(kind)]
    return [each for _, _, each in sorted(ranked, key=lambda r: r[:2])][:most]


def survivors_of_cases(alive: Sequence[int], part: Sequence[Case], verbose: bool) -> list[int]:
    """Return the mutants that no case notices."""
    reached, modules = Fork(functools.partial(map_cases, part)).answer()
    for name in modules:  # so that no fork has to import them again
        if name.startswith(("torch.", "numpy.", "scipy.", "gradlint.")) and name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    by_name = {case.name: case for case in part}
    steady: dict[str, bool] = {}
    left = []
    for number in alive:
        mine = quickest(number, reached, MOST_CASES)
        while True:
            mine = [r for r in mine if steady.get(r.name, True)]
            name, what = _ask_cases(number, [(by_name[r.name], r.told) for r in mine])
            if not name or name == OUT_OF_TIME or name in steady:
                break
            (case,) = [r for r in mine if r.name == name]
            steady[name] = _ask_cases(switches.NONE, [(by_name[name], case.told)]) == ("", "")
            if steady[name]:
                break
        if not name:
            left.append(number)
        if verbose:
            print(f"{_named(number)}\n    {f'{name}: {what}' if name else f'told apart by none of {len(mine)}'}")
            sys.stdout.flush()
    return left


def _ask_cases(number: int, mine: Sequence[tuple[Case, list[str]]]) -> tuple[str, str]:
    if not mine:
        return "", ""

    def work() -> tuple[str, str]:
        switches.delete(number)
        return first_difference(mine)

    answer: tuple[str, str] | None = Fork(work, MOST_SECONDS, PATIENCE).answer()
    return answer or (OUT_OF_TIME, "")


# -- asking tests -----------------------------------------------------------------------------------------------------


class _Mapping:
    """Takes down what each test reaches."""

    def __init__(self) -> None:
        self.reached: list[Reached] = []
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[Any]:
        switches.felt.clear()
        started = time.process_time()
        try:
            return (yield)
        finally:
            seconds = time.process_time() - started
            self.reached.append(Reached(item.nodeid, frozenset(switches.felt), seconds))


class _Asking(_Mapping):
    """Runs in place of the session the tests that reach each mutant, each mutant in a fork."""

    def __init__(self, wanted: Mapping[int, Sequence[str]]) -> None:
        super().__init__()
        self.wanted = wanted
        self.noticed: dict[int, str] = {}

    def pytest_runtestloop(self, session: Any) -> bool:
        by_id = {item.nodeid: item for item in session.items}
        for number, ids in self.wanted.items():
            work = functools.partial(self._first_failure, number, [by_id[i] for i in ids if i in by_id])
            answer = Fork(work, MOST_SECONDS, PATIENCE).answer()
            self.noticed[number] = OUT_OF_TIME if answer is None else answer
        return True

    def _first_failure(self, number: int, items: Sequence[Any]) -> str:
        switches.delete(number)
        for item in items:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self.failed:
                return str(item.nodeid)
        return ""


def _pytest(plugin: Any, files: Sequence[str]) -> None:
    if not files:  # pytest would run all tests
        return
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header", "--tb=no", "-rN"]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*arguments, f"--rootdir={table.ROOT}", *files], plugins=[plugin])


def map_tests(files: Sequence[str]) -> list[Reached]:
    """Return what each passing test of some files reaches."""
    plugin = _Mapping()
    _pytest(plugin, files)
    if plugin.failed:
        print(f"fail without a mutant: {', '.join(sorted(plugin.failed))}", file=sys.stderr)
    return [r for r in plugin.reached if r.name not in plugin.failed]


def noticed_by_tests(wanted: Mapping[int, Sequence[str]]) -> dict[int, str]:
    """Return by mutant the first of its tests that fails; empty if none does."""
    plugin = _Asking(wanted)
    _pytest(plugin, sorted({name.partition("::")[0] for names in wanted.values() for name in names}))
    return plugin.noticed


# -- all of it --------------------------------------------------------------------------------------------------------


def _named(number: int) -> str:
    switch = switches.switches[number]
    return f"{switch.path.relative_to(table.ROOT).as_posix()}:{switch.line}: {switch.what}"


def _room(number: int) -> str:
    return switches.switches[number].path.relative_to(table.ROOT / "gradlint").parts[0]


def _chosen(only: Sequence[str], sample: int | None, seed: int) -> list[int]:
    """Return the switches to try."""
    wanted = [s.number for s in switches.switches if not s.once]
    wanted = [number for number in wanted if not only or any(part in _named(number) for part in only)]
    if sample is None:
        return wanted
    chosen = []
    for room in ROOMS:
        mine = [number for number in wanted if _room(number) == room]
        chosen += sorted(random.Random(seed).sample(mine, min(sample, len(mine))))
    return chosen


def _import(rooms: Sequence[str]) -> None:
    """Import the rooms with their switches, and whatever else the setups need."""
    switches.install(*(f"gradlint.{room}" for room in rooms))
    import torch

    torch.set_num_threads(1)
    for kind in torch.optim.Optimizer.__subclasses__():  # torch patches the class when its first object is made
        with contextlib.suppress(Exception):
            kind([torch.nn.Parameter(torch.ones(1, 1))], lr=0.1)
    for room in rooms:
        package = importlib.import_module(f"gradlint.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in ("forms", "fuzz", "generated", "messages", "mutations", "fingerprint"):
        importlib.import_module(name)


def main() -> int:
    """Print the survivors and the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", action="append", choices=ROOMS, help="all three where none is given")
    parser.add_argument("--only", action="append", default=[], help="a part of a file's path or of what is deleted")
    parser.add_argument("--sample", type=int, help="number of conditions drawn in each room; all without it")
    parser.add_argument("--seed", type=int, default=0, help="of that choice")
    parser.add_argument("--part", type=int, default=6, help="one in so many setups is asked first")
    parser.add_argument("--no-rest", action="store_true", help="ask these setups alone")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files of tests, without test_")
    parser.add_argument("--verbose", action="store_true", help="say of each deletion who notices it")
    given = parser.parse_args()
    sys.path.insert(0, str(table.FIXTURES))
    _import(given.room or ROOMS)
    chosen = alive = _chosen(given.only, given.sample, given.seed)
    print(f"{len(chosen)} conditions", flush=True)
    files = [f"tests/test_{name}.py" for name in given.tests]
    tests = Fork(functools.partial(map_tests, files))
    every = cases()
    first = [case for case in every if zlib.crc32(case.name.encode()) % given.part == 0]
    alive = survivors_of_cases(alive, first, given.verbose)
    print(f"{len(alive)} left after {len(first)} setups", flush=True)
    reached = tests.answer()
    wanted = {number: [r.name for r in quickest(number, reached, MOST_TESTS)] for number in alive}
    noticed = Fork(functools.partial(noticed_by_tests, wanted)).answer()
    for number in alive:
        if given.verbose and wanted[number]:
            print(f"{_named(number)}\n    {noticed[number] or f'none of {len(wanted[number])} tests'}", flush=True)
    alive = [number for number in alive if not noticed.get(number)]
    print(f"{len(alive)} left after {len(reached)} tests", flush=True)
    if not given.no_rest:
        alive = survivors_of_cases(alive, [case for case in every if case not in first], given.verbose)
        print(f"{len(alive)} left after {len(every)} setups", flush=True)
    for room in given.room or ROOMS:
        mine = [number for number in chosen if _room(number) == room]
        left = [number for number in mine if number in alive]
        print(f"{room}: {len(mine) - len(left)} of {len(mine)} noticed")
        for number in left:
            print(f"  {_named(number)}")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
