"""Hook the constructors of optimizers and of their groups."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

from torch.optim import Optimizer

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.optimizer_source import constructor_arguments
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.patching import patch
from gradlint.recorder.hooks.uncompiled import bypass_compiler, without_compiler_guard
from gradlint.system.installed import is_standard_library
from gradlint.system.undo import Undo
from gradlint.traces.events import (
    GroupAdded,
    OptimizerMade,
)
from gradlint.traces.ids import (
    NO_EVENT,
    NO_SITE,
    OptimizerKey,
)
from gradlint.traces.trace import Arguments


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog) -> None:
    """Set the hooks until `undo` removes them."""
    patch(undo, Optimizer, "__init__", _optimizer_init, recorder, log, undo)
    patch(undo, Optimizer, "__setstate__", _optimizer_setstate, recorder, log)
    patch(undo, Optimizer, "add_param_group", _add_param_group, recorder, log)
    for name in ("state_dict", "load_state_dict"):
        patch(undo, Optimizer, name, without_compiler_guard)


def _constructor_frame(optimizer: Optimizer, frame: FrameType | None) -> FrameType | None:
    """Return the frame that created the optimizer, above ``__init__`` of a user's subclass."""
    while frame is not None:
        code = frame.f_code
        own = code.co_argcount and local_variables(frame).get(code.co_varnames[0]) is optimizer
        if not own and not is_standard_library(code.co_filename):
            return frame
        frame = frame.f_back
    return None


def _optimizer_init(original: Any, recorder: Recorder, log: HookLog, undo: Undo) -> Any:
    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        if recorder.paused or any(o is self for o in log.optimizers):
            return original(self, *args, **kwargs)  # type: ignore[no-any-return]
        frame = _constructor_frame(self, sys._getframe(1))
        site = recorder.walk(frame).site
        log.optimizers.append(self)
        key = OptimizerKey(id(self))
        log.group_events[key] = []
        event = recorder.tape.event(OptimizerMade, site, key, type(self).__name__)
        arguments = constructor_arguments(recorder.tape.sites.so_far, site, frame, type(self))
        log.arguments[key] = Arguments(site, event.number, *arguments)
        log.under_construction.append(key)
        try:
            original(self, *args, **kwargs)
        finally:
            log.under_construction.pop()
        bypass_compiler(undo, type(self))
        return None

    return __init__


def _optimizer_setstate(original: Any, recorder: Recorder, log: HookLog) -> Any:
    """Note the copies of optimizers: deepcopy and pickle call no constructor."""

    def __setstate__(self: Optimizer, state: Any) -> None:
        is_new = "param_groups" not in self.__dict__ and not recorder.paused
        original(self, state)
        if is_new:
            site = recorder.walk(_constructor_frame(self, sys._getframe(1))).site
            log.optimizers.append(self)
            key = OptimizerKey(id(self))
            event = recorder.tape.event(OptimizerMade, site, key, type(self).__name__)
            log.arguments[key] = Arguments(site, event.number)
            log.group_events[key] = [(site, event.number) for _ in self.param_groups]

    return __setstate__


def _add_param_group(original: Any, recorder: Recorder, log: HookLog) -> Any:
    def add_param_group(self: Optimizer, param_group: dict[str, Any]) -> Any:
        exhausted = is_exhausted(param_group.get("params")) if isinstance(param_group, dict) else False
        result = without_compiler_guard(original)(self, param_group)
        if not recorder.paused:
            key = OptimizerKey(id(self))
            is_made = key not in log.under_construction
            site = recorder.walk(sys._getframe(1)).site if is_made else log.arguments[key].site
            event = recorder.tape.event(GroupAdded, site, key, len(self.param_groups) - 1, exhausted)
            unseen = [(NO_SITE, NO_EVENT)] * event.index
            log.group_events.setdefault(key, unseen).append((site, event.number))
        return result

    return add_param_group


def is_exhausted(iterator: Any) -> bool:
    """Return True for an exhausted iterator: an ended generator, or a filter or map over one."""
    for _ in range(8):
        if inspect.isgenerator(iterator):
            return inspect.getgeneratorstate(iterator) == inspect.GEN_CLOSED
        if not isinstance(iterator, (filter, map)):
            return False
        iterator = iterator.__reduce__()[1][1]
    return False
