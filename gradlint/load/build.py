"""Call the target's build(), and report exceptions of user code with the user's own frames."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from gradlint.errors import GradlintError, TargetError
from gradlint.load import event_loop
from gradlint.load.notebooks import with_cells
from gradlint.load.setup import Setup
from gradlint.system.installed import OWN_FOLDER, is_library_file
from gradlint.system.legible import uncolored

_RECORDER = os.path.join(OWN_FOLDER, "recorder") + os.sep
_PASSED_ON = frozenset({"__torch_function__", "_op", "gradlint_runs_user_code", "run_forward"})
_TORCH_GLUE = frozenset(
    {"_call_impl", "_wrapped_call_impl", "__torch_function__", "handle_torch_function", "decorate_context", "inner"}
)


@dataclass(frozen=True)
class Target:
    """The target that the user named on the command line."""

    text: str
    """The target as the user wrote it."""
    path: Path | None = None
    """The file or folder; None if a module was named."""
    module: str | None = None
    """The dotted module; None if a file was named."""
    attribute: str | None = None
    """The dotted attribute; None if none was named."""

    @property
    def file_label(self) -> str:
        """The file or module as the user wrote it, without the attribute."""
        return self.text if self.attribute is None else self.text[: -len(self.attribute) - 1]

    @property
    def label(self) -> str:
        """The attribute as a call for messages, such as ``build()``."""
        return f"{self.attribute or 'build'}()"


Bind = Callable[[Any, str], Callable[[], Any]]
"""Takes a function and its name, and returns it with the arguments that it needs."""


def call_build(obj: Any, target: Target, stack: contextlib.ExitStack | None = None, bind: Bind | None = None) -> Any:
    """Return the named object if it is a setup or model already, else the result of calling it.

    Args:
        obj: the object that `load_target` yielded.
        target: the target, for messages.
        stack: takes over the teardown of a generator; without a stack the generator is closed at once.
        bind: gives the function its arguments; without it, it must need none.

    Raises:
        TargetError: the object needs arguments, or raised; `traceback` holds the user's frames.
    """
    import torch

    if isinstance(obj, (torch.nn.Module, Setup, Mapping, tuple, list)) or not callable(obj):
        return obj
    if isinstance(obj, type) and not issubclass(obj, (torch.nn.Module, Setup)):
        raise TargetError(
            f"{target.attribute} is a class but not an nn.Module: name a function that builds the model and returns it"
        )
    bind = bind or _without_arguments
    if isinstance(obj, InstanceMethod):
        _demand_no_arguments(obj.owner, obj.owner.__name__)
        call: Callable[[], Any] = obj.bind
    else:
        call = bind(obj, str(target.attribute))
    try:
        result = call()
        if isinstance(result, _Bound):
            result = bind(result.function, str(target.attribute))()
        return _unwrap_result(result, target, stack)
    except GradlintError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, and what test runners and event loops raise
        raise user_error(target.label, error) from error


def _unwrap_result(result: Any, target: Target, stack: contextlib.ExitStack | None) -> Any:
    """Run a coroutine to its end; take the first value of a generator or context manager."""
    if inspect.iscoroutine(result):
        return event_loop.run(result)
    if inspect.isasyncgen(result):
        loop = event_loop.OwnLoop()
        closing = contextlib.ExitStack()
        closing.callback(loop.close)
        closing.callback(lambda: loop.run(result.aclose()))
        return _first(lambda: loop.run(result.__anext__()), closing.close, target, stack)
    if inspect.isgenerator(result):
        return _first(lambda: next(result), result.close, target, stack)
    if isinstance(result, contextlib._GeneratorContextManager):
        return _first(result.__enter__, lambda: result.__exit__(None, None, None), target, stack)
    return result


def _first(take: Any, close: Any, target: Target, stack: contextlib.ExitStack | None) -> Any:
    def teardown() -> None:
        try:
            close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise user_error(f"the teardown of {target.label}", error) from error

    try:
        value = take()
    except BaseException as error:
        with contextlib.suppress(Exception):
            close()
        if not isinstance(error, (StopIteration, StopAsyncIteration)):
            raise
        raise TargetError(f"{target.label} is a generator that yields nothing: yield or return the model") from error
    if stack is None:
        teardown()
    else:
        stack.callback(teardown)
    return value


def _without_arguments(function: Any, name: str) -> Callable[[], Any]:
    _demand_no_arguments(function, name)
    return function  # type: ignore[no-any-return]


def _demand_no_arguments(function: Any, name: str) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if required:
        listed = ", ".join(required)
        raise TargetError(
            f"{name} needs arguments ({listed}): write a build() without arguments that calls {name}({listed})"
            f" and returns the result"
        )


class InstanceMethod:
    """An instance method named through its class; the instance is created only when build() is recorded."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner = owner
        self.name = name

    def __call__(self) -> Any:
        return getattr(self.owner(), self.name)()

    def bind(self) -> _Bound:
        return _Bound(getattr(self.owner(), self.name))


@dataclass(frozen=True)
class _Bound:
    function: Any


def user_traceback(exc: BaseException) -> str:
    """Return the traceback with its causes, without frames of gradlint and of call glue."""
    shown = traceback.TracebackException.from_exception(exc)
    seen: set[int] = set()
    todo: list[traceback.TracebackException | None] = [shown]
    while todo:
        part = todo.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        shown_frames = [f for f in part.stack if not is_glue(f.filename, f.name, f.line or "")]
        part.stack[:] = with_cells(shown_frames)
        todo += [part.__cause__, part.__context__]
    try:
        text = "".join(shown.format())
    except Exception:  # the __str__ of a user exception may raise
        text = "".join(traceback.format_list(shown.stack)) + type(exc).__name__
    text = re.sub(r"^Traceback \(most recent call last\):\n(?! )", "", text, flags=re.M)
    return uncolored(text).rstrip() + "\n"


class InternalError(NamedTuple):
    """A failure of gradlint itself."""

    message: str
    traceback: str

    @classmethod
    def from_exception(cls, exc: BaseException, where: str = "while it recorded") -> InternalError:
        """Describe an exception of gradlint's own code; `where` says what it was doing."""
        first = first_line(exc)
        summary = f"{type(exc).__name__}: {first}" if first else type(exc).__name__
        return cls(
            f"gradlint itself failed {where} ({summary}); please report it",
            "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)),
        )


def _is_own(exc: BaseException) -> bool:
    """Return True if gradlint's recorder raised the exception, not the call inside it.

    A wrapper around a torch function has the original in its closure; wrong arguments of the user fail in its frame.
    """
    frames = [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]
    if not frames or isinstance(exc, (GradlintError, SystemExit)):
        return False
    if isinstance(
        exc, RecursionError
    ):  # the last frame is arbitrary; the many frames before it show whose recursion it is
        return all(frame.f_code.co_filename.startswith(OWN_FOLDER) for frame in frames[-50:])
    code = frames[-1].f_code
    return code.co_filename.startswith(_RECORDER) and not passes_on(code)


def passes_on(code: CodeType) -> bool:
    """Return True if a function of gradlint's only passes on a call between user code and torch."""
    return code.co_name in _PASSED_ON or "original" in code.co_freevars or "closure" in code.co_freevars


def user_error(what: str, exc: BaseException) -> TargetError:
    """Return the error for an exception of user code, with the user's own frames.

    The message reads ``<what> raised ValueError: ...``. An exception of gradlint's own code becomes an internal error
    instead.
    """
    if _is_own(exc):
        return TargetError(*InternalError.from_exception(exc, f"in {what}"))
    if isinstance(exc, SystemExit):
        message = f"{what} called sys.exit({'' if exc.code is None else repr(exc.code)})"
    else:
        first = first_line(exc)
        message = f"{what} raised {type(exc).__name__}" + (f": {first}" if first else "")
    return TargetError(message, user_traceback(exc))


def first_line(exc: BaseException) -> str:
    """Return the first line of an exception's message; empty if there is none."""
    try:
        return next((line.strip() for line in uncolored(str(exc)).splitlines() if line.strip()), "")
    except Exception:
        return ""


def is_glue(file: str, function: str, line: str = "") -> bool:
    """Return True if a frame is gradlint's, or only passes a call on to user code."""
    if file.startswith((OWN_FOLDER, "<frozen importlib", "<frozen runpy")):
        return True
    slashed = file.replace("\\", "/")
    if "/importlib/" in slashed and is_library_file(file):
        return True
    if slashed.endswith(("asyncio/runners.py", "asyncio/base_events.py")):
        return True
    if "/torch/" not in slashed:
        return False
    if slashed.endswith(("torch/overrides.py", "torch/utils/_device.py")) or function in _TORCH_GLUE:
        return True
    return "handle_torch_function(" in line
