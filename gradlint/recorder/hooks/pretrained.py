"""Find out whether a library's ``from_pretrained()`` is given anything to load."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.traces.sites import is_project

_NAME = "from_pretrained"
_SWITCHES = ("pretrained", "load_weights")
"""Arguments that are False where random values are meant."""


def is_pretrained_on_nothing(frame: FrameType | None) -> bool:
    """Return True if a library's ``from_pretrained()`` runs that is given nothing to load.

    It runs around `frame`.
    """
    names = 0
    above = frame
    while above is not None:
        names += above.f_code.co_name == _NAME
        above = above.f_back
    outermost = None
    while names and frame is not None and not is_project(frame.f_code.co_filename):
        if frame.f_code.co_name == _NAME:
            outermost, names = frame, names - 1
        frame = frame.f_back
    return outermost is not None and _is_given_nothing(outermost)


def _is_given_nothing(frame: FrameType) -> bool:
    """Return True if the arguments of a ``from_pretrained()`` name no state and hold none.

    True as well if they ask for random values.
    """
    variables = local_variables(frame)
    given = _arguments(frame.f_code, variables)
    state = given.pop("state_dict", variables.get("state_dict"))  # which is often popped from the others
    if isinstance(state, Mapping):
        return not state
    if any(given.get(switch, variables.get(switch)) is False for switch in _SWITCHES):
        return True
    source = given.get("pretrained_model_name_or_path", next(iter(given.values()), inspect.Parameter.empty))
    return source is None or (isinstance(source, (str, Mapping)) and not source)


def _arguments(code: CodeType, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a running class method by name, in the order of its signature."""
    named = code.co_argcount + code.co_kwonlyargcount
    given = {name: variables[name] for name in code.co_varnames[1:named] if name in variables}
    rest = code.co_varnames[named : named + bool(code.co_flags & inspect.CO_VARARGS)]
    for name in rest:
        given.update((f"*{i}", value) for i, value in enumerate(variables.get(name, ())))
    if code.co_flags & inspect.CO_VARKEYWORDS:
        given.update(variables.get(code.co_varnames[named + len(rest)], {}))
    return given
