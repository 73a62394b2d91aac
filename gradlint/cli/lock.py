"""The commands about the lock: ``gradlint lock`` and ``gradlint diff``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradlint.cli import streams
from gradlint.cli.app import color_option, inputs_option
from gradlint.cli.exits import CLEAN, FAILED, FOUND
from gradlint.errors import UsageError

if TYPE_CHECKING:
    from gradlint.findings import Report
    from gradlint.lock.snapshot import Change, Snapshot
    from gradlint.report.view import View

_lock_file = click.option(
    "--lock-file", metavar="FILE", help="The lock; by default gradlint.lock beside the configuration file."
)


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--check", is_flag=True, help="Write nothing; report what is not as the lock says (GL704).")
@_lock_file
@inputs_option
@click.option(
    "--output-format", type=click.Choice(["full", "concise", "json"]), default="full", show_default=True,
    help="How the report of --check is written to stdout.",
)  # fmt: skip
@color_option
def lock(
    targets: tuple[str, ...],
    check: bool,
    lock_file: str | None,
    inputs: tuple[str, ...],
    output_format: str,
    color: str,
) -> int:
    """Write down what trains in each TARGET, or in all that are configured, for review and for --check.

    With --check the exit code is 1 where anything differs from what is written. A lock is written whole or not at all.
    """
    from gradlint.cli import output as outcome  # loads what --version need not
    from gradlint.cli.one_target import snapshots
    from gradlint.location import Location
    from gradlint.lock.lockfile import read, write
    from gradlint.lock.snapshot import drift, sections_drift

    path = _path(lock_file, targets)
    view = streams.view_of_stdout(color)
    before = read(path) if check or path.is_file() else {}
    wanted, every = _wanted(targets, path, before if check else {})
    now, report = snapshots(wanted, inputs=inputs)
    if check:
        report.findings += sections_drift(before, wanted, Location(str(path), 1)) if every else []
        for key, snapshot in now.items():
            if key in before:
                report.findings += drift(before[key], snapshot, path.name)
            elif not every:
                report.findings += sections_drift({}, [key], Location(str(path), 1))
        outcome.show(report, outcome.Wishes(output_format=output_format, color=color))
        return FAILED if report.errors else FOUND if report.findings else CLEAN
    if report.errors:
        _say_errors(report, view)
        streams.tell(f"error: {path.name} is left as it was\n")
        return FAILED
    kept = {} if every else before
    changed = write(path, {**kept, **now}.values())
    streams.write(_account(path, before, now, changed, view))
    return CLEAN


@click.command()
@click.argument("before", metavar="[A]", required=False)
@click.argument("after", metavar="[B]", required=False)
@_lock_file
@inputs_option
@color_option
def diff(before: str | None, after: str | None, lock_file: str | None, inputs: tuple[str, ...], color: str) -> int:
    """Say in words what trains in B and not in A, and the other way round.

    A and B are targets or lock files. Without B, A is compared with what the lock says of it; without both, every
    target that is configured is. The exit code is 0 where nothing differs, 1 where anything does.
    """
    from gradlint.cli.one_target import snapshots  # loads what --version need not
    from gradlint.findings import Report
    from gradlint.lock.lockfile import read, section

    view = streams.view_of_stdout(color)
    sides = [side for side in (before, after) if side is not None]
    if len(sides) < 2:
        path = _path(lock_file, sides)
        if sides and _is_lock(sides[0]):
            path, sides = Path(sides[0]), []
        locked = read(path)
        wanted, every = _wanted(sides, path, locked)
        now, report = snapshots(wanted, inputs=inputs)
        keys = dict.fromkeys([*locked, *wanted]) if every else dict.fromkeys(wanted)
        pairs = [_Pair(key, locked.get(key), now.get(key)) for key in keys]
    else:
        files = [read(Path(side)) if _is_lock(side) else None for side in sides]
        targets = {side: side for side, file in zip(sides, files, strict=True) if file is None}
        now, report = snapshots(targets, inputs=inputs) if targets else ({}, Report())
        if files[0] is not None and files[1] is not None:
            pairs = [_Pair(key, files[0].get(key), files[1].get(key)) for key in dict.fromkeys([*files[0], *files[1]])]
        else:
            found = [
                now.get(side) if file is None else section(file, _key(sides[1 - i], side), Path(side))
                for i, (side, file) in enumerate(zip(sides, files, strict=True))
            ]
            pairs = [_Pair("", found[0], found[1])]
    if report.errors:
        _say_errors(report, view)
        return FAILED
    text = _differences(pairs, view)
    streams.write(text or "no difference\n")
    return FOUND if text else CLEAN


@dataclass(frozen=True)
class _Pair:
    """The two states of one target; None where it is not there."""

    name: str
    before: Snapshot | None
    after: Snapshot | None


def _path(lock_file: str | None, targets: Sequence[str]) -> Path:
    """The lock: the one named, else gradlint.lock beside the configuration that counts, else in the working folder."""
    from gradlint.config.settings import Configuration
    from gradlint.lock.lockfile import NAME

    if lock_file is not None:
        return Path(lock_file)
    settings = Configuration().of_target(targets[0]) if targets else Configuration().near(Path.cwd())
    return (settings.root if settings.path is not None else Path.cwd()) / NAME


def _wanted(targets: Sequence[str], path: Path, locked: dict[str, Snapshot]) -> tuple[dict[str, str], bool]:
    """(key in the lock → target, whether these are all): those named, else those configured, else those locked.

    Raises:
        UsageError: there are none.
    """
    from gradlint.config.settings import Configuration
    from gradlint.lock.lockfile import key_of, target_of

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
    from gradlint.lock.lockfile import key_of

    return key_of(target, Path(lock_file).parent)


def _account(path: Path, before: dict[str, Snapshot], now: dict[str, Snapshot], changed: bool, view: View) -> str:
    """What was written, and what is different in it."""
    from gradlint.report.view import shown_path
    from gradlint.wording import plural

    name = shown_path(str(path), view.root)
    lines = [f"{name}: {plural(len(now), 'target')} {'written' if changed else 'as before'}"]
    for key, snapshot in now.items():
        states = [entry.state.replace("trains", "train") for entry in snapshot.entries.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines.append(f"  {key}: {plural(len(states), 'parameter')}: {counts}")
    pairs = [_Pair(key, before[key], snapshot) for key, snapshot in now.items() if key in before]
    return "".join(f"{view.clean(line)}\n" for line in lines) + _differences(pairs, view)


def _differences(pairs: Sequence[_Pair], view: View) -> str:
    """The changes, one a line; under the name of the target where there are several."""
    from gradlint.lock.snapshot import changes

    parts = []
    for pair in pairs:
        if pair.before is None or pair.after is None:
            lines = [f"{pair.name} is {'not locked' if pair.before is None else 'locked, and no target any more'}"]
        else:
            lines = [_line(change, view) for change in changes(pair.before, pair.after)]
        if lines and pair.name and len(pairs) > 1:
            lines = [f"{pair.name}:", *(f"  {line}" for line in lines)]
        parts += lines
    return "".join(f"{view.clean(line)}\n" for line in parts)


def _line(change: Change, view: View) -> str:
    from gradlint.report.view import shown_path

    if change.location is None:
        return change.text
    return f"{change.text}{change.joint}{shown_path(change.location.path, view.root)}:{change.location.line}"


def _say_errors(report: Report, view: View) -> None:
    from gradlint.report import concise

    streams.tell(concise.errors(report, view))
