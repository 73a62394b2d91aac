"""The prose of the package, the rules and the README keeps to what tests/kit/prose.py holds."""

from __future__ import annotations

import prose
import pytest

FILES = {path.relative_to(prose.ROOT).as_posix(): path for path in prose.files()}


def room_of(name: str) -> str:
    """Return the folder of a file, at most one below the package."""
    return "/".join(name.split("/")[:-1][:2])


@pytest.mark.parametrize("room", sorted({room_of(name) for name in FILES}))
def test_prose(room):
    wrong = []
    for name, path in FILES.items():
        if room_of(name) == room:
            wrong += [f"{name}:{line}: {fault}" for line, fault in prose.faults(path)]
    assert not wrong, "\n".join(wrong)
