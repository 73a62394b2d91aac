"""The prose of the package, the rules and the README keeps to what tests/kit/prose.py holds."""

from __future__ import annotations

import prose

FILES = {path.relative_to(prose.ROOT).as_posix(): path for path in prose.files()}


def test_prose():
    wrong = [f"{name}:{line}: {fault}" for name, path in FILES.items() for line, fault in prose.faults(path)]
    assert not wrong, "\n".join(wrong)
