"""Snapshots: the outcomes of all parameters of a target, and the changes between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gradlint.findings import Finding, Fix, Related, Severity
from gradlint.flow.outcome import OutcomeKind
from gradlint.location import Location
from gradlint.wording import list_of, plural, shape_text, summarize_names

LISTED = 8
"""Names of parameters in one change before the rest is counted."""


@dataclass(frozen=True)
class Entry:
    """One parameter."""

    fqn: str
    shape: tuple[int, ...]
    outcome: OutcomeKind
    by: str = ""
    """Name of the op or switch that stops its gradient: ``detach``, ``no_grad``, ``argmax``."""
    held: tuple[str, ...] = ()
    """The optimizers that hold it, as in ``AdamW lr=2e-05``."""

    @property
    def numel(self) -> int:
        """Number of scalars."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Norm:
    """One norm layer with running statistics."""

    fqn: str
    type: str
    training: bool
    """True if its statistics follow the batches."""


@dataclass
class Snapshot:
    """The outcomes of one target's parameters."""

    target: str
    entries: dict[str, Entry] = field(default_factory=dict)
    """By name."""
    norms: dict[str, Norm] = field(default_factory=dict)
    why: dict[str, tuple[str, Location | None]] = field(default_factory=dict)
    """Name of a parameter → (reason of its outcome, line); empty for a snapshot that was read."""
    places: dict[str, Location] = field(default_factory=dict)
    """Name → line of the file that it was read from."""


@dataclass(frozen=True)
class Change:
    """One thing that is different, for all parameters that it concerns."""

    names: tuple[str, ...]
    text: str
    """``encoder.layer.11.* (16 tensors, 7.1M parameters) stopped training: frozen``."""
    location: Location | None = None
    """The line that caused it, if there is one."""
    joint: str = " at "
    """Text between the change and its location."""


def changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """Return the changes, most important first.

    Training stopped or started comes first, then new and removed parameters, then learning rates.
    """
    groups: dict[tuple[int, str, Location | None], list[Entry]] = {}

    def note(entry: Entry, rank: int, clause: str, place: Location | None = None) -> None:
        groups.setdefault((rank, clause, place), []).append(entry)

    for name in dict.fromkeys([*after.entries, *before.entries]):
        old, new = before.entries.get(name), after.entries.get(name)
        if new is None and old is not None:
            note(old, 3, f"gone, {_words(old)} before")
        elif old is None and new is not None:
            why, place = _why(after, new)
            note(new, 2, f"new, {'training' if new.outcome is OutcomeKind.TRAINS else why}", place)
        elif old is not None and new is not None:
            _compare(after, old, new, note)
    parameter_changes = []
    for (rank, clause, place), entries in sorted(groups.items(), key=lambda item: item[0][0]):
        everything = list((before if rank == 3 else after).entries.values())
        subject = summarize_names(entries, everything, LISTED)
        verb = "" if clause.startswith(_VERBS) else "is " if len(entries) == 1 else "are "
        joint = " at " if entries[0].outcome in (OutcomeKind.FROZEN, OutcomeKind.NO_GRADIENT) and rank < 3 else ", see "
        parameter_changes.append(Change(tuple(e.fqn for e in entries), f"{subject} {verb}{clause}", place, joint))
    return [*parameter_changes, *_norm_changes(before, after)]


_VERBS = ("stopped", "started", "changed", "moved")


def _compare(after: Snapshot, old: Entry, new: Entry, note: Callable[[Entry, int, str, Location | None], None]) -> None:
    why, place = _why(after, new)
    if old.outcome is not new.outcome:
        if old.outcome is OutcomeKind.TRAINS:
            note(new, 0, f"stopped training: {why}", place)
        elif new.outcome is OutcomeKind.TRAINS:
            note(new, 1, f"started training: {why}", place)
        else:
            note(new, 2, f"{_words(old)} no longer: {why}", place)
    elif old.by != new.by:
        note(new, 2, f"cut by {new.by} now, by {old.by} before", place)
    if old.shape != new.shape:
        note(new, 4, f"changed shape: {shape_text(new.shape)}, {shape_text(old.shape)} before", None)
    if old.held != new.held and (old.outcome is new.outcome or (old.held and new.held)):
        note(new, 5, _rehold(old.held, new.held), None)


def _words(entry: Entry) -> str:
    """Return an outcome after "are": ``training``, ``without gradient by detach``."""
    words = "training" if entry.outcome is OutcomeKind.TRAINS else entry.outcome.plural
    return f"{words} by {entry.by}" if entry.by else words


def _why(snapshot: Snapshot, entry: Entry) -> tuple[str, Location | None]:
    reason = snapshot.why.get(entry.fqn)
    if reason is not None:
        return reason
    if entry.outcome is OutcomeKind.TRAINS:
        return ", ".join(entry.held) or "with no optimizer known", None
    return _words(entry), None


def _rehold(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    if not old:
        return f"now in {', '.join(new)}"
    if not new:
        return f"no longer in {', '.join(old)}"
    if [h.partition(" ")[0] for h in old] == [h.partition(" ")[0] for h in new]:
        return f"changed learning rate: {', '.join(new)}, {', '.join(old)} before"
    return f"moved to {', '.join(new)}, from {', '.join(old)}"


def _norm_changes(before: Snapshot, after: Snapshot) -> Iterable[Change]:
    """Yield the changes of norm layers.

    Those that came or went with their parameters are skipped.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*after.norms, *before.norms]):
        old, new = before.norms.get(name), after.norms.get(name)
        if old is not None and new is not None:
            if old.training != new.training:
                became = "now in train mode and update" if new.training else "now in eval mode and keep"
                groups.setdefault(f"{became} their running statistics", []).append(name)
            elif old.type != new.type:
                groups.setdefault(f"now of type {new.type}, {old.type} before", []).append(name)
        elif _has_parameters(before, name) == _has_parameters(after, name):
            gone = old is not None
            groups.setdefault("now without running statistics" if gone else "now with running statistics", []).append(
                name
            )
    for clause, names in groups.items():
        listed = list_of(names)
        verb = "is" if len(names) == 1 else "are"
        text = (
            clause
            if len(names) > 1
            else clause.replace("their", "its").replace("update", "updates").replace("keep", "keeps")
        )
        yield Change(tuple(names), f"{listed} ({plural(len(names), 'norm layer')}) {verb} {text}")


def _has_parameters(snapshot: Snapshot, module: str) -> bool:
    prefix = f"{module}." if module else ""
    return any(name.startswith(prefix) for name in snapshot.entries)


def drift(before: Snapshot, after: Snapshot, lock: str) -> list[Finding]:
    """Return the changes since a lock was written, as findings of GL704."""
    return [_finding(before, after.target, change, lock) for change in changes(before, after)]


def _finding(before: Snapshot, target: str, change: Change, lock: str) -> Finding:
    locked = next((before.places[name] for name in change.names if name in before.places), None)
    where = change.location or locked
    related = (Related("locked here", locked),) if locked is not None and locked != where else ()
    fix = Fix(f"Undo the change. If it is intended, run `gradlint lock` and commit {lock}.")
    return Finding(target, "GL704", "lock-drift", Severity.ERROR, f"{change.text}.", where, change.names, related, fix)


def sections_drift(locked: Mapping[str, Snapshot], now: Iterable[str], lock: Location) -> list[Finding]:
    """Return findings of GL704 for targets without a section in the lock, and the reverse."""
    present = list(now)
    findings = []
    for name in dict.fromkeys([*present, *locked]):
        if name in locked and name in present:
            continue
        text = f"{name} is locked and no longer a target." if name in locked else f"{name} is a target and not locked."
        where = locked[name].places.get("", lock) if name in locked else lock
        fix = Fix("Run `gradlint lock` and commit the file.")
        findings.append(Finding(name, "GL704", "lock-drift", Severity.ERROR, text, where, fix=fix))
    return findings
