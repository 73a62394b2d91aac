"""Many files judged by the source rules, in several processes, with a cache of findings."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from gradlint.config.discover import SourceFile
from gradlint.engine.pool import pool
from gradlint.engine.source_cache import Cache, digest
from gradlint.engine.source_file import judge_bytes, may_apply
from gradlint.findings import Failure, Finding
from gradlint.rulekit import registry
from gradlint.rulekit.fence import Fence
from gradlint.rulekit.rule import Rule
from gradlint.source import overlay
from gradlint.source.text import NOTEBOOK

_NOQA = re.compile(rb"(?i:noqa)\s*:[^\n]*\bGL\d")
WORTH_A_PROCESS = 1_500_000
"""Bytes to parse below which starting processes takes longer than it saves."""
CHUNK = 400_000
"""Bytes handed to a process at once."""
_Loading = tuple[tuple[str, ...], tuple[str, ...], Fence, bool]
"""The codes of rules, and what `registry.load` takes."""


@dataclass(frozen=True)
class FileResult:
    """The findings in one file."""

    path: str
    digest: str
    """That of the content that was judged."""
    findings: list[Finding]
    suppresses: bool
    """True if a comment in it may suppress a finding."""


@dataclass
class SourceOutcome:
    """The result of a source check."""

    results: list[FileResult] = field(default_factory=list)
    """Files with findings or suppressions."""
    failures: list[Failure] = field(default_factory=list)
    files: int = 0
    parsed: int = 0
    """Files that were judged, now or, with the same content, before."""
    cached: int = 0
    """Number of files whose results came from the cache."""

    def add(self, result: FileResult) -> None:
        """Add what was found in a file, if anything was."""
        if result.findings or result.suppresses:
            self.results.append(result)


@dataclass(frozen=True)
class RuleSet:
    """The rules for some files, in a form that another process can load."""

    rules: tuple[type[Rule], ...]
    folders: tuple[str, ...] = ()
    fence: Fence = Fence()  # noqa: RUF009 - it is frozen
    packs: bool = True

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(rule.code for rule in self.rules)


def check_files(
    files: Iterable[SourceFile],
    rules_of: Callable[[SourceFile], RuleSet],
    *,
    cache_folder: Path | None = None,
    target_of: Callable[[str], str] = str,
    jobs: int | None = None,
) -> SourceOutcome:
    """Judge files: one that cannot be read is a failure, one that cannot be parsed a finding.

    Args:
        files: the files.
        rules_of: the rules for a file.
        cache_folder: where findings are remembered; None to remember nothing.
        target_of: how reports name a file.
        jobs: processes at most; None for as many as there are processors.
    """
    outcome = SourceOutcome()
    caches: dict[tuple[str, RuleSet], Cache] = {}
    todo: dict[RuleSet, list[_Task]] = {}
    for file in files:
        outcome.files += 1
        try:
            data = overlay.read(file.path)
        except OSError as error:
            outcome.failures.append(Failure(target_of(file.path), f"cannot be read: {error.strerror or error}"))
            continue
        rules = rules_of(file)
        suppresses = _suppresses(data)
        if not (file.named or suppresses or b"torch" in data or may_apply(data, rules.rules)):
            continue
        if not file.named and _is_foreign_notebook(file.path, data):
            continue
        outcome.parsed += 1
        root = str(file.settings.root)
        if (root, rules) not in caches:
            caches[root, rules] = Cache(cache_folder, (root, *_texts(rules)))
        cache = caches[root, rules]
        known = digest(data)
        findings = cache.get(_key(file.path, known), file.path, target_of)
        if findings is not None:
            outcome.cached += 1
            outcome.add(FileResult(file.path, known, findings, suppresses))
            continue
        todo.setdefault(rules, []).append(_Task(file.path, target_of(file.path), root, len(data)))
    for rules, tasks in todo.items():
        for task, judged in _judged(rules, tasks, jobs):
            if isinstance(judged, Failure):
                outcome.failures.append(judged)
                continue
            caches[task.root, rules].put(_key(task.path, judged.digest), judged.findings)
            outcome.add(judged)
    for cache in caches.values():
        cache.save()
    outcome.results.sort(key=lambda result: result.path)
    return outcome


def _suppresses(data: bytes) -> bool:
    """Return True if a comment in a file may suppress a finding."""
    return b"gradlint:" in data or (b"GL" in data and _NOQA.search(data) is not None)


def _is_foreign_notebook(path: str, data: bytes) -> bool:
    """Return True if a file is a notebook in another language, which a folder may hold."""
    if not path.endswith(NOTEBOOK):
        return False
    from gradlint.source.notebook import is_foreign  # not needed otherwise

    return is_foreign(data)


def _key(path: str, known: str) -> str:
    """Return the key in the cache: the same text is judged otherwise in a stub."""
    return f"{known}{os.path.splitext(path)[1]}"


@dataclass(frozen=True)
class _Task:
    path: str
    target: str
    root: str
    size: int


def _texts(rules: RuleSet) -> Iterator[str]:
    """Yield everything that findings depend on beside the file: the rules and the engine."""
    origins = registry.load(rules.folders, packs=rules.packs, fence=rules.fence).origins
    for rule in rules.rules:
        yield rule.code
        origin = origins.get(rule)
        yield digest(origin.read_bytes()) if origin is not None and origin.is_file() else ""
    yield _own_text()


def _own_text() -> str:
    """Return a digest of the package's own text, since a checkout changes without its version."""
    engine = Path(__file__).parent
    files = [*sorted(engine.glob("source_*.py")), *sorted((engine.parent / "source").glob("*.py"))]
    return digest(b"".join(path.read_bytes() for path in files))


def _judged(rules: RuleSet, tasks: list[_Task], jobs: int | None) -> Iterator[tuple[_Task, FileResult | Failure]]:
    alone = any(overlay.stands_in(task.path) for task in tasks)  # other processes have no overlay
    alone = alone or not _processes_start_safely()
    workers = 1 if alone else min(jobs or _processors(), 1 + sum(task.size for task in tasks) // WORTH_A_PROCESS)
    if workers < 2:
        for task in tasks:
            yield task, _judge_file(task, rules.rules)
        return
    chunks = _chunks(tasks)
    arguments = (rules.codes, rules.folders, rules.fence, rules.packs)
    lost: list[_Task] = []
    with pool(workers) as processes:
        pending = {processes.submit(_judge_chunk, chunk, *arguments): chunk for chunk in chunks}
        for future in as_completed(pending):
            try:
                yield from zip(pending[future], future.result(), strict=True)
            except BrokenProcessPool:
                lost += pending[future]
    for task in lost:
        yield task, _judge_alone(task, arguments)


def _processes_start_safely() -> bool:
    """Return True if new processes can be kept from importing modules of the working directory."""
    return sys.version_info >= (3, 11) or multiprocessing.get_start_method() == "fork"


def _judge_alone(task: _Task, arguments: _Loading) -> FileResult | Failure:
    """Judge one file in a process of its own, because its parsing may end the process."""
    with pool(1) as process:
        try:
            return process.submit(_judge_chunk, [task], *arguments).result()[0]
        except BrokenProcessPool:
            return Failure(task.target, "Python's parser did not survive this file")


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _chunks(tasks: Sequence[_Task]) -> list[list[_Task]]:
    """Return tasks in portions of about the same size, large files first."""
    chunks: list[list[_Task]] = []
    room = 0
    for task in sorted(tasks, key=lambda task: -task.size):
        if room <= 0:
            chunks.append([])
            room = CHUNK
        chunks[-1].append(task)
        room -= task.size
    return chunks


def _judge_chunk(
    tasks: list[_Task], codes: tuple[str, ...], folders: tuple[str, ...], fence: Fence, packs: bool
) -> list[FileResult | Failure]:
    import gc

    gc.disable()  # trees are large, full of cycles of none, and gone when the chunk is
    rules = tuple(rule for rule in registry.load(folders, packs=packs, fence=fence).rules if rule.code in codes)
    return [_judge_file(task, rules) for task in tasks]


def _judge_file(task: _Task, rules: tuple[type[Rule], ...]) -> FileResult | Failure:
    try:
        data = overlay.read(task.path)
    except OSError as error:
        return Failure(task.target, f"cannot be read: {error.strerror or error}")
    try:
        findings = judge_bytes(task.path, data, rules, task.target)
    except Exception as error:
        from gradlint.load.build import InternalError  # not needed otherwise

        return Failure(task.target, *InternalError.from_exception(error, "on this file"))
    return FileResult(task.path, digest(data), findings, _suppresses(data))
