"""Fits given values to the parameters of a function: by annotation, with dataclasses and configs filled from tables."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import os
import pathlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradlint.errors import GradlintError, TargetError
from gradlint.load.arguments.given import Text
from gradlint.load.build import user_error
from gradlint.wording import nearest

_EMPTY = inspect.Parameter.empty
_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_WRITTEN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class Fields(dict[str, Any]):
    """A table for a parameter without an annotation: its keys are attributes too, as configs have them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def required(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters that a call must give; empty where the signature is unknown."""
    return [p for p in parameters(function).values() if p.default is _EMPTY and p.kind not in _MANY]


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function or class; empty where they are unknown."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def filled(function: Callable[..., Any], values: Mapping[str, Any], what: str) -> inspect.BoundArguments:
    """Return the arguments of a call, made of given values.

    Args:
        function: what is to be called.
        values: name → value, as `Arguments.tree` returns them.
        what: the name of the function in messages.

    Raises:
        TargetError: a name is unknown, a required one is missing, or a value does not fit its annotation.
    """
    known = parameters(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    names = [name for name, p in known.items() if p.kind not in _MANY]
    for name in values:
        if name not in names and not takes_any:
            raise TargetError(f"{what} takes no argument {name!r}{_instead(name, names)}")
    types_of = hints(function)
    missing = [p for p in required(function) if p.name not in values]
    if missing:
        raise TargetError(_needed(what, missing, types_of))
    made = {
        name: fit(types_of.get(name), value, name, known[name].default if name in known else _EMPTY)
        for name, value in values.items()
    }
    positional = [n for n in names if known[n].kind is not inspect.Parameter.KEYWORD_ONLY]
    front: list[Any] = []
    for name in positional:  # as far as they go without a gap: what wraps the function may know no names
        if name not in made:
            break
        front.append(made.pop(name))
    try:
        return inspect.signature(function).bind(*front, **made)
    except TypeError as error:
        raise TargetError(f"{what}: {error}") from error


def _needed(what: str, missing: Sequence[inspect.Parameter], types_of: Mapping[str, Any]) -> str:
    """Return the message about arguments that nobody gave, with the line to write."""
    listed = ", ".join(p.name for p in missing)
    line = " ".join(
        f"--arg {p.name}={'conf.yaml' if _takes_table(types_of.get(p.name), p.name) else 'VALUE'}" for p in missing
    )
    return (
        f"{what} needs arguments ({listed}): give {line}, or args in the target's table of the configuration; or "
        f"write a build() without arguments that calls {what}({listed}) and returns the result"
    )


def _takes_table(kind: Any, name: str) -> bool:
    kind = typing.get_origin(_bare(kind)) or _bare(kind)
    if kind is None:
        return name in ("cfg", "conf", "config")
    return dataclasses.is_dataclass(kind) or _is_config(kind) or kind in (dict, Mapping)


def hints(function: Any) -> dict[str, Any]:
    """Return the evaluated annotations of the parameters of a function or class."""
    source = function
    if isinstance(function, type) and not dataclasses.is_dataclass(function) and not hasattr(function, "_fields"):
        source = function.__init__  # type: ignore[misc]
    try:
        return typing.get_type_hints(inspect.unwrap(source))
    except Exception:  # a name that exists for type checkers alone
        return {}


def fit(kind: Any, value: Any, name: str, default: Any = _EMPTY) -> Any:
    """Return a value as an annotation asks for it.

    Args:
        kind: the evaluated annotation; None without one.
        value: what is given.
        name: the name with dots, for messages.
        default: what the parameter is without it: keys that are not given keep its values.

    Raises:
        TargetError: the value does not fit.
    """
    kind = _bare(kind)
    if kind in (None, Any, object) or isinstance(kind, typing.TypeVar):
        kind = type(default) if dataclasses.is_dataclass(default) or _is_config(type(default)) else None
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
    if members:
        return _one_of(members, value, name, default)
    if isinstance(value, Text):
        if kind is str:
            return value.text
        if isinstance(kind, type) and issubclass(kind, os.PathLike):
            return (pathlib.Path if kind is os.PathLike else typing.cast(Any, kind))(value.path)
        value = value.resolved() if kind is not None or not _is_path(name) else value.text
    if kind is None:
        return _open(value)
    return _of_kind(kind, value, name, default)


def _of_kind(kind: Any, value: Any, name: str, default: Any) -> Any:
    origin = typing.get_origin(kind) or kind
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise TargetError(f"{name} must be one of {', '.join(map(repr, typing.get_args(kind)))}, not {value!r}")
        return value
    if _is_config(origin):
        return _config(value, name, default)
    if typing.is_typeddict(origin) or (isinstance(origin, type) and issubclass(origin, (dict, Mapping))):
        return _table(value, name, default)
    if not isinstance(origin, type) or (isinstance(value, origin) and not isinstance(value, bool)):
        return plain(value)
    if isinstance(value, Mapping) and hasattr(origin, "_fields"):
        return _object(origin, value, name, default)
    if origin in (list, tuple, set, frozenset, Sequence) or (issubclass(origin, Sequence) and origin is not str):
        return _several(origin, typing.get_args(kind), value, name)
    if origin in _WRITTEN:
        return _simple(origin, value, name)
    if issubclass(origin, enum.Enum):
        return _member(origin, value, name)
    if isinstance(value, Mapping):
        return _object(origin, value, name, default)
    raise TargetError(f"{name} needs a {origin.__name__}, and {_shown(value)} is given: give a table or a file of one")


def _one_of(members: Sequence[Any], value: Any, name: str, default: Any) -> Any:
    if isinstance(value, Text) and str in members:
        others = [m for m in members if m is not str]
        members = [str, *others] if isinstance(value.literal(), str) else [*others, str]
    problem: TargetError | None = None
    for member in members:
        if member is types.NoneType:
            if value is None or (isinstance(value, Text) and value.literal() is None):
                return None
            continue
        try:
            return fit(member, value, name, default)
        except TargetError as error:
            problem = problem or error
    raise problem or TargetError(f"{name} may not be {_shown(value)}")


def _simple(kind: type, value: Any, name: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML takes 1e-3 for a text
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is kind:
        return value
    raise TargetError(f"{name} needs {_WRITTEN[kind]}, and {_shown(value)} is given")


def _several(kind: type, of: Sequence[Any], value: Any, name: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise TargetError(f"{name} needs a list, and {_shown(value)} is given: write it as in --arg {name}='[1, 2]'")
    is_mixed = kind is tuple and of and of[-1] is not Ellipsis
    kinds = [of[min(i, len(of) - 1)] if is_mixed else of[0] if of else None for i in range(len(value))]
    parts = [
        plain(part) if of_part is None else fit(of_part, part, f"{name}[{i}]")
        for i, (of_part, part) in enumerate(zip(kinds, value, strict=True))
    ]
    return kind(parts) if kind in (tuple, set, frozenset) else parts


def _member(kind: type[enum.Enum], value: Any, name: str) -> Any:
    for member in kind:
        if value in (member.name, member.value):
            return member
    raise TargetError(f"{name} must be one of {', '.join(m.name for m in kind)}, not {_shown(value)}")


def _table(value: Any, name: str, default: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TargetError(f"{name} needs a table, and {_shown(value)} is given")
    start = default if isinstance(default, Mapping) else {}
    return merged(start, plain(value))


def _config(value: Any, name: str, default: Any) -> Any:
    config = importlib.import_module("omegaconf").OmegaConf  # installed, as the annotation names it
    if not isinstance(value, (Mapping, list)):
        raise TargetError(f"{name} needs a config, and {_shown(value)} is given: give the file of one")
    value = plain(value)
    if isinstance(value, Mapping) and isinstance(value.get("defaults"), list):
        raise TargetError(
            f"{name} is composed of other files by its defaults: give the composed one, which the script prints with "
            "--cfg job"
        )
    made = config.create(value)
    return made if default is _EMPTY or default is None else config.merge(default, made)


def _object(kind: type, value: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return an instance of a class, made of a table."""
    known = parameters(kind)
    is_start = dataclasses.is_dataclass(kind) and isinstance(default, kind)
    takes_any = not known or any(p.kind is p.VAR_KEYWORD for p in known.values())
    names = [n for n, p in known.items() if p.kind not in _MANY]
    types_of = hints(kind)
    made = {}
    for key, part in value.items():
        if key not in names and not takes_any:
            raise TargetError(f"{name}: {kind.__name__} has no {key!r}{_instead(str(key), names)}")
        if is_start:
            begun = getattr(default, key, _EMPTY)
        else:
            begun = _default_of(kind, key)
        made[key] = fit(types_of.get(key), part, f"{name}.{key}", begun)
    missing = [p.name for p in required(kind) if p.name not in made] if not is_start else []
    if missing:
        raise TargetError(f"{name}: {kind.__name__} needs {', '.join(missing)}: give --arg {name}.{missing[0]}=VALUE")
    try:
        return dataclasses.replace(default, **made) if is_start else kind(**made)
    except GradlintError:
        raise
    except Exception as error:
        raise user_error(f"{kind.__name__}() of the argument {name}", error) from error


def _default_of(kind: type, name: str) -> Any:
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if field.name == name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    parameter = parameters(kind).get(name)
    return _EMPTY if parameter is None else parameter.default


def plain(value: Any) -> Any:
    """Return a value without `Text`: tables become dicts, texts what they are."""
    if isinstance(value, Text):
        return value.resolved()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value


def merged(start: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the keys of another put into it, level by level."""
    result = dict(start)
    for key, value in change.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = merged(before, value)
        result[key] = value
    return result


def _open(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, dict):
        return Fields({key: _open(part) for key, part in value.items()})
    return [_open(part) for part in value] if isinstance(value, list) else value


def _bare(kind: Any) -> Any:
    if typing.get_origin(kind) is typing.Annotated:
        return _bare(typing.get_args(kind)[0])
    return _bare(kind.__supertype__) if isinstance(kind, typing.NewType) else kind


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.split(".")[0] == "omegaconf"


def _is_path(name: str) -> bool:
    """Return True if a parameter without an annotation is called as those are that take a path."""
    return name.lower().split("_")[-1] in ("path", "file", "filename", "dir", "folder")


def _instead(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    return f"; did you mean {near}?" if near else f"; it takes {', '.join(names)}" if names else ""


def _shown(value: Any) -> str:
    value = value.text if isinstance(value, Text) else value
    return "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else repr(value)
