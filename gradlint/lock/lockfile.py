"""The lock: a text file with one line for each parameter of each target, in natural order.

::

    # gradlint lock, version 2
    [model.py:build]
    encoder.0.weight  8x4  frozen
    encoder.1  BatchNorm1d  eval
    head.weight  2x8  trains  AdamW lr=0.001

Nothing in it depends on the machine, the version of torch or line numbers. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gradlint.errors import GradlintError
from gradlint.flow.outcome import OutcomeKind
from gradlint.location import Location
from gradlint.lock.snapshot import Entry, Norm, Snapshot
from gradlint.system import reading, writing
from gradlint.wording import shape_text

NAME = "gradlint.lock"
VERSION = 2
_HEADER = "# gradlint lock, version "
_SHAPE = re.compile(r"\d+(x\d+)*|scalar")
_OUTCOMES = {kind.value: kind for kind in OutcomeKind}
_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>", "|||||||")


class LockError(GradlintError):
    """A lock cannot be read or written; the message names the file and, where there is one, the line."""


def render(snapshots: Iterable[Snapshot]) -> str:
    """Return the text of a lock; equal states give equal text."""
    lines = [
        f"{_HEADER}{VERSION}",
        "# What trains in each target. Written by `gradlint lock`: review it, commit it, and do not edit it.",
    ]
    for snapshot in sorted(snapshots, key=lambda s: _natural(s.target)):
        lines += ["", f"[{_quoted_section(snapshot.target)}]"]
        rows = {(name, 0): _norm_fields(norm) for name, norm in snapshot.norms.items()}
        rows |= {(name, 1): _entry_fields(entry) for name, entry in snapshot.entries.items()}
        lines += ["  ".join([_quoted(key[0]), *rows[key]]) for key in sorted(rows, key=lambda k: (_natural(k[0]), k))]
    return "\n".join(lines) + "\n"


def parse(text: str, path: Path) -> dict[str, Snapshot]:
    """Return the snapshots in the text of a lock, by target.

    Raises:
        LockError: it is no lock, one of another version, or malformed.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    first = lines[0].strip() if lines else ""
    if any(line.startswith(_CONFLICT) for line in lines):
        number = next(i for i, line in enumerate(lines, 1) if line.startswith(_CONFLICT))
        raise LockError(f"{path}:{number}: an unresolved merge conflict: resolve it, or run `gradlint lock` again")
    version = first.removeprefix(_HEADER)
    if not first.startswith(_HEADER) or not version.isdigit():
        raise LockError(f"{path}:1: this is no gradlint lock: it does not begin with {_HEADER + str(VERSION)!r}")
    if int(version) != VERSION:
        older = int(version) < VERSION
        advice = "run `gradlint lock` to write it anew" if older else "use the gradlint that wrote it, or a newer one"
        raise LockError(f"{path}:1: this lock is of version {version}, and this gradlint knows {VERSION}: {advice}")
    snapshots: dict[str, Snapshot] = {}
    current: Snapshot | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        place = Location(str(path), number)
        if line.startswith("[") and line.rstrip().endswith("]"):
            name = line.strip()[1:-1]
            name = (_unquoted(name)[0] or name) if name.startswith('"') else name
            if name in snapshots:
                raise LockError(f"{path}:{number}: {name} stands in this lock twice")
            current = snapshots[name] = Snapshot(name, places={"": place})
        elif current is None:
            raise LockError(f"{path}:{number}: this line belongs to no target")
        else:
            _read_line(current, line, place)
    return snapshots


def read(path: Path) -> dict[str, Snapshot]:
    """Return the snapshots in a lock file, by target.

    Raises:
        LockError: it is not there, cannot be read, or is wrong.
    """
    try:
        return parse(reading.read(path).decode().replace("\r\n", "\n"), path)
    except FileNotFoundError:
        raise LockError(f"there is no lock {path}: `gradlint lock` writes it") from None
    except UnicodeDecodeError as error:
        raise LockError(f"{path}: this is no gradlint lock: it is not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise LockError(f"{path}: cannot be read: {error.strerror or error}") from error


def write(path: Path, snapshots: Iterable[Snapshot]) -> bool:
    """Write a lock whole or not at all; return True if the file changed.

    Raises:
        LockError: the folder or the file cannot be written; what was there before still is.
    """
    data = render(snapshots).encode()
    try:
        if path.is_file() and path.read_bytes().replace(b"\r\n", b"\n") == data:
            return False
        writing.write(path, data)
    except OSError as error:
        raise LockError(f"{path}: cannot be written: {error.strerror or error}") from error
    return True


def section(locked: Mapping[str, Snapshot], target: str, path: Path) -> Snapshot:
    """Return the snapshot of a target, or the only one there is.

    Raises:
        LockError: there are several, and none of that name.
    """
    if target in locked:
        return locked[target]
    if len(locked) == 1:
        return next(iter(locked.values()))
    raise LockError(f"{path} does not hold {target}; it holds {', '.join(locked) or 'nothing'}")


def key_of(target: str, folder: Path) -> str:
    """Return the key of a target in the lock of a folder.

    It is the path relative to the folder, with forward slashes.
    """
    from gradlint.load.target import parse_target

    parsed = parse_target(target)
    if parsed.path is None:
        return target
    full = os.path.abspath(parsed.path)
    with contextlib.suppress(ValueError):  # another Windows drive
        full = os.path.relpath(full, os.path.abspath(folder))
    return f"{Path(full).as_posix()}:{parsed.attribute}" if parsed.attribute else Path(full).as_posix()


def target_of(key: str, folder: Path) -> str:
    """Return the target of a key in the lock of a folder, from the working directory."""
    from gradlint.load.target import parse_target

    parsed = parse_target(key)
    if parsed.path is None or parsed.path.is_absolute():
        return key
    full = os.path.abspath(folder / parsed.path)
    with contextlib.suppress(ValueError):
        full = os.path.relpath(full)
    return f"{Path(full).as_posix()}:{parsed.attribute}" if parsed.attribute else full


def _entry_fields(entry: Entry) -> list[str]:
    outcome = f"{entry.outcome.value} by {entry.by}" if entry.by else entry.outcome.value
    return [shape_text(entry.shape), outcome, *entry.held]


def _norm_fields(norm: Norm) -> list[str]:
    return [norm.type, "train" if norm.training else "eval"]


def _read_line(snapshot: Snapshot, line: str, place: Location) -> None:
    name, rest = _unquoted(line)
    fields = re.split(r" {2,}", rest.strip())
    if name is not None and len(fields) == 2 and fields[1] in ("train", "eval") and not _SHAPE.fullmatch(fields[0]):
        if name in snapshot.norms:
            raise LockError(f"{place.path}:{place.line}: {name} stands in {snapshot.target} twice")
        snapshot.norms[name] = Norm(name, fields[0], fields[1] == "train")
    else:
        entry = _entry(name, fields) if name else None
        if not name or entry is None:
            raise LockError(f"{place.path}:{place.line}: cannot be understood: {line.strip()[:60]!r}")
        if name in snapshot.entries:
            raise LockError(f"{place.path}:{place.line}: {name} stands in {snapshot.target} twice")
        snapshot.entries[name] = entry
    snapshot.places.setdefault(name, place)


def _entry(name: str, fields: list[str]) -> Entry | None:
    if len(fields) < 2 or not _SHAPE.fullmatch(fields[0]):
        return None
    words, _, by = fields[1].partition(" by ")
    outcome = _OUTCOMES.get(words)
    if outcome is None:
        return None
    shape = () if fields[0] == "scalar" else tuple(map(int, fields[0].split("x")))
    return Entry(name, shape, outcome, by, tuple(fields[2:]))


def _quoted(name: str) -> str:
    plain = name and not re.search(r"\s|^[\"\[#<=>|]|##", name) and name.isprintable()
    return name if plain else _text(name)


def _text(name: str) -> str:
    return json.dumps(name).replace("##", "#\\u0023")  # services take some texts after it as commands


def _quoted_section(target: str) -> str:
    return target if target.isprintable() and not target.startswith('"') and "##" not in target else _text(target)


def _unquoted(line: str) -> tuple[str | None, str]:
    """Return (name, rest of the line); None as the name if the quotes are wrong."""
    if line.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(line)
        except ValueError:
            return None, line
        return str(name), line[end:]
    name, _, rest = line.partition("  ")
    return name, rest


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts ``layer.2`` before ``layer.10``."""
    parts = re.split(r"([0-9]+)", text)
    return [(1, int(part), part) if part.isdecimal() and part.isascii() else (0, 0, part) for part in parts]
