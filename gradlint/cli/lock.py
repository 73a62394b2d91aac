"""The commands about the lock: ``gradlint lock`` and ``gradlint diff``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED, FOUND
from gradlint.cli.one_target import each_target
from gradlint.cli.options import OutputOptions
from gradlint.cli.output import show
from gradlint.config.settings import Configuration
from gradlint.engine.options import Options
from gradlint.errors import UsageError
from gradlint.findings import Report, TargetSummary
from gradlint.location import Location
from gradlint.lock.lockfile import NAME, key_of, read, section, target_of, write
from gradlint.lock.snapshot import Change, Snapshot, changes, drift, sections_drift
from gradlint.report import concise
from gradlint.report.view import View, shown_path, shown_place
from gradlint.wording import plural, tensors


def lock(
    targets: tuple[str, ...],
    check: bool,
    lock_file: str | None,
    given: Options,
    output_format: str,
    color: str,
) -> int:
    """Write the lock, or report what differs from it."""
    path = _path(lock_file, targets)
    view = streams.view_of_stdout(color)
    before = read(path) if check or path.is_file() else {}
    wanted, every = _wanted(targets, path, before if check else {})
    now, report = _snapshots(wanted, given)
    if check:
        report.findings += sections_drift(before, wanted, Location(str(path), 1)) if every else []
        for key, snapshot in now.items():
            if key in before:
                report.findings += drift(before[key], snapshot, path.name)
            elif not every:
                report.findings += sections_drift({}, [key], Location(str(path), 1))
        show(report, OutputOptions(output_format=output_format, color=color))
        return FAILED if report.errors else FOUND if report.findings else CLEAN
    if report.errors:
        streams.write_error(concise.errors(report, view))
        streams.write_error(f"error: {view.clean(path.name)} is left as it was\n")
        return FAILED
    unchecked = {} if every else before
    changed = write(path, {**unchecked, **now}.values())
    streams.write(_account(path, before, now, changed, view))
    return CLEAN


def diff(before: str | None, after: str | None, lock_file: str | None, given: Options, color: str) -> int:
    """Write the differences between two snapshots, or between targets and their lock."""
    view = streams.view_of_stdout(color)
    sides = [side for side in (before, after) if side is not None]
    if len(sides) < 2:
        path = _path(lock_file, sides)
        if sides and _is_lock(sides[0]):
            path, sides = Path(sides[0]), []
        locked = read(path)
        wanted, every = _wanted(sides, path, locked)
        now, report = _snapshots(wanted, given)
        keys = dict.fromkeys([*locked, *wanted]) if every else dict.fromkeys(wanted)
        pairs = [_Pair(key, locked.get(key), now.get(key)) for key in keys]
    else:
        files = [read(Path(side)) if _is_lock(side) else None for side in sides]
        targets = {side: side for side, file in zip(sides, files, strict=True) if file is None}
        now, report = _snapshots(targets, given) if targets else ({}, Report())
        if files[0] is not None and files[1] is not None:
            pairs = [_Pair(key, files[0].get(key), files[1].get(key)) for key in dict.fromkeys([*files[0], *files[1]])]
        else:
            snapshots = [
                now.get(side) if file is None else section(file, _key(sides[1 - i], side), Path(side))
                for i, (side, file) in enumerate(zip(sides, files, strict=True))
            ]
            pairs = [_Pair("", snapshots[0], snapshots[1])]
    if report.errors:
        streams.write_error(concise.errors(report, view))
        return FAILED
    text = _differences(pairs, view)
    streams.write(text or "no difference\n")
    return FOUND if text else CLEAN


def _snapshots(targets: Mapping[str, str], given: Options) -> tuple[dict[str, Snapshot], Report]:
    """Return the snapshots by their keys in the lock, and a report on the targets.

    Args:
        targets: key in the lock → target.
        given: what the command line says about each.

    Raises:
        Interrupted: on Ctrl-C.
    """
    keys = {target: key for key, target in targets.items()}

    def work(target: str) -> tuple[Snapshot, TargetSummary]:
        from gradlint.lock.take import snapshot_target  # once the engine is loaded

        settings = Configuration().of_target(target)
        return snapshot_target(target, given.configured(settings, target), keys[target])

    report = Report()
    snapshots = {}
    for target, (snapshot, summary) in each_target(keys, report, work):
        snapshots[keys[target]] = snapshot
        report.targets.append(summary)
    return snapshots, report


@dataclass(frozen=True)
class _Pair:
    """The two states of one target; None where it is not there."""

    name: str
    before: Snapshot | None
    after: Snapshot | None


def _path(lock_file: str | None, targets: Sequence[str]) -> Path:
    """Return the path of the lock.

    That is the one given, else gradlint.lock beside the configuration file or in the working folder.
    """
    if lock_file is not None:
        return Path(lock_file)
    settings = Configuration().of_target(targets[0]) if targets else Configuration().near(Path.cwd())
    return (settings.root if settings.path is not None else Path.cwd()) / NAME


def _wanted(targets: Sequence[str], path: Path, locked: dict[str, Snapshot]) -> tuple[dict[str, str], bool]:
    """Return (key in the lock → target, True if these are all of them).

    The targets are those given, else those configured, else those locked.

    Raises:
        UsageError: there are none.
    """
    folder = path.parent
    if targets:
        return {key_of(target, folder): target for target in dict.fromkeys(targets)}, False
    configured = Configuration().near(Path.cwd()).configured_targets()
    if configured:
        return {key_of(target, folder): target for target in configured}, True
    if locked:
        return {key: target_of(key, folder) for key in locked}, True
    raise UsageError("no target is named and none is configured: name one, or list them in [tool.gradlint.targets]")


def _is_lock(side: str) -> bool:
    return side.endswith(".lock") or (Path(side).is_file() and not side.endswith(".py"))


def _key(target: str, lock_file: str) -> str:
    return key_of(target, Path(lock_file).parent)


def _account(path: Path, before: dict[str, Snapshot], now: dict[str, Snapshot], changed: bool, view: View) -> str:
    """Return the lines that name the written targets and the changes."""
    name = shown_path(str(path), view.root)
    lines = [f"{name}: {plural(len(now), 'target')} {'written' if changed else 'as before'}"]
    for key, snapshot in now.items():
        counts = Counter(entry.outcome for entry in snapshot.entries.values())
        listed = ", ".join(f"{number} {outcome.plural}" for outcome, number in counts.items())
        total = sum(entry.numel for entry in snapshot.entries.values())
        lines.append(f"  {key}: {tensors(len(snapshot.entries), total)}: {listed}")
    pairs = [_Pair(key, before[key], snapshot) for key, snapshot in now.items() if key in before]
    return "".join(f"{view.clean(line)}\n" for line in lines) + _differences(pairs, view)


def _differences(pairs: Sequence[_Pair], view: View) -> str:
    """Return one line a change, below the name of its target if there are several."""
    parts = []
    for pair in pairs:
        if pair.before is None or pair.after is None:
            lines = [f"{pair.name} is {'not locked' if pair.before is None else 'locked and no longer a target'}"]
        else:
            lines = [_line(change, view) for change in changes(pair.before, pair.after)]
        if lines and pair.name and len(pairs) > 1:
            lines = [f"{pair.name}:", *(f"  {line}" for line in lines)]
        parts += lines
    return "".join(f"{view.clean(line)}\n" for line in parts)


def _line(change: Change, view: View) -> str:
    if change.location is None:
        return change.text
    return f"{change.text}{change.joint}{shown_place(change.location, view.root, column=False)}"
