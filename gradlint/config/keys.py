"""The keys of a configuration, and how each value is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from gradlint.findings import Severity


@dataclass(frozen=True)
class TargetSettings:
    """Settings of one target, under ``[tool.gradlint.targets."model.py:build"]``."""

    inputs: tuple[str, ...] = ()
    """Inputs of the forward, as after ``--input``."""
    trains: tuple[str, ...] = ()
    """Globs of parameters that must train."""
    frozen: tuple[str, ...] = ()
    """Globs of parameters that must not."""
    args: tuple[tuple[str, Any], ...] = ()
    """Arguments of build(), by name, as after ``--arg``."""
    argv: tuple[str, ...] | None = None
    """What ``sys.argv`` holds behind the file while the target is loaded and built."""


class WrongValue(Exception):
    """A value of the wrong type or range; the arguments are the key and the problem."""


def hint(word: str, names: Iterable[str]) -> str:
    """Return what an unknown word may stand for, as the end of a message."""
    from gradlint.wording import nearest

    near = nearest(word.replace("_", "-"), names)
    return f"; did you mean {near}?" if near else f"; known are {', '.join(sorted(names))}"


def kind_of(value: Any) -> str:
    """Return the kind of a TOML value in words."""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongValue("", f"must be true or false, not {kind_of(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongValue("", f"must be a string, not {kind_of(value)}")
    return value


def _path(value: Any) -> str:
    path = _text(value)
    if "\0" in path:
        raise WrongValue("", "must be a path, without the character NUL")
    return path


def _address(value: Any) -> str:
    address = _text(value)
    if address and not (address.startswith(("https://", "http://")) and address.isascii() and address.isprintable()):
        raise WrongValue("", "must be an address that begins with https://")
    return address.replace(" ", "%20")


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise WrongValue("", f"must be an array of strings, not {kind_of(value)}")
    for number, part in enumerate(value):
        if not isinstance(part, str):
            raise WrongValue(f"[{number}]", f"must be a string, not {kind_of(part)}")
    return tuple(value)


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            from gradlint.wording import nearest

            near = nearest(value, choices) if isinstance(value, str) else None
            got = f"{value!r}{f'; did you mean {near}?' if near else ''}" if isinstance(value, str) else kind_of(value)
            raise WrongValue("", f"must be one of {', '.join(choices)}, not {got}")
        return value

    return convert


def _severity(value: Any) -> Severity:
    return Severity[_one_of("error", "warning", "info")(value).upper()]


def _table_of(convert: Callable[[Any], Any], what: str) -> Callable[[Any], dict[str, Any]]:
    def table(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise WrongValue("", f"must be a table {what}, not {kind_of(value)}")
        converted = {}
        for key, part in value.items():
            try:
                converted[key] = convert(part)
            except WrongValue as wrong:
                below, problem = wrong.args
                raise WrongValue(f'."{key}"{below}', problem) from None
        return converted

    return table


def _target(value: Any) -> TargetSettings:
    if not isinstance(value, dict):
        raise WrongValue("", f"must be a table, not {kind_of(value)}")
    names = [f.name for f in fields(TargetSettings)]
    parts: dict[str, Any] = {}
    for key, part in value.items():
        if key not in names:
            raise WrongValue(f".{key}", f"is an unknown key{hint(key, names)}")
        try:
            parts[key] = _arguments(part) if key == "args" else _texts(part)
        except WrongValue as wrong:
            below, problem = wrong.args
            raise WrongValue(f".{key}{below}", problem) from None
    return TargetSettings(**parts)


def _arguments(value: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, dict):
        raise WrongValue("", f"must be a table from parameters of build() to values, not {kind_of(value)}")
    for name in value:
        if not name.split(".")[0].isidentifier():
            raise WrongValue(f'."{name}"', "is no name of a parameter")
    return tuple(value.items())


def _targets(value: Any) -> dict[str, TargetSettings]:
    if isinstance(value, list):
        return dict.fromkeys(_texts(value), TargetSettings())
    return _table_of(_target, "of targets, or an array of them")(value)


KEYS: dict[str, Callable[[Any], Any]] = {
    "targets": _targets,
    "select": _texts,
    "ignore": _texts,
    "extend-select": _texts,
    "per-file-ignores": _table_of(_texts, "from file patterns to rules"),
    "ignore-parameters": _table_of(_texts, "from rules to parameter patterns"),
    "severity": _table_of(_severity, "from rules to severities"),
    "fail-on": _severity,
    "show-info": _boolean,
    "strict": _boolean,
    "output-format": _text,
    "rules-dirs": _texts,
    "exclude": _texts,
    "extend-exclude": _texts,
    "force-exclude": _boolean,
    "respect-gitignore": _boolean,
    "unsafe-fixes": _boolean,
    "baseline": _path,
    "cache-dir": _path,
    "rule-url": _address,
}
