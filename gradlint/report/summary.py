"""What was seen of a target, in one line."""

from __future__ import annotations

from gradlint.findings import SourceSummary, TargetSummary
from gradlint.wording import plural


def summary(target: TargetSummary) -> str:
    """What was seen of a target: ``412 parameters: 410 train, 2 frozen, 0 starved; AdamW holds 410``."""
    parts = [f"{target.reached} train", f"{target.frozen} frozen", f"{target.starved} starved"]
    if target.unused:
        parts.append(f"{target.unused} unused")
    unjudged = target.trainable - target.reached - target.starved - target.unused
    if unjudged > 0:
        parts.append(f"{unjudged} not judged")
    trains, frozen = target.declared
    contract = [f"the contract names {trains} to train, {frozen} frozen"] if trains or frozen else []
    held = [f"{name} holds {count}" for name, count in target.optimizers] or ["no optimizer"]
    return "; ".join([f"{plural(target.parameters, 'parameter')}: {', '.join(parts)}", *held, *contract])


def sources(read: SourceSummary) -> str:
    """What the source rules read: ``12 files, 3 of them with torch code``."""
    if read.files == 1:
        return f"1 file read{'' if read.judged else ', which holds nothing for the source rules'}"
    return f"{plural(read.files, 'file')} read, {read.judged} of them with something for the source rules"
