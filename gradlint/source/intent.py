"""What names suggest about a part of a model: proposals for a contract, never a reason to report anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_FROZEN = re.compile(r"(^|_)(teacher|target|ema|reference|frozen|momentum_encoder|old_policy)(_|$)")
_TRAINS = re.compile(r"(^|_)(head|classifier|adapters?|lora|prompts?|student)(_|$)")
_FREEZE_FLAG = re.compile(r"^(?:freeze|frozen|fix|lock)_(\w+)$|^(\w+)_frozen$")
_TRAIN_FLAG = re.compile(r"^(?:train|tune|finetune|fine_tune|update|unfreeze)_(\w+)$|^(\w+)_trainable$")


def proposed_contract(parts: Sequence[str], flags: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the patterns of the parts that names suggest to freeze, and to train.

    Args:
        parts: names of the parts of a model.
        flags: names of arguments of its code, as in ``freeze_encoder``.
    """
    flags = list(flags)
    frozen = {p for p in parts if _FROZEN.search(p)} | _named_by(parts, flags, _FREEZE_FLAG)
    trains = {p for p in parts if _TRAINS.search(p)} | _named_by(parts, flags, _TRAIN_FLAG)
    return (
        [f"{p}.*" for p in parts if p in frozen and p not in trains],
        [f"{p}.*" for p in parts if p in trains and p not in frozen],
    )


def _named_by(parts: Sequence[str], flags: Iterable[str], form: re.Pattern[str]) -> set[str]:
    """Return the parts that flags of a form name, whole or by the end of their names."""
    words = [next(filter(None, match.groups())) for flag in flags if (match := form.match(flag)) is not None]
    return {p for p in parts for word in words if p == word or p.endswith(f"_{word}")}
