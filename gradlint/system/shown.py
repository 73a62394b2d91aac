"""Objects that Python and notebooks show as the command line does."""

from __future__ import annotations

import importlib
import sys
from typing import Any


class Shown:
    """An object that print() and notebooks show as the command line shows it.

    The room `report` writes the text. It knows the classes, and they do not know it.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return str(_renderers().text(self))

    def _repr_html_(self) -> str:
        return str(_renderers().html_fragment(self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}

    def show(self) -> None:
        """Show it: in a notebook as HTML, else on stdout, with colours on a terminal."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        if shell is not None and hasattr(shell, "kernel"):
            ipython.display.display(self)  # type: ignore[union-attr]
        else:
            sys.stdout.write(_renderers().text(self, stream=sys.stdout))


def to_dict(shown: Shown) -> dict[str, Any]:
    """Return what the command line writes as JSON, as plain dicts and lists."""
    content: dict[str, Any] = _renderers().as_dict(shown)
    return content


def to_json(shown: Shown) -> str:
    """Return what the command line writes with ``--output-format json``."""
    return str(_renderers().as_json(shown))


def save_map(shown: Shown, path: str) -> None:
    """Write a map to a file, whose suffix decides the format."""
    _renderers().save_map(shown, path)


def _renderers() -> Any:
    return importlib.import_module("gradlint.report.in_python")
