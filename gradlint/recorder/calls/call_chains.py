"""Who called: the user's frames above a torch call, and what lies between them and it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from gradlint.traces.ids import NO_SITE, CallIndex, SiteId
from gradlint.traces.sites import GRADLINT, Sites, is_standard_library

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_MODULE_FILES = ("overrides.py", os.path.join("nn", "modules", "module.py"))
_GRAD_MODE_FILES = ("grad_mode.py", "_contextlib.py", "_decorators.py")

BASE_FRAME = "gradlint_runs_user_code"
"""Name of the functions of gradlint below which the user's frames begin."""
CALL_FRAME = "gradlint_sees_module_call"
"""Name of gradlint's function in which every recorded call of a module runs."""

# What a frame is to the walk up the stack.
_USER, _SKIP, _CALL, _FUNCTION, _BASE, _DECORATOR, _EXIT, _PLUMBING = range(8)


class Chain(NamedTuple):
    """The outcome of a walk up the stack."""

    site: SiteId
    apply: FrameType | None
    """The frame of a custom Function's apply, if the call came from inside one."""
    decorated: CodeType | None
    library: CodeType | None
    """The innermost frame of torch or the standard library below the first user frame."""
    in_exit: bool
    run: int
    """The custom Function run that the enclosing module call is inside of; -1 for none."""


class OpenCall(NamedTuple):
    """A module call that has not returned yet."""

    number: CallIndex
    frame: int
    """Identity of the frame named CALL_FRAME that it runs in."""
    site: SiteId
    run: int
    """The custom Function run that it is inside of; -1 for none."""


class CallChains:
    """Finds call chains. A walk is cut short at the nearest open module call, whose own chain is known."""

    def __init__(self, sites: Sites, calls: list[OpenCall]) -> None:
        self._sites = sites
        self._calls = calls
        self._kinds: dict[int, int] = {}
        self._codes: list[CodeType] = []
        """Kept alive, so that their identities stay theirs."""

    def walk(self, frame: FrameType | None) -> Chain:
        """The user's call chain from a frame upwards."""
        kinds = self._kinds
        calls = self._calls
        found: list[tuple[CodeType, int]] = []
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
                found.append((code, frame.f_lasti))
            elif kind == _CALL:
                if calls and id(frame) == calls[-1].frame:
                    _, _, site, run = calls[-1]
                    break
            elif kind == _SKIP:
                if library is None and not found:
                    library = code
            elif kind == _FUNCTION:
                if apply is None:
                    apply = frame
            elif kind == _BASE:
                break
            elif kind == _DECORATOR:
                if not found and decorated is None:
                    decorated = code_of(_undecorated(frame.f_locals))
            elif kind == _EXIT:
                in_exit = in_exit or not found
            frame = frame.f_back
        numbers = self._sites.numbers
        for code, instruction in reversed(found):
            number = numbers.get((id(code), instruction, site))
            site = self._sites.intern(code, instruction, site) if number is None else number
        return tuple.__new__(Chain, (site, apply, decorated, library, in_exit, run))

    def _kind_of(self, code: CodeType) -> int:
        name = code.co_filename
        kind = _USER
        if code is _FUNCTION_APPLY:
            kind = _FUNCTION
        elif name.startswith(GRADLINT):
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
    """The code of a Python function or bound method; None of anything else."""
    return getattr(getattr(function, "__func__", function), "__code__", None)


_FUNCTION_APPLY = code_of(torch.autograd.Function.apply)


def _undecorated(local: Mapping[str, Any]) -> Any:
    function: Any = local.get("func")
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function
