"""The rooms of gradlint/ and the order in which they may know each other.

Lazy imports and imports for type checkers count like any other: a concept borrowed from a later room is borrowed,
however late it is imported.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

from cases import each

PACKAGE = Path(__file__).resolve().parent.parent / "gradlint"

ROOMS = """_version lazy errors system location findings wording markers source load traces restore recorder flow
experiments rulekit config engine triage report lock api runner testing integrations cli __main__""".split()
"""Each room may import those before it, and itself."""

TORCH_FREE = set(
    "_version lazy errors system location findings wording"
    " markers source traces flow rulekit config triage report".split()
)
"""Rooms that import no torch, not even late, nor any room that does."""
TORCH_ROOMS = set("restore recorder experiments".split())

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the room of a file, given relative to the package; the package itself is the face of the house."""
    return path.with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a file imports, at any depth and for any purpose."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def module_of(name: str) -> str | None:
    """Return the module that a name lies in: ``flow.cut`` for ``gradlint.flow.cut.Cut``; None outside of gradlint."""
    parts = name.split(".")
    if parts[0] != "gradlint":
        return None
    for length in range(len(parts), 1, -1):
        place = PACKAGE.joinpath(*parts[1:length])
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            return ".".join(parts[1:length])
    return ""


def late_imports(path: Path) -> Iterator[str]:
    """Yield the imports of a file that its room may not have."""
    room = room_of(path)
    for line, name in imports(path):
        module = module_of(name)
        if module is None:
            if room in TORCH_FREE and name.split(".")[0] == "torch":
                yield f"{path}:{line}: {room} imports torch"
            continue
        other = module.split(".")[0]
        if other and ROOMS.index(other) > ROOMS.index(room):
            yield f"{path}:{line}: {name} is in a later room"
        if room in TORCH_FREE and other in TORCH_ROOMS:
            yield f"{path}:{line}: {name} needs torch"


@each("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    wrong = [text for path in FILES if room_of(path) == room for text in late_imports(path)]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} == set(ROOMS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {}
    for path in FILES:
        name = ".".join(path.with_suffix("").parts).removesuffix("__init__").rstrip(".")
        targets = {module_of(imported) for _, imported in imports(path)}
        graph[name] = {module for module in targets if module} - {name}
    graph.pop("")  # the face names every room, lazily
    graphlib.TopologicalSorter(graph).prepare()


def test_one_module_writes_files() -> None:
    """What writes, renames or makes temporary files elsewhere is listed here, with the reason."""
    elsewhere = {
        "cli/streams.py",  # stdout, and the null device
        "cli/workers/crash_log.py",  # a file without a name
        "runner/child.py",  # Python's own dump of a crash, in the folder of the job
        "runner/parent.py",  # that folder, and a pipe
    }
    writes = re.compile(
        r"\bmkstemp|\btempfile\.|os\.(replace|rename|link)\(|\.write_text\(|(?<!streams)\.write_bytes\(|open\([^)]*\"[wax]b?\""
    )
    found = {path.as_posix() for path in FILES if writes.search((PACKAGE / path).read_text(encoding="utf-8"))}
    assert found - elsewhere == {"system/writing.py"}
