"""Deletes the conditions of the rules one at a time and lists those whose loss no test notices.

    python tests/kit/mutations.py [RULE ...] [--helpers] [--fast] [--own] [--jobs N]

Every guard, every operand of `and` and `or`, every filter of a comprehension and both arms of a conditional expression
make a mutant each. A setup is recorded once, and all mutants that are still alive are asked about that recording, so
that thousands take minutes. A mutant is noticed where it raises, or where it changes what a test asserts:

- of the fixtures' setups, recorded as they are built and once more made before gradlint saw them, the words of all
  findings that are announced or above info (test_fixtures);
- of other setups, the code, severity, line and parameters of these;
- of the examples in a rule's documentation, which codes are given (test_documentation);
- of source cases, the code and line of each finding and what its fix makes of the text (test_source_pass, test_fixes).

`--helpers` mutates what the rules share instead: the files of `HELPERS`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import claims
import messages
import table

HELPERS = tuple(
    "source.training_loops source.training_order flow.added_numbers flow.broadcast flow.constant_terms"
    " flow.cross_loss flow.cut flow.cut_search flow.dropped_terms flow.flow flow.left_out flow.loads"
    " flow.loss_terms flow.marks flow.origin flow.parted flow.pretrained flow.replaced flow.siblings flow.slots"
    " flow.ties flow.uninitialised flow.untrained_terms flow.zero_factors experiments.settle"
    " rulekit.cut_findings rulekit.executed_code rulekit.loss_inputs".split()
)
"""Modules of gradlint whose conditions are conditions of rules."""
FACES = ("gradlint", "gradlint.flow", "gradlint.rulekit", "gradlint.source", "gradlint.traces")
"""The packages that rules import from."""
TESTS = table.ROOT / "tests"
SETUPS = [table.FIXTURES, table.FIXTURES / "founding", table.FIXTURES / "real", TESTS / "awkward", TESTS / "loops"]
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


@functools.cache
def rules_of(code: Any, path: Path) -> tuple[Any, ...]:
    """The rule classes that a compiled rule file defines."""
    from gradlint import Rule

    module = types.ModuleType(f"mutant_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses ask for it
    exec(code, module.__dict__)
    return tuple(v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Rule) and v is not Rule)


# -- what tests look at -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One recording, and what tests assert of the findings on it."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Any]]
    seen: Callable[[Sequence[Any]], list[Any]]


def built(path: Path) -> Iterator[Case]:
    """The setups of a file, recorded while they are built."""
    from gradlint.engine import check as engine

    for builder in table.builders(path, "bad_", "good_", "build", "case_"):
        opened = functools.partial(engine.record_target, builder.target, engine.Options())
        yield Case(builder.id, opened, functools.partial(_told, builder, path.parent == table.FIXTURES))


def made_before(path: Path) -> Iterator[Case]:
    """Those of a rule's fixtures, recorded after they were made."""
    from gradlint.engine import check as engine

    for builder in messages.made_before_builders():
        if builder.path == path:
            opened = functools.partial(_opened_late, builder, engine.Options())
            yield Case(f"{builder.id} made before", opened, functools.partial(_told, builder, True))


@contextlib.contextmanager
def _opened_late(builder: table.Builder, options: Any) -> Iterator[Any]:
    from gradlint.engine import check as engine

    with engine.record_made(builder.load()(), options) as recorded:
        yield recorded


def documented(path: Path) -> Iterator[Case]:
    """The examples in the documentation of a file's rules."""
    from gradlint.engine import check as engine

    for rule in rules_of(compile(path.read_text(encoding="utf-8"), str(path), "exec"), path):
        for title in ("Example", "Use instead"):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "example.py")
                file.write_text(claims.example(rule, title), encoding="utf-8")
                opened = functools.partial(engine.record_target, f"{file}:build", engine.Options())
                seen = functools.partial(_codes, rule.code)
                yield Case(f"{rule.code} {title}", opened, seen)


def _told(builder: table.Builder, reviewed: bool, findings: Sequence[Any]) -> list[Any]:
    told = messages.told(builder, findings)
    if reviewed and not builder.annotations:  # claims.findings
        told += [f for f in findings if f.severity == 0 and f.name in claims.hints() and _stem(f) == builder.path.stem]
    if reviewed:
        return sorted(([*messages.lines(f)], f.fix.edits if f.fix and f.fix.safe else ()) for f in told)
    return sorted((f.code, int(f.severity), f.location.line if f.location else 0, *f.parameters) for f in told)


def _codes(code: str, findings: Sequence[Any]) -> list[str]:
    return sorted(f.code for f in findings if f.severity > 0 or f.code == code)


def _stem(finding: Any) -> str:
    return str(finding.name).replace("-", "_")


KINDS = {"built": built, "made before": made_before, "documented": documented}


def _out_of_time(*_: Any) -> None:
    raise TimeoutError


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raises in what does not come to an end."""
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def ask(path: Path, kind: str, alive: Sequence[Mutant]) -> list[int]:
    """Numbers of the mutants that the tests of one kind on one file notice."""
    import torch

    signal.signal(signal.SIGALRM, _out_of_time)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(path.parent))
    _judge_source_once()
    if kind == "source":
        return [number for number, mutant in enumerate(alive) if noticed_in_source(mutant, path)]
    files = _compiled(sorted(table.RULES.glob("*.py")))
    killed: set[int] = set()
    for case in KINDS[kind](path):
        if len(killed) == len(alive):
            break
        try:
            killed |= noticed(case, {n: m for n, m in enumerate(alive) if n not in killed}, files)
        except Exception as error:  # setups that end in an error have no findings to compare
            print(f"  {case.name}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            torch.set_grad_enabled(True)
    return sorted(killed)


def _compiled(paths: Sequence[Path]) -> dict[Path, Any]:
    return {p: compile(p.read_text(encoding="utf-8"), str(p), "exec") for p in paths}


def noticed(case: Case, alive: dict[int, Mutant], files: dict[Path, Any]) -> set[int]:
    """Which of the mutants change what is seen of one case."""
    from gradlint.experiments import settle

    killed = set()
    with case.open() as recorded:
        trace = recorded.trace
        found = settle.analyse(trace, recorded.replay, numeric=True)
        reported = _reported(trace, found)
        before: dict[Any, Any] = {}
        for number, mutant in alive.items():
            own = mutant.path in files
            key = mutant.path if own else None
            if key not in before:
                whole = functools.partial(_with_helper, None, None, trace, found.evidence, files)
                before[key] = _judged(files[mutant.path], mutant.path, trace, found, reported) if own else whole()
            try:
                with limited():
                    if own:
                        now = _judged(mutant.code, mutant.path, trace, found, reported)
                    else:
                        now = _with_helper(_helper_name(mutant.path), mutant.code, trace, found.evidence, files)
                    if case.seen(now) != case.seen(before[key]):
                        killed.add(number)
            except Exception:
                killed.add(number)
    return killed


def _reported(trace: Any, flow: Any) -> dict[str, set[str]]:
    """Return code → names of the parameters that each shipped rule reports on a recording."""
    from gradlint.rulekit import registry
    from gradlint.rulekit.context import Context

    context = Context(trace, flow)
    _run_in_order(registry.load(packs=False).rules, context)
    return context.reported


def _run_in_order(rules: Sequence[Any], context: Any) -> list[Any]:
    """Return the findings of the rules whose needs are met, as the engine runs them."""
    from gradlint.rulekit.precedence import in_order, run

    ready = [rule for rule in in_order(rules) if not any(context.has(need) for need in rule.needs)]
    return [finding for rule in ready for finding in run(rule(), context)]


def _judged(code: Any, path: Path, trace: Any, found: Any, reported: Mapping[str, set[str]]) -> list[Any]:
    """Return the findings of one file's rules on a recording and on the code that ran in it.

    Args:
        code: the compiled file, or a mutant of it.
        path: the file.
        trace: the recording.
        found: the facts about it.
        reported: the parameters that each shipped rule reports, for the rules that yield to it.
    """
    from gradlint.engine.source_of_recording import source_findings
    from gradlint.rulekit.context import Context

    context = Context(trace, found)
    context.reported.update(reported)
    rules = rules_of(code, path)
    skipped = {rule.code for rule in rules if any(context.has(need) for need in rule.needs)}
    recorded = _run_in_order(rules, context)
    asked = any(rule.judges_source() for rule in rules)
    return recorded + source_findings(trace, rules, recorded, skipped)[0] if asked else recorded


def _judge_source_once() -> None:
    """Make the pass over the code that ran judge each file once by each mutant, not once for each setup in it."""
    from gradlint.engine import source_of_recording
    from gradlint.rulekit.source_context import SourceContext

    original = source_of_recording.judge
    judge = functools.cache(lambda module, rules: original(SourceContext(module), rules))
    source_of_recording.judge = lambda context, rules: judge(context.module, tuple(rules))
    source_of_recording._spans = lambda *_: ()


@functools.cache
def source_cases() -> list[tuple[Any, Callable[[Any], Any]]]:
    """(parsed file, what tests see of a finding in it) of everything that the source rules are tested on."""
    sys.path.insert(0, str(TESTS))
    import test_fixes
    import test_source_pass

    from gradlint.rulekit.source_context import SourceContext
    from gradlint.source.file import SourceModule
    from gradlint.source.text import SourceText

    def parsed(path: str, text: str) -> Any:
        return SourceContext(SourceModule(SourceText(path, text.encode())))

    def severity(finding: Any) -> Any:
        return finding.severity

    def place(finding: Any) -> Any:
        return finding.code, finding.location.line

    def unannounced(path: Path, finding: Any) -> Any:
        return place(finding) if place(finding) not in test_source_pass.ANNOUNCED[path] else None

    cases: list[tuple[Any, Callable[[Any], Any]]] = []
    for part in (test_source_pass.BAD, test_source_pass.GOOD):
        cases += [(parsed("m.py", text), place) for text in part.values()]
    cases += [(parsed("m.py", text), severity) for _, text in sorted(test_source_pass.WEIGHED)]
    for path in test_source_pass.ANNOUNCED:
        text = path.read_text(encoding="utf-8")
        cases.append((parsed(str(path), text), functools.partial(unannounced, path)))
    for _, before, _ in test_fixes.CASES.values():
        text = test_fixes.source(before)
        cases.append((parsed("m.py", text), lambda f: f.fix.edits if f.fix and f.fix.safe else place(f)))
    for _, before, _ in test_fixes.UNSAFE.values():
        cases.append((parsed("m.py", test_fixes.whole(before)), lambda f: f.fix.edits if f.fix else place(f)))
    for rule in test_source_pass.RULES:
        shown = [claims.example(rule, title) for title in ("Example", "Use instead")]
        cases += [(parsed("m.py", text), lambda f: f.code) for text in shown]
    return cases


@functools.cache
def _source_before(path: Path) -> list[Any]:
    return _of_source(rules_of(_compiled([path])[path], path))


def _of_source(rules: tuple[Any, ...]) -> list[Any]:
    from gradlint.engine.source_file import judge, may_apply

    return [
        [seen(f) for f in judge(context, may_apply(context.module.source.data, rules)) if seen(f) is not None]
        for context, seen in source_cases()
    ]


def noticed_in_source(mutant: Mutant, path: Path) -> bool:
    """Whether the rule of a file says other things of the source cases with a mutant, of itself or of a helper."""
    expected = _source_before(path)
    try:
        with limited():
            if mutant.path == path:
                return _of_source(rules_of(mutant.code, path)) != expected
            with _helper(_helper_name(mutant.path), mutant.code, _compiled([path])) as rules:
                return _of_source(rules) != expected
    except Exception:
        return True


def _with_helper(name: str | None, code: Any, trace: Any, evidence: Any, files: dict[Path, Any]) -> list[Any]:
    """The findings of all rules with one of the shared modules mutated."""
    import gradlint

    with _helper(name, code, files) as rules:
        context = gradlint.Context(trace, gradlint.Flow(trace, evidence))
        return _run_in_order(rules, context)


@contextlib.contextmanager
def _helper(name: str | None, code: Any, files: Mapping[Path, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rules of some files while they and gradlint use one of the shared modules mutated."""
    kept = dict(sys.modules), {face: dict(vars(importlib.import_module(face))) for face in FACES}
    try:
        modules, names, rules = _world(name, code, tuple(files.items()))
        sys.modules.update(modules)
        _attach(modules)
        _set_names(names)
        yield rules
    finally:
        sys.modules.clear()
        sys.modules.update(kept[0])
        _attach({name: kept[0][name] for name in map("gradlint.{}".format, HELPERS) if name in kept[0]})
        _set_names(kept[1])


def _set_names(names: Mapping[str, Mapping[str, Any]]) -> None:
    """Give each of the packages that rules import from its names."""
    for face, values in names.items():
        known = vars(sys.modules[face])
        known.clear()
        known.update(values)


@functools.cache
def _world(name: str | None, code: Any, files: tuple[tuple[Path, Any], ...]) -> tuple[Any, Any, tuple[Any, ...]]:
    """The shared modules, the names of the package and the rules, all of which use one mutated module.

    Leaves the modules that it makes in `sys.modules`.
    """
    from gradlint.lazy import modules_of

    for user in HELPERS:  # they import names from each other
        sys.modules.pop(f"gradlint.{user}", None)
    for face in FACES:
        for public in modules_of(face):
            vars(importlib.import_module(face)).pop(public, None)
    if name is not None:
        module = types.ModuleType(f"gradlint.{name}")
        module.__file__ = str(_helper_path(name))
        sys.modules[module.__name__] = module
        _attach({module.__name__: module})
        exec(code, module.__dict__)
    modules = {f"gradlint.{h}": importlib.import_module(f"gradlint.{h}") for h in HELPERS}
    rules = tuple(rule for path, compiled in files for rule in rules_of.__wrapped__(compiled, path))
    return modules, {face: dict(vars(sys.modules[face])) for face in FACES}, rules


def _attach(modules: Mapping[str, types.ModuleType]) -> None:
    """Make modules the attributes of their packages that ``from package import module`` reads."""
    for name, module in modules.items():
        package, _, leaf = name.rpartition(".")
        setattr(importlib.import_module(package), leaf, module)


def _helper_name(path: Path) -> str:
    return ".".join(path.relative_to(table.ROOT / "gradlint").with_suffix("").parts)


def _helper_path(name: str) -> Path:
    return table.ROOT / "gradlint" / f"{name.replace('.', '/')}.py"


def survivors(plan: Sequence[tuple[Path, str, bool]], alive: list[Mutant], jobs: int) -> list[Mutant]:
    """The mutants that no test of some files notices; a file may be asked about the rule of its own name only.

    Each file gets a process forked from this one, which has the mutants compiled and torch imported.
    """
    context = multiprocessing.get_context("fork")
    running: list[tuple[Any, Any, list[Mutant]]] = []
    pending = list(plan)
    while pending or running:
        while pending and len(running) < jobs:
            path, kind, mine = pending.pop(0)
            group = [m for m in alive if not mine or m.path.name == path.name]
            if not group:
                continue
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(sender, path, kind, group))
            process.start()
            sender.close()
            running.append((process, receiver, group))
        if not running:
            break
        process, receiver, group = running.pop(0)
        try:
            gone = {id(group[n]) for n in receiver.recv()}
        except EOFError:
            gone = set()
        process.join()
        alive = [m for m in alive if id(m) not in gone]
    return alive


def _child(sender: Any, path: Path, kind: str, group: list[Mutant]) -> None:
    sender.send(ask(path, kind, group))


def main() -> int:
    """Print the survivors."""
    import torch

    torch.set_num_threads(1)
    torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), 0.1)  # imports more of it, for all processes that are forked
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", help="stems of rule files (or of helpers); all where none is given")
    parser.add_argument("--helpers", action="store_true")
    parser.add_argument("--fast", action="store_true", help="leave out the setups of whole transformers")
    parser.add_argument("--own", action="store_true", help="ask the tests of the rules' own files alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    paths = [_helper_path(h) for h in HELPERS] if given.helpers else sorted(table.RULES.glob("*.py"))
    unknown = {*given.rules} - {p.stem for p in paths}
    if unknown:
        parser.error(f"there is no file {', '.join(sorted(unknown))}")
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
    judging = table.RULES.glob("*.py") if given.helpers else paths
    source = [p for p in sorted(judging) if "def check_source" in p.read_text(encoding="utf-8")]
    print(f"{total} mutants of {len(paths)} files", flush=True)
    plans = [
        [(p, "built", True) for p in own],
        [(p, "made before", True) for p in own],
        [(p, "source", not given.helpers) for p in source],
        [(p, "documented", not given.helpers) for p in sorted(table.RULES.glob("*.py"))],
        [(p, "built", False) for p in (*own, *others)],
        [(p, "made before", False) for p in table.fixture_files()],
    ]
    for plan in plans[:4] if given.own else plans:
        alive = survivors(plan, alive, given.jobs)
        print(f"{len(alive)} left of {total}", flush=True)
    for mutant in alive:
        print(mutant)
    print(f"{total - len(alive)} of {total} noticed")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
