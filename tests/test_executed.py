"""Which functions ran is known, also around imports of libraries, which are too many calls to watch."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import CodeType

import pytest

from gradlint.recorder.hooks.executed import ExecutedCode
from gradlint.system.undo import Undo


def names(codes: dict[int, CodeType]) -> set[str]:
    return {code.co_name for code in codes.values()}


def before() -> None:
    """Called before the imports."""


def after() -> None:
    """Called after them."""


def test_functions_around_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_part_of_the_setup.py").write_text("def made():\n    pass\nmade()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("colorsys", "own_part_of_the_setup"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    executed = ExecutedCode(Undo())
    with executed.collecting():
        before()
        import colorsys

        colorsys.rgb_to_hls(0, 0, 0)
        import own_part_of_the_setup  # type: ignore[import-not-found]  # noqa: F401

        after()
    assert {"before", "after", "made"} <= names(executed.codes)


def test_failed_import_leaves_the_watch_on() -> None:
    executed = ExecutedCode(Undo())
    with executed.collecting():
        with pytest.raises(ImportError):
            import no_module_has_this_name  # type: ignore[import-not-found]  # noqa: F401
        after()
    assert "after" in names(executed.codes)


def test_nothing_is_left_behind() -> None:
    original, profile = builtins.__import__, sys.getprofile()
    with pytest.raises(KeyError), ExecutedCode(Undo()).collecting():
        raise KeyError
    assert builtins.__import__ is original
    assert sys.getprofile() is profile
