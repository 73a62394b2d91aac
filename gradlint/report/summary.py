"""Summaries of a target and of the files read, in one line each."""

from __future__ import annotations

from gradlint.findings import SourceSummary, TargetSummary
from gradlint.wording import plural, tensors


def summary(target: TargetSummary) -> str:
    """Return the counts of a target by outcome.

    For example ``8 tensors, 235 parameters: 4 train, 0 frozen, 4 without gradient; SGD holds 8``.
    """
    parts = [f"{target.reached} train", f"{target.frozen} frozen", f"{target.starved} without gradient"]
    rest = [
        (target.unused, "unused"),
        (target.not_in_optimizer, "not in an optimizer"),
        (target.zero_rate, "at zero learning rate"),
    ]
    known = target.reached + target.frozen + target.starved + sum(count for count, _ in rest)
    rest.append((target.parameters - known, "unknown"))
    parts += [f"{count} {words}" for count, words in rest if count > 0]
    trains, frozen = target.declared
    contract = [f"declared: {trains} to train, {frozen} frozen"] if trains or frozen else []
    optimizers = [f"{name} holds {count}" for name, count in target.optimizers] or ["no optimizer"]
    return "; ".join([f"{tensors(target.parameters, target.numel)}: {', '.join(parts)}", *optimizers, *contract])


def sources(read: SourceSummary) -> str:
    """Return ``12 files read, source rules apply to 3 of them``."""
    if read.files == 1:
        return f"1 file read, source rules {'apply' if read.judged else 'do not apply'} to it"
    return f"{plural(read.files, 'file')} read, source rules apply to {read.judged} of them"
