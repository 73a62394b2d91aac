"""Find the user's frames above a torch call, and the library frames in between."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.site_table import SiteTable
from gradlint.system.installed import OWN_FOLDER, is_standard_library
from gradlint.traces.ids import NO_SITE, CallIndex, SiteId

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_MODULE_FILES = ("overrides.py", os.path.join("nn", "modules", "module.py"))
_GRAD_MODE_FILES = ("grad_mode.py", "_contextlib.py", "_decorators.py")

BASE_FRAME = "gradlint_runs_user_code"
"""Name of the gradlint functions that call user code: the user's frames begin below them."""
CALL_FRAME = "gradlint_sees_module_call"
"""Name of the gradlint function in which every recorded module call runs."""

# The kinds of frames on the walk up the stack.
_USER, _SKIP, _CALL, _FUNCTION, _BASE, _DECORATOR, _EXIT, _PLUMBING = range(8)


class Chain(NamedTuple):
    """The result of a walk up the stack."""

    site: SiteId
    apply: FrameType | None
    """The innermost frame of a custom Function's apply around the call; None if there is none."""
    decorated: CodeType | None
    library: CodeType | None
    """Code of the innermost torch frame below the first user frame; None if there is none."""
    in_exit: bool
    run: int
    """Index into `Tape.runs` of the custom Function run around the enclosing module call; -1 for none."""


class OpenCall(NamedTuple):
    """A module call that has not returned."""

    number: CallIndex
    frame: int
    """Identity of the frame named `CALL_FRAME` in which it runs."""
    site: SiteId
    run: int
    """Index into `Tape.runs` of the custom Function run around it; -1 for none."""


class CallChains:
    """Finds call chains. A walk ends at the innermost open module call, whose own chain is known."""

    def __init__(self, sites: SiteTable, calls: list[OpenCall]) -> None:
        self._sites = sites
        self._calls = calls
        self._kinds: dict[int, int] = {}
        self._codes: list[CodeType] = []
        """Code objects kept alive, so that no other object gets their identity."""

    def walk(self, frame: FrameType | None) -> Chain:
        """Return the user's call chain from a frame upwards."""
        kinds = self._kinds
        calls = self._calls
        frames: list[tuple[CodeType, int]] = []
        site = NO_SITE
        run = -1
        apply = decorated = library = None
        in_exit = False
        while frame is not None:
            code = frame.f_code
            kind = kinds.get(id(code))
            if kind is None:
                kind = self._kind_of(code)
            if kind == _USER:
                frames.append((code, frame.f_lasti))
            elif kind == _CALL:
                if calls and id(frame) == calls[-1].frame:
                    _, _, site, run = calls[-1]
                    break
            elif kind == _SKIP:
                if library is None and not frames:
                    library = code
            elif kind == _FUNCTION:
                if apply is None:
                    apply = frame
            elif kind == _BASE:
                break
            elif kind == _DECORATOR:
                if not frames and decorated is None:
                    decorated = code_of(_undecorated(local_variables(frame)))
            elif kind == _EXIT:
                in_exit = in_exit or not frames
            frame = frame.f_back
        numbers = self._sites.numbers
        for code, instruction in reversed(frames):
            number = numbers.get((id(code), instruction, site))
            site = self._sites.intern(code, instruction, site) if number is None else number
        return tuple.__new__(Chain, (site, apply, decorated, library, in_exit, run))

    def _kind_of(self, code: CodeType) -> int:
        name = code.co_filename
        kind = _USER
        if code is _FUNCTION_APPLY:
            kind = _FUNCTION
        elif name.startswith(OWN_FOLDER):
            kind = {BASE_FRAME: _BASE, CALL_FRAME: _CALL}.get(code.co_name, _PLUMBING)
        elif name.startswith(_TORCH):
            kind = _SKIP
            if code.co_name in ("decorate_context", "generator_context"):
                kind = _DECORATOR
            elif name.endswith(_GRAD_MODE_FILES):
                kind = _EXIT if code.co_name == "__exit__" else _PLUMBING
            elif name.endswith(_MODULE_FILES):
                kind = _PLUMBING
        elif is_standard_library(name):
            kind = _PLUMBING
        self._kinds[id(code)] = kind
        self._codes.append(code)
        return kind


def code_of(function: Any) -> CodeType | None:
    """Return the code of a Python function or bound method; None for anything else."""
    return getattr(getattr(function, "__func__", function), "__code__", None)


_FUNCTION_APPLY = code_of(torch.autograd.Function.apply)


def _undecorated(local: Mapping[str, Any]) -> Any:
    function: Any = local.get("func")
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function
