"""Configuration: ``[tool.gradlint]`` in pyproject.toml, or gradlint.toml.

The nearest file above a source file, or above a target's file, is the one that counts; files are not merged.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gradlint.config import toml
from gradlint.config.keys import KEYS, TargetSettings, WrongValue, hint, kind_of
from gradlint.config.trust import is_trusted
from gradlint.errors import UsageError
from gradlint.findings import Severity
from gradlint.system import legible, reading, writing

FILE_NAMES = ("gradlint.toml", ".gradlint.toml", "pyproject.toml")
"""The files that may hold settings; of those in one folder, the first that does counts."""


EXCLUDED = (
    ".*",
    "__pycache__",
    "__pypackages__",
    "build",
    "dist",
    "node_modules",
    "site-packages",
    "venv",
)
"""Patterns that folders leave out unless `exclude` is set."""


@dataclass(frozen=True)
class Settings:
    """The settings in one file, or the defaults. Each field is written with dashes in the file."""

    path: Path | None = None
    """The file they were read from; None for the defaults."""
    root: Path = field(default_factory=Path.cwd)
    """The folder that patterns and paths are relative to: that of the file."""
    targets: Mapping[str, TargetSettings] = field(default_factory=dict)
    """Targets that ``gradlint check`` without arguments checks, with their settings."""
    select: tuple[str, ...] = ()
    """Rules to run; empty for all."""
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Glob of files → selectors of rules whose findings there do not count."""
    ignore_parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Selector of rules → globs of parameters that their findings leave out."""
    severity: Mapping[str, Severity] = field(default_factory=dict)
    """Selector of rules → the severity that their findings get."""
    fail_on: Severity = Severity.WARNING
    show_info: bool = False
    strict: bool = False
    output_format: str = "full"
    rules_dirs: tuple[str, ...] = ()
    """Folders with rules, which are loaded only if the user allows it."""
    exclude: tuple[str, ...] = EXCLUDED
    extend_exclude: tuple[str, ...] = ()
    force_exclude: bool = False
    """True if `exclude` counts for files that are named on the command line too."""
    respect_gitignore: bool = True
    unsafe_fixes: bool = False
    baseline: str = ""
    cache_dir: str = ""
    rule_url: str = ""
    """Where the pages of rules are, for links in terminals: ``{code}`` in it, or the code behind it."""

    def target(self, text: str) -> TargetSettings:
        """Return the settings of a target however its path is written, else the defaults."""
        if text in self.targets:
            return self.targets[text]
        wanted = _absolute(text, Path.cwd())
        return next((t for name, t in self.targets.items() if _absolute(name, self.root) == wanted), TargetSettings())

    def configured_targets(self) -> tuple[str, ...]:
        """Return the targets as written from the working directory."""
        return tuple(_from_here(name, self.root) for name in self.targets)

    def baseline_file(self) -> Path | None:
        """Return the configured baseline; None without one.

        Raises:
            UsageError: it is a device or a pipe, which may never end.
        """
        if not self.baseline:
            return None
        path = self.root / self.baseline
        if writing.is_special(path):
            raise UsageError(f"{self.path}: baseline {self.baseline!r} is no regular file")
        return path

    def rule_folders(self) -> tuple[str, ...]:
        """Return the folders with rules that the file names."""
        return tuple(os.path.join(self.root, folder) for folder in self.rules_dirs)

    def allowed_rule_folders(self, given: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the folders with rules that may be loaded.

        They are those given on the command line. Those that the file names count if the user trusts its folder:
        the file may belong to code that is only to be read.
        """
        named = self.rule_folders()
        return (*given, *(named if named and is_trusted(self.root) else ()))

    def refused_rule_folders(self, given: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the folders with rules that the file names and that may not be loaded."""
        allowed = set(map(os.path.realpath, self.allowed_rule_folders(given)))
        return tuple(folder for folder in self.rule_folders() if os.path.realpath(folder) not in allowed)

    def cache_folder(self, *, trusted: bool) -> Path | None:
        """Return the configured folder of the cache; None without one.

        Args:
            trusted: whether the user has named the file that holds these settings on the command line.

        Raises:
            UsageError: the user trusts neither the file nor its folder, and the cache lies outside of that folder.
        """
        if not self.cache_dir:
            return None
        folder = self.root / os.path.expanduser(self.cache_dir)
        if not (trusted or _lies_in(folder, self.root) or is_trusted(self.root)):
            raise UsageError(
                f"{self.path}: cache-dir {self.cache_dir!r} lies outside of {self.root}: name it with --cache-dir, or "
                "the file with --config"
            )
        return folder


class Configuration:
    """The settings of each file and target, given ``--config`` and ``--isolated``."""

    def __init__(
        self,
        file: str | Path | None = None,
        *,
        isolated: bool = False,
        override: Callable[[Settings], Settings] = lambda settings: settings,
    ) -> None:
        """Fix the one file that counts, or none.

        Args:
            file: the one file that counts everywhere.
            isolated: whether no file counts.
            override: what the command line makes of settings.

        Raises:
            UsageError: the file is missing or wrong.
        """
        if file is not None and isolated:
            raise UsageError("--config and --isolated exclude each other")
        self._override = override
        self._overridden: dict[int, tuple[Settings, Settings]] = {}
        self._fixed: Settings | None = None
        if isolated:
            self._fixed = Settings()
        elif file is not None:
            self._fixed = read(Path(file))

    def near(self, path: str | Path) -> Settings:
        """Return the settings for a file or folder.

        Raises:
            UsageError: the nearest file is wrong.
        """
        settings = self._fixed
        if settings is None:
            here = Path(os.path.abspath(path))
            settings = _nearest(here if here.is_dir() else here.parent)
        overridden = self._overridden.get(id(settings))
        if overridden is None:
            # The found one is kept beside its double, so that its identity stays its own.
            overridden = self._overridden[id(settings)] = (settings, self._override(settings))
        return overridden[1]

    def of_target(self, target: str) -> Settings:
        """Return the settings for ``model.py:build`` or ``package.module:build``."""
        file = _file_of(target)
        return self.near(file if file and os.path.exists(file) else Path.cwd())


@functools.lru_cache(maxsize=4096)
def _nearest(folder: Path) -> Settings:
    for name in FILE_NAMES:
        file = folder / name
        if file.is_file():
            settings = _read(file, required=name != "pyproject.toml")
            if settings is not None:
                return settings
    return _nearest(folder.parent) if folder.parent != folder else Settings()


def read(file: Path) -> Settings:
    """Return the settings of a file.

    In a pyproject.toml they stand under ``[tool.gradlint]``, else at top level.

    Raises:
        UsageError: it is missing, is no TOML, or holds an unknown key or a value of the wrong type.
    """
    settings = _read(Path(os.path.abspath(file)), required=True)
    assert settings is not None
    return settings


def forget() -> None:
    """Read files anew when they are next asked for."""
    _nearest.cache_clear()


def _read(file: Path, *, required: bool) -> Settings | None:
    try:
        data = toml.parsed(reading.read(file))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if not required:
            # Other tools report a broken pyproject.toml; gradlint does only if the file mentions it.
            if b"tool.gradlint" not in reading.read(file):
                return None
        raise UsageError(f"{file}: is no valid TOML: {error}") from error
    where = ""
    if file.name == "pyproject.toml":
        tool = data.get("tool", {})
        table = tool.get("gradlint") if isinstance(tool, dict) else None
        if table is None:
            if not required:
                return None
            table = {}
        data, where = table, "tool.gradlint"
    if not isinstance(data, dict):
        raise UsageError(f"{file}: {where} must be a table, not {kind_of(data)}")
    return _settings(file, data, where)


def _settings(file: Path, data: dict[str, Any], where: str) -> Settings:
    values: dict[str, Any] = {}
    for key, value in data.items():
        full = f"{where}.{key}" if where else key
        convert = KEYS.get(key)
        if convert is None:
            raise UsageError(f"{file}: unknown key {full}{hint(key, KEYS)}")
        try:
            values[key.replace("-", "_")] = convert(value)
        except WrongValue as wrong:
            below, problem = wrong.args
            raise UsageError(f"{file}: {full}{below} {problem}") from None
    return Settings(path=file, root=file.parent, **values)


def _lies_in(path: Path, folder: Path) -> bool:
    """Return True if a path is below a folder once all links are followed."""
    real, below = (os.path.normcase(os.path.realpath(p)) for p in (path, folder))
    try:
        return os.path.commonpath((real, below)) == below
    except ValueError:  # another Windows drive
        return False


def as_toml(settings: Settings) -> str:
    """Return the settings as TOML, each key with its value."""
    path = settings.path
    lines = [f"# {'no configuration file: the defaults' if path is None else legible.one_line(str(path))}"]
    tables = []
    for key in KEYS:
        value = getattr(settings, key.replace("-", "_"))
        if not isinstance(value, Mapping):
            lines.append(f"{key} = {_toml(value)}")
        elif key == "targets":
            for name, target in value.items():
                tables += ["", f"[targets.{_toml(name)}]"]
                tables += [f"{key} = {text}" for key, text in _target_lines(target)]
        elif value:
            tables += ["", f"[{key}]", *(f"{_toml(name)} = {_toml(part)}" for name, part in value.items())]
    return "\n".join([*lines, *tables]) + "\n"


def _target_lines(target: TargetSettings) -> Iterator[tuple[str, str]]:
    for name in (f.name for f in fields(target)):
        value = getattr(target, name)
        if name == "args" and value:
            yield name, _toml(dict(value))
        elif name not in ("args", "argv") or value:
            yield name, _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(part)}" for key, part in value.items()) + " }"
    if not isinstance(value, (str, Severity)):  # a number, a date
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _split(target: str) -> tuple[str, str]:
    """Return (file, attribute) of a target; the file is empty for ``package.module:attribute``."""
    head, colon, attribute = target.rpartition(":")
    if not colon or not (head.endswith((".py", ".ipynb")) or "/" in head or "\\" in head):
        return "", target
    return head, attribute


def _file_of(target: str) -> str:
    return _split(target)[0]


def _absolute(target: str, root: Path) -> tuple[str, str]:
    file, attribute = _split(target)
    return (os.path.normcase(os.path.abspath(root / file)) if file else "", attribute)


def _from_here(target: str, root: Path) -> str:
    file, attribute = _split(target)
    if not file:
        return target
    full = os.path.abspath(root / file)
    try:
        near = os.path.relpath(full)
    except ValueError:  # another Windows drive
        near = full
    return f"{Path(full if near.startswith('..') else near).as_posix()}:{attribute}"
