"""Deletes the conditions of the rules one at a time and lists those whose loss no fixture notices.

    python tests/mutations.py [RULE ...] [--helpers] [--jobs N]

Every guard, every operand of `and` and `or`, every filter of a comprehension and both arms of a conditional expression
make a mutant each. A set-up is recorded once, and all mutants that are still alive are asked about that recording, so
that thousands take minutes. A mutant is noticed where it raises, or where it changes what a set-up with annotations
gives (findings, words, related places, edits) or what any set-up gives above info. `--helpers` mutates what the rules
share instead: the files of `HELPERS`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import multiprocessing
import os
import signal
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import table

HELPERS = ("blame", "cuts", "flow", "rearrange", "relatives", "settling", "source", "stale", "starving", "terms")
"""Modules of gradlint whose conditions are conditions of rules."""
SETUPS = [table.FIXTURES, table.FIXTURES / "founding", table.FIXTURES / "real", table.ROOT / "tests" / "awkward"]
PATIENCE = 20.0
"""Seconds after which a mutant that does not come to an end counts as noticed."""
SLOW = ("text", "vision_and_speech", "adapters")
_JUMPS = (ast.Continue, ast.Break, ast.Return)


@dataclass(frozen=True)
class Mutant:
    """One file with one condition less."""

    path: Path
    line: int
    what: str
    code: Any

    def __str__(self) -> str:
        return f"{self.path.relative_to(table.ROOT).as_posix()}:{self.line}: {self.what}"


# -- making them ------------------------------------------------------------------------------------------------------


def mutants(path: Path) -> Iterator[tuple[int, str, ast.Module]]:
    """(line, what was done, the mutated file) for every condition of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    count = sum(1 for _ in ast.walk(tree))
    for index in range(count):
        for change in range(_changes(_at(tree, index))):
            mutated = copy.deepcopy(tree)
            line, what = _apply(mutated, index, change)
            yield line, what, ast.fix_missing_locations(mutated)


def _at(tree: ast.Module, index: int) -> ast.AST:
    return next(node for number, node in enumerate(ast.walk(tree)) if number == index)


def _changes(node: ast.AST) -> int:
    """In how many ways a node is mutated."""
    if isinstance(node, ast.BoolOp):
        return len(node.values)
    if isinstance(node, ast.comprehension):
        return len(node.ifs)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return 0
    return {ast.If: 1, ast.IfExp: 2}.get(type(node), 0)


def _apply(tree: ast.Module, index: int, change: int) -> tuple[int, str]:
    node = _at(tree, index)
    if isinstance(node, ast.BoolOp):
        gone = node.values[change]
        node.values[change] = ast.Constant(isinstance(node.op, ast.And))
        return gone.lineno, f"without {ast.unparse(gone)} in {'and' if isinstance(node.op, ast.And) else 'or'}"
    if isinstance(node, ast.comprehension):
        gone = node.ifs.pop(change)
        return gone.lineno, f"without the filter {ast.unparse(gone)}"
    if isinstance(node, ast.IfExp):
        what = f"{('first', 'second')[change]} arm of {ast.unparse(node)}"
        node.test = ast.Constant(change == 0)
        return node.lineno, f"always the {what}"
    assert isinstance(node, ast.If)
    guard = isinstance(node.body[-1], _JUMPS) and not node.orelse
    what = f"{'never' if guard else 'always'} {ast.unparse(node.test)}"
    node.test = ast.Constant(not guard)
    return node.lineno, what


# -- asking them ------------------------------------------------------------------------------------------------------


def rules_of(code: Any, path: Path) -> list[Any]:
    """The rule classes that a compiled rule file defines."""
    from gradlint import Rule

    module = types.ModuleType(f"mutant_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses ask for it
    exec(code, module.__dict__)
    return [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Rule) and v is not Rule]


def seen(builder: table.Builder, findings: Sequence[Any], hints: frozenset[str]) -> list[Any]:
    """What tests notice of the findings on a set-up."""
    kept = []
    for f in findings:
        hinted = f.name in hints and builder.path.parent == table.FIXTURES
        if builder.annotations or f.severity > 0 or (hinted and builder.path.stem.replace("_", "-") == f.name):
            kept.append((f.code, int(f.severity), f.message, f.location, f.parameters, f.related, f.fix))
    return sorted(kept, key=repr)


def _out_of_time(*_: Any) -> None:
    raise TimeoutError


def ask(path: Path, alive: Sequence[Mutant]) -> list[int]:
    """Numbers of the mutants that the set-ups of one file notice."""
    import torch

    from gradlint import Severity, engine, flow, numeric, registry

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _out_of_time)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(path.parent))
    rules = registry.load(packs=False).rules
    hints = frozenset(r.name for r in rules if r.severity is Severity.INFO)
    files = {p: compile(p.read_text(encoding="utf-8"), str(p), "exec") for p in sorted(table.RULES.glob("*.py"))}
    killed: set[int] = set()
    for builder in table.builders(path, "bad_", "good_", "build", "case_"):
        if len(killed) == len(alive):
            break
        try:
            with engine.record_target(builder.target, engine.Options()) as trace:
                found = flow.Flow(trace)
                trace.numeric = numeric.measure(trace, found.judged)
                before: dict[Any, Any] = {}
                for number, mutant in enumerate(alive):
                    if number in killed:
                        continue
                    try:
                        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
                        if mutant.path in files:
                            if mutant.path not in before:
                                before[mutant.path] = _judged(files[mutant.path], mutant.path, trace, found)
                            now = _judged(mutant.code, mutant.path, trace, found)
                            expected = before[mutant.path]
                        else:
                            expected = before.setdefault("all", _with_helper(None, None, trace, files))
                            now = _with_helper(mutant.path.stem, mutant.code, trace, files)
                        if seen(builder, now, hints) != seen(builder, expected, hints):
                            killed.add(number)
                    except Exception:
                        killed.add(number)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
        except Exception as error:  # set-ups that end in an error have no findings to compare
            print(f"  {builder.id}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            torch.set_grad_enabled(True)
    return sorted(killed)


def _judged(code: Any, path: Path, trace: Any, found: Any) -> list[Any]:
    from gradlint.rule import Context

    context = Context(trace, found)
    return [
        finding
        for rule in rules_of(code, path)
        if not any(context.has(need) for need in rule.needs)
        for finding in rule().check(context)
    ]


def _with_helper(name: str | None, code: Any, trace: Any, files: dict[Path, Any]) -> list[Any]:
    """The findings of all rules with one of the shared modules mutated."""
    import gradlint

    kept = dict(sys.modules), dict(vars(gradlint))
    try:
        if name is not None:
            module = types.ModuleType(f"gradlint.{name}")
            module.__file__ = str(table.ROOT / "gradlint" / f"{name}.py")
            sys.modules[module.__name__] = module
            for public in [n for n, home in gradlint._HOME_OF.items() if n in vars(gradlint)]:
                del vars(gradlint)[public]
            for user in HELPERS:  # they import names from the mutated one
                if user != name:
                    sys.modules.pop(f"gradlint.{user}", None)
            exec(code, module.__dict__)
        context = gradlint.Context(trace, gradlint.Flow(trace))
        found = []
        for path, compiled in files.items():
            for rule in rules_of(compiled, path):
                if not any(context.has(need) for need in rule.needs):
                    found += rule().check(context)
        return found
    finally:
        sys.modules.clear()
        sys.modules.update(kept[0])
        vars(gradlint).clear()
        vars(gradlint).update(kept[1])


def survivors(plan: Sequence[tuple[Path, bool]], alive: list[Mutant], jobs: int) -> list[Mutant]:
    """The mutants that no set-up of some files notices; a file may be asked about the rule of its own name only.

    Each file gets a process forked from this one, which has the mutants compiled and torch imported.
    """
    context = multiprocessing.get_context("fork")
    running: list[tuple[Any, Any, list[Mutant]]] = []
    pending = list(plan)
    while pending or running:
        while pending and len(running) < jobs:
            path, mine = pending.pop(0)
            group = [m for m in alive if not mine or m.path.name == path.name]
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(sender, path, group))
            process.start()
            sender.close()
            running.append((process, receiver, group))
        process, receiver, group = running.pop(0)
        try:
            gone = {id(group[n]) for n in receiver.recv()}
        except EOFError:
            gone = set()
        process.join()
        alive = [m for m in alive if id(m) not in gone]
    return alive


def _child(sender: Any, path: Path, group: list[Mutant]) -> None:
    sender.send(ask(path, group))


def main() -> int:
    """Print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", help="stems of rule files (or of helpers); all where none is given")
    parser.add_argument("--helpers", action="store_true")
    parser.add_argument("--fast", action="store_true", help="leave out the set-ups of whole transformers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    folder = table.ROOT / "gradlint" if given.helpers else table.RULES
    paths = [folder / f"{h}.py" for h in HELPERS] if given.helpers else sorted(folder.glob("*.py"))
    paths = [p for p in paths if not given.rules or p.stem in given.rules]
    alive = [
        Mutant(path, line, what, compile(tree, str(path), "exec"))
        for path in paths
        for line, what, tree in mutants(path)
    ]
    total = len(alive)
    own = [table.FIXTURES / p.name for p in paths if (table.FIXTURES / p.name).is_file()]
    others = [p for place in SETUPS for p in sorted(place.glob("*.py")) if p not in own]
    others = [p for p in others if not given.fast or p.stem not in SLOW]
    print(f"{total} mutants of {len(paths)} files", flush=True)
    for plan in ([(p, True) for p in own], [(p, False) for p in (*own, *others)]):
        alive = survivors(plan, alive, given.jobs)
        print(f"{len(alive)} left of {total}", flush=True)
    for mutant in alive:
        print(mutant)
    print(f"{total - len(alive)} of {total} noticed")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
