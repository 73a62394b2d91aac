"""Deletes the conditions of gradlint's analysis one at a time and lists those whose loss nothing notices.

    python tests/kit/conditions.py flow|source|rulekit [MODULE ...] [--sample N --seed S] [--recordings FOLDER]

Each setup of the fixtures is recorded once in each of `KINDS`. What the analysis says of it is compared with what it
says without a condition, for each condition that decides something there (`switches`). A deletion is noticed where the
analysis raises or does not end, or where it changes

- what the tests assert of the findings (`mutations`, `forms`),
- the outcome of a parameter, its reason or its line, or
- for `source`, the findings in the files and snippets that the source rules are tested on.

With `--tests FILE ...`, the tests of these files are asked first: the cases of tables (`cases`) one by one, then each
other test without every condition that decides something in it (`switched_tests`). `--recordings` keeps the recordings
in a folder for the next time. What `--tries` recordings have not noticed counts as unnoticed. Conditions that are only
asked while a module is imported are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import pickle
import pkgutil
import random
import signal
import sys
import time
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import switches
import table
from switched_tests import run
from switches import Switch

ROOMS = ("flow", "source", "rulekit")
KINDS = ("built", "made before", "step", "script")
LIMIT = 2.0
"""Seconds of CPU time within which the analysis without a condition has to end."""


@dataclass(frozen=True)
class Question:
    """Something that the analysis is asked with and without a condition."""

    name: str
    answer: Callable[[], Iterator[tuple[str, Any]]]
    """Yields (kind, what tests see of that kind)."""


# -- recordings -------------------------------------------------------------------------------------------------------


def recorded_questions(folder: Path | None, kinds: Sequence[str]) -> Iterator[Question]:
    """Yield a question about each setup that tests record."""
    for kind, path in [(one, path) for one in kinds for path in _files(one)]:
        kept = folder / f"{kind}-{path.parent.name}-{path.stem}-{_key(path)}.pickle" if folder is not None else None
        if kept is not None and kept.exists():
            recordings = pickle.loads(kept.read_bytes())
        else:
            recordings = dict(_record(_cases(kind, path)))
            if kept is not None:
                kept.write_bytes(pickle.dumps(recordings))
        for case in _cases(kind, path):
            if case.name in recordings:
                data = recordings[case.name]
                yield Question(case.name, functools.partial(_judged, data, case.seen))


def _files(kind: str) -> list[Path]:
    import mutations

    if kind == "built":
        return [path for place in mutations.SETUPS for path in sorted(place.glob("*.py"))]
    return table.fixture_files()


def _cases(kind: str, path: Path) -> Iterator[Any]:
    """Yield the setups of a file, recorded in one way."""
    import forms
    import mutations

    if kind in mutations.KINDS:
        yield from mutations.KINDS[kind](path)
        return
    opened = {"step": _in_steps, "script": _as_script}[kind]
    for builder in forms.builders():
        if builder.path == path:
            yield mutations.Case(f"{builder.id} as {kind}", functools.partial(opened, builder), _said)


@contextlib.contextmanager
def _in_steps(builder: table.Builder) -> Iterator[Any]:
    import forms

    from gradlint.engine import check as engine

    options = engine.Options(amend=lambda setup: forms._in_form(setup, forms.Form.STEP))
    with forms.quiet(), engine.record_target(builder.target, options) as recorded:
        yield recorded


@contextlib.contextmanager
def _as_script(builder: table.Builder) -> Iterator[Any]:
    import forms

    with forms.quiet():
        yield types.SimpleNamespace(trace=forms._script(builder), replay=None)


def _said(findings: Sequence[Any]) -> list[Any]:
    """Return what the forms of a program have to agree on."""
    return sorted((f.code, int(f.severity), f.location.line if f.location else 0, *f.parameters) for f in findings)


@functools.cache
def _recorder_key() -> bytes:
    """Return a digest of the code that records."""
    rooms = [table.ROOT / "gradlint" / room for room in ("load", "recorder", "restore", "traces", "experiments")]
    files = sorted(path for room in rooms for path in room.rglob("*.py"))
    return hashlib.sha1(b"".join(path.read_bytes() for path in files)).digest()


def _key(path: Path) -> str:
    return hashlib.sha1(_recorder_key() + path.read_bytes()).hexdigest()[:12]


def _record(cases: Iterator[Any]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, pickled trace and evidence) of each case; those that end in an error are left out."""
    import torch

    from gradlint.experiments.settle import analyse

    for case in cases:
        with contextlib.suppress(Exception), case.open() as recorded:
            evidence = analyse(recorded.trace, recorded.replay, numeric=True).evidence
            yield case.name, pickle.dumps((recorded.trace, evidence))
        torch.set_grad_enabled(True)


@functools.lru_cache(maxsize=1)
def _loaded(data: bytes) -> tuple[Any, Any]:
    recording: tuple[Any, Any] = pickle.loads(data)
    return recording


def _judged(data: bytes, seen: Callable[[Sequence[Any]], Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is seen of the findings on a recording, then the outcomes of its parameters."""
    import mutations

    from gradlint.engine.source_of_recording import source_findings
    from gradlint.flow.flow import Flow
    from gradlint.flow.outcome import outcome_of
    from gradlint.rulekit.context import Context
    from gradlint.rulekit.contract import own_declarations

    trace, evidence = _loaded(data)
    flow = Flow(trace, evidence)
    context = Context(trace, flow, own_declarations(trace))
    rules = table.rules()
    found = mutations._run_in_order([rule for rule in rules if rule.judges_recordings()], context)
    skipped = {rule.code for rule in rules if any(context.has(need) for need in rule.needs)}
    yield "finding", seen([*found, *source_findings(trace, rules, found, skipped)[0]])
    outcomes = [outcome_of(flow, parameter) for parameter in trace.parameters]
    yield "outcome", [(o.kind.value, o.why, o.location, o.by) for o in outcomes]


# -- source -----------------------------------------------------------------------------------------------------------


def source_questions() -> Iterator[Question]:
    """Yield a question about each text that the source rules are tested on."""
    import mutations

    for number, (context, seen) in enumerate(mutations.source_cases()):
        source = context.module.source
        yield Question(f"text {number}", functools.partial(_judged_text, source, seen))


def _judged_text(source: Any, seen: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    from gradlint.engine.source_file import judge, may_apply
    from gradlint.rulekit.source_context import SourceContext
    from gradlint.source.file import SourceModule

    rules = may_apply(source.data, [rule for rule in table.rules() if rule.judges_source()])
    said = [seen(finding) for finding in judge(SourceContext(SourceModule(source)), rules)]
    yield "source finding", [what for what in said if what is not None]


# -- cases of tests --------------------------------------------------------------------------------------------------


def case_questions(files: Sequence[str]) -> Iterator[Question]:
    """Yield a question about each case of the tests of some files that need no fixtures (`cases.each`)."""
    sys.path.insert(0, str(table.ROOT / "tests"))
    for file in files:
        for name, test in vars(importlib.import_module(Path(file).stem)).items():
            for title, case in getattr(test, "alone", ()):
                yield Question(f"{name}[{title}]", functools.partial(_passed, case))


def _passed(case: Callable[..., None]) -> Iterator[tuple[str, Any]]:
    case()
    yield "case", None


# -- deleting ---------------------------------------------------------------------------------------------------------


class _OutOfTime(BaseException):
    pass


def _out_of_time(*_: Any) -> None:
    raise _OutOfTime


def forget(room: str) -> None:
    """Clear the caches of a room, whose entries another condition may have made."""
    for name, module in list(sys.modules.items()):
        if name.startswith(f"gradlint.{room}."):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper) and value.__module__ == name:
                    value.cache_clear()


def noticed_by(question: Question, room: str, number: int, expected: Sequence[tuple[str, Any]]) -> str:
    """Return what notices that a condition is deleted; empty if nothing does."""
    forget(room)
    switches.delete(number)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        for (kind, before), (_, now) in zip(expected, question.answer(), strict=True):
            if now != before:
                return kind
    except (_OutOfTime, Exception) as error:
        return type(error).__name__.strip("_")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        switches.delete(switches.NONE)
    return ""


def ask(
    questions: Sequence[Question], room: str, alive: dict[int, Switch], tries: Counter[int], most: int
) -> Iterator[tuple[int, str, str]]:
    """Yield (number of a switch, what noticed its deletion, question), and take what is noticed out of `alive`.

    Args:
        questions: what is asked.
        room: the room whose conditions are deleted.
        alive: the switches by number.
        tries: counts the questions that were asked without a condition, by number of the switch.
        most: how many of them are asked.
    """
    signal.signal(signal.SIGVTALRM, _out_of_time)
    for question in questions:
        forget(room)
        switches.felt.clear()
        expected = list(question.answer())
        for number in sorted(switches.felt & alive.keys()):
            if tries[number] >= most:
                continue
            tries[number] += 1
            kind = noticed_by(question, room, number, expected)
            if kind:
                del alive[number]
                yield number, kind, question.name
        if not alive:
            return
    forget(room)


def _questions(given: argparse.Namespace) -> list[Question]:
    if given.recordings:
        given.recordings.mkdir(parents=True, exist_ok=True)
    recorded = list(recorded_questions(given.recordings, given.kinds))
    random.Random(given.seed).shuffle(recorded)
    return [*(source_questions() if given.room == "source" else ()), *recorded]


def main() -> int:
    """Print the survivors and the rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("parts", nargs="*", help="names of modules of the room; all where none is given")
    parser.add_argument("--sample", type=int, default=0, help="how many conditions to delete; all where none is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recordings", type=Path, help="folder in which the recordings are kept")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS, help="how setups are recorded")
    parser.add_argument("--tries", type=int, default=40, help="how many recordings are judged without one condition")
    parser.add_argument("--tests", nargs="*", default=[], help="test files that are asked first")
    parser.add_argument("--verbose", action="store_true", help="print what notices each deletion too")
    given = parser.parse_args()
    switches.install(f"gradlint.{given.room}")
    package = importlib.import_module(f"gradlint.{given.room}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    warnings.simplefilter("ignore")
    chosen = [s for s in switches.switches if not s.once and (not given.parts or s.path.stem in given.parts)]
    if given.sample:
        chosen = sorted(
            random.Random(given.seed).sample(chosen, min(given.sample, len(chosen))), key=lambda s: s.number
        )
    started = time.process_time()
    alive = {switch.number: switch for switch in chosen}
    count: Counter[str] = Counter()
    tries: Counter[int] = Counter()
    print(f"{len(chosen)} conditions", flush=True)
    if given.tests:
        cases = list(case_questions(given.tests))
        count["case"] = sum(1 for _ in ask(cases, given.room, alive, Counter(), len(cases)))
        count["test"] = len(run(given.tests, alive, functools.partial(forget, given.room)))
        print(f"{len(alive)} left, {time.process_time() - started:.0f} s", flush=True)
    for number, kind, name in ask(_questions(given), given.room, alive, tries, given.tries):
        count[kind] += 1
        if given.verbose:
            print(f"  {switches.switches[number]}: {kind} of {name}", flush=True)
    for switch in alive.values():
        print(f"{switch}{'' if tries[switch.number] else ' (never felt)'}")
    print(f"{len(chosen) - len(alive)} of {len(chosen)} noticed: {dict(count)}, {time.process_time() - started:.0f} s")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
