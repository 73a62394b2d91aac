"""Where in the user's source something happened: call chains, kept compact and resolved when they are read.

A *site* is a number that stands for one chain of user frames: the innermost frame and the number of the chain above
it. Frames of torch, of the standard library and of gradlint itself are left out while recording.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias

from gradlint.location import Code, Location, characters, source_path, statement_location
from gradlint.system.installed import OWN_FOLDER, is_library_file
from gradlint.traces.ids import SiteId

_TYPED = re.compile(
    "<(string|stdin|console|input|unknown|ast|exec|cell|module|stdin-|doctest |python-input-|ipython-input-|ipython-"
    "console|command-|timed exec|timed eval|magic-timeit)"
)
"""Beginnings of the names of code without a file: of ``python -c``, exec(), consoles, doctests and notebooks."""


@dataclass(frozen=True)
class Frame:
    """One frame of a chain."""

    path: str
    function: str
    code: Code
    span: Callable[[], Location] | Location
    """The span of source that ran, or finds it."""

    @functools.cached_property
    def location(self) -> Location:
        """The span of source that ran. Finding it reads the file, so it is only found when it is needed."""
        return self.span if isinstance(self.span, Location) else self.span()

    @functools.cached_property
    def project(self) -> bool:
        """True if the frame is the user's own code rather than an installed library's, or what dataclasses generate."""
        return is_project(self.path) and not self.function.startswith("__create_fn__")

    def __reduce__(self) -> tuple[type[Frame], tuple[str, str, Code, Location]]:
        return Frame, (self.path, self.function, self.code, self.location)


class Sites:
    """The call chains of one recording.

    A chain is kept as code object and instruction. Pickling keeps frames with their locations.

    Args:
        rows: (code, last instruction, number of the chain above) of each site.
    """

    def __init__(self, rows: Sequence[tuple[CodeType, int, SiteId]]) -> None:
        self._rows = rows
        self._frames: dict[tuple[int, int], Frame] = {}
        self._plain: list[tuple[Frame, SiteId]] = []
        """(frame, number of the chain above), of a recording that was read back."""

    def _row(self, number: SiteId) -> tuple[Frame, SiteId]:
        """Return (frame, number of the chain above) of a site."""
        if self._plain:
            return self._plain[number]
        code, instruction, above = self._rows[number]
        # by identity: equal code objects of two files compare equal
        key = (id(code), instruction)
        if key not in self._frames:
            self._frames[key] = _frame(code, instruction)
        return self._frames[key], above

    def __getstate__(self) -> list[tuple[Frame, SiteId]]:
        return self._plain or [self._row(SiteId(number)) for number in range(len(self._rows))]

    def __setstate__(self, state: list[tuple[Frame, SiteId]]) -> None:
        Sites.__init__(self, ())
        self._plain = state

    def links(self, number: SiteId) -> Iterator[tuple[Frame, SiteId]]:
        """Yield (frame, number of the chain above it) of a site, innermost first."""
        while number >= 0:
            frame, number = self._row(number)
            yield frame, number

    def chain(self, number: SiteId) -> Iterator[Frame]:
        """Yield the frames of a site, innermost first."""
        return (frame for frame, _ in self.links(number))

    def innermost(self, number: SiteId) -> Frame | None:
        """Return the innermost frame outside torch and the standard library; None without one."""
        return next(self.chain(number), None)

    def blamed(self, number: SiteId) -> Frame | None:
        """Return the innermost frame of the user's own project, else the innermost of all."""
        first = None
        for frame in self.chain(number):
            if frame.project:
                return frame
            first = first or frame
        return first


def _frame(code: CodeType, instruction: int) -> Frame:
    path = source_path(code.co_filename)
    name = getattr(code, "co_qualname", code.co_name)
    return Frame(path, name, Code.of(code), functools.partial(_location, path, code, instruction))


def _location(path: str, code: CodeType, instruction: int) -> Location:
    positions = _positions(code)
    number = instruction // 2
    line, end_line, column, end_column = positions[number] if number < len(positions) else (None,) * 4
    if line is None:
        return statement_location(path, code.co_firstlineno)
    if column is None or end_column is None:
        return statement_location(path, line)
    last = end_line or line
    return Location(path, line, characters(path, line, column) + 1, last, characters(path, last, end_column) + 1)


_Positions: TypeAlias = Sequence[tuple[int | None, int | None, int | None, int | None]]
_known: dict[int, tuple[CodeType, _Positions]] = {}
"""Identity of a code object → it, and its positions. Its hash takes as long as the whole list."""


def _positions(code: CodeType) -> _Positions:
    """Return (line, last line, column, end column) of each instruction; None if unknown."""
    found = _known.get(id(code))
    if found is None:
        if len(_known) >= 256:
            _known.clear()
        found = _known[id(code)] = code, _listed(code)
    return found[1]


def _listed(code: CodeType) -> _Positions:
    positions = getattr(code, "co_positions", None)  # Python 3.11 and newer
    if positions is not None:
        return list(positions())
    return [(line, None, None, None) for start, end, line in code.co_lines() for _ in range(start, end, 2)]


@functools.lru_cache(maxsize=4096)
def is_project(path: str) -> bool:
    """Return True if a file is user code: neither installed nor in the standard library.

    Code without a file is too if it was typed or executed (``<string>``), but not if a library generated it.
    """
    name = path if path.startswith("<") else os.path.basename(path)
    if name.startswith("<"):
        return _TYPED.match(name) is not None
    full = source_path(path)
    return not full.startswith(OWN_FOLDER) and not is_library_file(full)


def class_is_project(cls: type) -> bool:
    """Return True if a class is defined in user code."""
    return _class_is_project(cls)


@functools.lru_cache(maxsize=4096)
def _class_is_project(cls: Any) -> bool:
    module = sys.modules.get(cls.__module__)
    path = getattr(module, "__file__", None)
    if path is None:
        # a module that was loaded for one target only is gone from sys.modules; its functions still know their file
        path = next((f.__code__.co_filename for f in vars(cls).values() if hasattr(f, "__code__")), None)
    return path is not None and is_project(path)
