"""``gradlint init``: a build() skeleton, written from the syntax tree of the model classes in a file."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN
from gradlint.errors import GradlintError
from gradlint.report.view import shown_path
from gradlint.source.file import SourceModule
from gradlint.source.files import source_text
from gradlint.source.intent import proposed_contract
from gradlint.source.script import parsed_at_import
from gradlint.source.text import Unreadable
from gradlint.system import reading, writing
from gradlint.system.legible import one_line

_HEAD = '''"""What `gradlint check {name}:build` builds and judges: complete it so that it is what you train."""

import torch

from {module} import {classes}
'''
_BODY = """

def {function}({parameters}):
    model = {call}
    # Freeze here what your training freezes, for example:
    # for p in model.{part}.parameters():
    #     p.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return {{
        "model": model,
        # What forward{signature} takes. Without it gradlint looks for shapes that run.
        # "inputs": {inputs},
        "optimizer": optimizer,
        # What is trained on: from the output to a scalar.
        # "loss": lambda output: torch.nn.functional.cross_entropy(output, torch.zeros(2, dtype=torch.long)),
{contract}    }}
"""
_CONTRACT = """        # What names suggest. Declared, gradlint holds the training to it:
        # "frozen": {frozen},
        # "trains": {trains},
"""


def run(file: str, output: str | None) -> int:
    """Write the build() functions.

    Raises:
        GradlintError: the file cannot be read, holds no model class, or something is in the way of the new one.
    """
    path = Path(file)
    try:
        module = SourceModule(source_text(os.path.abspath(path), reading.read(path)))
    except OSError as error:
        raise GradlintError(f"{file}: cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        raise GradlintError(f"{file}:{error.line}: cannot be parsed: {error}") from error
    classes = model_classes(module)
    if not classes:
        raise GradlintError(f"{file}: there is no class in it that is certainly an nn.Module; write build() by hand")
    if not all(part.isidentifier() for part in _dotted(path).split(".")):
        raise GradlintError(f"{file}: {_dotted(path)} is no module name, so nothing can import it: rename the file")
    line = parsed_at_import(module.syntax)
    if line is not None:
        raise GradlintError(
            f"{file}:{line}: the command line is parsed when the file is imported, so that a build() cannot import it: "
            f'put that under `if __name__ == "__main__":`, or use gradlint init --from-run {file} -- ARGUMENTS'
        )
    beside = path.with_name(f"{path.stem}_build.py")
    is_stream = output is not None and (output == "-" or writing.is_special(output))
    target = beside if output is None or is_stream else Path(output)
    text = skeleton(module, classes, path, target.as_posix())
    if output == "-":
        streams.write(text)
        return CLEAN
    try:
        writing.create(output or target, text.encode("utf-8", "backslashreplace"))
    except FileExistsError:
        raise GradlintError(f"{target} is there already; name another file with --output") from None
    except OSError as error:
        raise GradlintError(f"{output or target}: cannot be written: {error.strerror or error}") from error
    if is_stream:
        return CLEAN
    shown = one_line(shown_path(str(target.absolute()), Path.cwd()))
    needed = "".join(f" --arg {a.arg}=VALUE" for a, _ in _required(module, _outer(classes)[0]))
    streams.write_error(f"wrote {shown}; complete it, then: gradlint check {shown}:build{needed}\n")
    return CLEAN


def model_classes(module: SourceModule) -> list[ast.ClassDef]:
    """Return the top-level model classes of a file, those that no other one contains first."""
    classes = [
        node
        for node in module.syntax.body
        if isinstance(node, ast.ClassDef) and module.kinds.is_module(node) and module.kinds.method(node, "forward")
    ]
    names = {cls.name for cls in classes}
    inner = {
        node.id
        for cls in classes
        for node in ast.walk(cls)
        if isinstance(node, ast.Name) and node.id in names and node.id != cls.name
    }
    return sorted(classes, key=lambda cls: (cls.name in inner, -cls.lineno))


def skeleton(module: SourceModule, classes: list[ast.ClassDef], path: Path, name: str) -> str:
    """Return the text of the new file.

    Each class that is no part of another gets a function; the first one is ``build``.
    """
    head = _HEAD.format(
        name=_in_docstring(name), module=_dotted(path), classes=", ".join(sorted(cls.name for cls in _outer(classes)))
    )
    parts = []
    for number, cls in enumerate(_outer(classes)):
        function = "build" if not number else f"build_{_snake(cls.name)}"
        attributes = [a for a, v in module.kinds.attributes(cls).items() if any(_is_module(module, e) for e in v)]
        forward = module.kinds.method(cls, "forward")
        taken = [a.arg for a in forward.args.args[1:]] if forward is not None else []
        parts.append(
            _BODY.format(
                function=function,
                parameters=", ".join(_parameters(module, cls)),
                call=f"{cls.name}({', '.join(_arguments(module, cls))})",
                part=attributes[0] if attributes else "encoder",
                contract=_contract(module, cls, attributes),
                signature=f"({', '.join(taken)})",
                inputs=f"({', '.join('torch.randn(2, 3)' for _ in taken)}{',' if len(taken) == 1 else ''})",
            )
        )
    return head + "".join(parts)


def _outer(classes: list[ast.ClassDef]) -> list[ast.ClassDef]:
    inner = {node.id for cls in classes for node in ast.walk(cls) if isinstance(node, ast.Name) and node.id != cls.name}
    return [cls for cls in classes if cls.name not in inner] or classes[:1]


def _contract(module: SourceModule, cls: ast.ClassDef, parts: list[str]) -> str:
    """Return the comment that proposes a contract; empty if no name suggests one."""
    init = module.kinds.method(cls, "__init__")
    flags = [a.arg for a in (*init.args.args, *init.args.kwonlyargs)] if init is not None else []
    frozen, trains = proposed_contract(parts, flags)
    lines = _CONTRACT.format(frozen=json.dumps(frozen), trains=json.dumps(trains)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.endswith("[],\n")) if frozen or trains else ""


def _is_module(module: SourceModule, value: ast.expr | None) -> bool:
    kind = module.kind(value)
    return kind is not None and kind.module


def _required(module: SourceModule, cls: ast.ClassDef) -> list[tuple[ast.arg, bool]]:
    """Return the arguments that a constructor must get, and whether each is given by position."""
    init = module.kinds.method(cls, "__init__")
    if init is None:
        return []
    parameters = [*init.args.posonlyargs, *init.args.args][1:]
    required = parameters[: len(parameters) - len(init.args.defaults)] if init.args.defaults else parameters
    required += [a for a, d in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True) if d is None]
    positional = {a.arg for a in init.args.posonlyargs}
    return [(a, a.arg in positional) for a in required]


def _arguments(module: SourceModule, cls: ast.ClassDef) -> list[str]:
    """Return the arguments of the constructor's call, which are parameters of build()."""
    return [a.arg if by_position else f"{a.arg}={a.arg}" for a, by_position in _required(module, cls)]


def _parameters(module: SourceModule, cls: ast.ClassDef) -> list[str]:
    """Return the parameters of build(), with the annotations that need no import."""
    parts = []
    for argument, _ in _required(module, cls):
        note = argument.annotation
        is_simple = isinstance(note, ast.Name) and note.id in ("bool", "dict", "float", "int", "list", "str")
        parts.append(f"{argument.arg}: {ast.unparse(note)}" if note is not None and is_simple else argument.arg)
    return parts


def _in_docstring(name: str) -> str:
    """Return a file name that cannot end the docstring that it stands in."""
    return one_line(name).replace("\\", "\\\\").replace('"', '\\"')


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _dotted(path: Path) -> str:
    """Return the name that the file is imported by, with the packages that contain it."""
    full = path.absolute()
    parts = [] if full.name == "__init__.py" else [full.stem]
    folder = full.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) or full.stem
