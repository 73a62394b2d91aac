"""Files whose content is an argument: JSON, YAML and TOML, read as plain data."""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

from gradlint.errors import TargetError
from gradlint.system import reading

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""Matches the numbers that YAML 1.1, which PyYAML reads, takes for texts: 1e-3. Hydra and YAML 1.2 read numbers."""


def content(path: str, name: str) -> Any:
    """Return the content of a file that an argument names; its suffix says what it is.

    Raises:
        TargetError: it cannot be read, is malformed, or nothing is installed that reads it.
    """
    try:
        text = reading.read(path).decode("utf-8-sig")
    except OSError as error:
        raise TargetError(f"the argument {name}: {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"the argument {name}: {path} is not UTF-8: {error.reason}") from error
    suffix = path.lower().rpartition(".")[2]
    try:
        if suffix == "json":
            return json.loads(text)
        if suffix == "toml":
            return tomllib.loads(text)
        return _yaml(text, path)
    except (ValueError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else f"cannot be parsed: {error}"
        raise TargetError(f"the argument {name}: {path} {what}") from error


def _yaml(text: str, path: str) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise TargetError(
            f"{path} is YAML, and PyYAML is not installed here: pip install 'torch-gradlint[yaml]', or write JSON or "
            "TOML"
        ) from error
    loader: Any = type("Loader", (yaml.SafeLoader,), {})  # a class of its own, so that no other reader changes
    loader.add_implicit_resolver(FLOAT_TAG, _FLOAT, list("-+0123456789."))
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
