"""Parse ``model.py:build`` and import the object that it names; torch is imported only then."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import linecache
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gradlint.errors import GradlintError, TargetError, UsageError
from gradlint.load.build import InstanceMethod, Target, user_error, user_traceback
from gradlint.load.notebooks import code_of, execute, is_notebook
from gradlint.load.setup import Setup
from gradlint.system.installed import is_library_file
from gradlint.system.undo import Undo

_MARKERS = ("pyproject.toml", "setup.py", ".git")


def parse_target(text: str) -> Target:
    """Split ``file.py:attr`` or ``package.module:attr``, without looking for the file.

    Raises:
        UsageError: the text has neither form.
    """
    head, colon, tail = text.rpartition(":")
    drive = len(head) == 1 and head.isalpha() and tail[:1] in ("\\", "/")
    attribute: str | None = tail
    if not colon or drive or "/" in tail or "\\" in tail:
        head, attribute = text, None
    if not head:
        raise UsageError(f"{text!r} names no file: write file.py:attribute, for example model.py:build")
    if attribute is not None and not _dotted(attribute):
        what = f"{attribute!r} is not an attribute name" if attribute else "the attribute after ':' is missing"
        raise UsageError(f"{text!r}: {what}; write file.py:attribute, for example {head}:build")
    if head.endswith((".py", ".ipynb")) or "/" in head or "\\" in head or head in (".", ".."):
        return Target(text, path=Path(head), attribute=attribute)
    if attribute is None and Path(head).exists():
        return Target(text, path=Path(head))
    if not _dotted(head):
        raise UsageError(f"{head!r} is neither a Python file (file.py) nor a module (package.module)")
    return Target(text, module=head, attribute=attribute)


def missing_path(path: Path) -> TargetError:
    """Return the error for a file or folder that does not exist, with the nearest name."""
    folder = path.parent
    if not folder.is_dir():
        return TargetError(f"{path} does not exist, nor does the folder {folder}: check the path")
    names = [p.name for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {folder / near[0]}?" if near else "check the path and the working directory"
    return TargetError(f"{path} does not exist: {hint}")


def load_target(target: Target, undo: Undo, argv: Sequence[str] = ()) -> Any:
    """Execute the target's module afresh and return the attribute object.

    Modules of the file's folder and of the project root can be imported then. Undone are ``sys.path``, ``sys.argv``,
    ``sys.modules``, ``sys.meta_path``, the working directory and bytecode writing. `argv` is what stands in
    ``sys.argv`` behind the file.

    Raises:
        TargetError: the file or attribute does not exist, or executing the file raised.
        UsageError: the target names no attribute.
    """
    if target.attribute is None:
        raise UsageError(f"{target.text!r} names no attribute: write {target.text}:build")
    place = _locate(target)
    undo.enter(_Sandbox(place, argv))
    return _attribute(target, _execute(target, place))


@dataclass(frozen=True)
class _Place:
    """The file of a target, and the folders that must be importable to load it."""

    file: Path | None
    name: str
    """The module's name in ``sys.modules``."""
    roots: tuple[str, ...]
    """Folders whose modules belong to the project."""
    front: tuple[str, ...]
    back: tuple[str, ...] = ()
    guarded: frozenset[str] = frozenset()
    """Top-level names that must resolve to the library, whatever files lie in the folder."""


def _locate(target: Target) -> _Place:
    if target.path is None:
        here = os.getcwd()
        roots = tuple(dict.fromkeys((here, str(_project_root(Path(here))))))
        return _Place(None, str(target.module), roots, roots)
    if not target.path.exists():
        raise missing_path(target.path)
    if target.path.is_dir():
        raise TargetError(f"{target.path} is a folder: name a file and an attribute, {target.path}/model.py:build")
    if not target.path.is_file():
        raise TargetError(f"{target.path} is a pipe or a device: write its text to a file and name that")
    file = Path(os.path.abspath(target.path))
    folder, root = str(file.parent), str(_project_root(file.parent))
    base, parts = file.parent, [] if file.name == "__init__.py" else [file.stem]
    while (base / "__init__.py").is_file() and base.name.isidentifier():
        parts.insert(0, base.name)
        base = base.parent
    roots = tuple(dict.fromkeys((folder, root, str(base))))
    taken = _is_library_name(parts[0], str(base))
    if len(parts) > 1 and not taken:
        # The folder of a file in a package goes last: relative imports reach its modules, and one may be called
        # logging.py or datasets.py.
        front = tuple(dict.fromkeys((str(base), root)))
        return _Place(file, ".".join(parts), roots, front, () if folder in front else (folder,))
    stem = file.stem.replace(".", "_")
    clash = _is_library_name(stem, folder)
    name = f"__gradlint_{stem}__" if clash or (taken and len(parts) > 1) else stem
    return _Place(file, name, roots, tuple(dict.fromkeys((folder, root))), (), frozenset({stem} if clash else ()))


def _project_root(folder: Path) -> Path:
    for place in (folder, *folder.parents):
        if any((place / marker).exists() for marker in _MARKERS):
            return place
    return Path.cwd()


def _is_library_name(name: str, base: str) -> bool:
    """Return True if `name` is a standard-library module or a package installed elsewhere."""
    if name in sys.stdlib_module_names or name in sys.builtin_module_names or name == "gradlint":
        return True
    module = sys.modules.get(name)
    if module is not None:
        return any(is_library_file(f) for f in _files(module)) and not _under(module, (base,))
    spec = importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if is_library_file(p + os.sep)])
    return spec is not None and spec.origin is not None and not spec.origin.startswith(base + os.sep)


class _Guard:
    """A meta path finder that looks up some names as if the user's folders did not exist."""

    def __init__(self, names: frozenset[str], hidden: tuple[str, ...]) -> None:
        self.names = names
        self.hidden = hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if path is not None or name not in self.names:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if p not in self.hidden and p])


class _Sandbox:
    """The state of the import system and of the process around a target's module."""

    def __init__(self, place: _Place, argv: Sequence[str]) -> None:
        self._place = place
        self._arguments = argv
        self._path, self._argv, self._meta = list(sys.path), list(sys.argv), list(sys.meta_path)
        self._cwd, self._bytecode, self._modules = os.getcwd(), sys.dont_write_bytecode, dict(sys.modules)
        parent, _, self._leaf = place.name.rpartition(".")
        self._package = self._modules.get(parent)
        self._member = vars(self._package).get(self._leaf) if self._package is not None else None

    def __enter__(self) -> None:
        place = self._place
        # All are listed before the first is removed: a namespace package asks for its parent when asked for its path.
        hidden = _top_names(place.front)
        modules = self._modules.items()
        for name in [n for n, module in modules if n.partition(".")[0] in hidden and _foreign(n, module, place)]:
            del sys.modules[name]
        sys.path[:] = [*place.front, *(p for p in self._path if p not in place.front), *(p for p in place.back)]
        sys.argv[:] = [str(place.file) if place.file else place.name, *self._arguments]
        sys.meta_path.insert(0, _Guard(place.guarded, place.front + place.back))
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        linecache.checkcache()

    def __exit__(self, *exception: object) -> None:
        place = self._place
        sys.path[:], sys.argv[:], sys.dont_write_bytecode = self._path, self._argv, self._bytecode
        sys.meta_path[:] = self._meta
        added = [(name, now) for name, now in list(sys.modules.items()) if now is not self._modules.get(name)]
        for name in [name for name, now in added if name == place.name or _under(now, place.roots)]:
            if name.partition(".")[0] != "gradlint":
                del sys.modules[name]
        for name, module in self._modules.items():
            sys.modules.setdefault(name, module)
        if self._package is not None and self._member is not None:
            setattr(self._package, self._leaf, self._member)
        with contextlib.suppress(OSError):
            os.chdir(self._cwd)


def _foreign(name: str, module: ModuleType, place: _Place) -> bool:
    """Return True if a module imported earlier, no library, hides one of the project."""
    if name == "__main__" or name.split(".")[0] == "gradlint":
        return False
    files = _files(module)
    return bool(files) and not any(is_library_file(f) for f in files) and not _under(module, place.roots)


def _top_names(folders: Iterable[str]) -> set[str]:
    """Return the names of the modules and packages in folders."""
    names: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            names |= {e.name.removesuffix(".py") for e in entries if e.name.endswith(".py") or e.is_dir()}
    return names


def _files(module: Any) -> list[str]:
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return [file]
    try:
        return [str(p) + os.sep for p in getattr(module, "__path__", ())]
    except Exception:  # a lazy module of user code may raise anything here
        return []


def _under(module: Any, roots: tuple[str, ...]) -> bool:
    return any(
        f.startswith(tuple(r.rstrip(os.sep) + os.sep for r in roots)) and not is_library_file(f)
        for f in _files(module)
        if f.endswith((".py", os.sep))
    )


def _execute(target: Target, place: _Place) -> ModuleType:
    where = target.file_label
    try:
        if place.file is None:
            return _import_by_name(place)
        parent, _, leaf = place.name.rpartition(".")
        package = importlib.import_module(parent) if parent else None
        if is_notebook(place.file.name):
            return _run_notebook(target, place, str(place.file))
        is_package = place.file.name == "__init__.py"
        spec = importlib.util.spec_from_file_location(
            place.name, place.file, submodule_search_locations=[str(place.file.parent)] if is_package else None
        )
        if spec is None or spec.loader is None:
            raise TargetError(f"{where} is not a Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[place.name] = module
        spec.loader.exec_module(module)
        module = sys.modules.get(place.name, module)
        if package is not None:
            setattr(package, leaf, module)
        return module
    except GradlintError:
        raise
    except SyntaxError as error:
        file = where if error.filename in (None, str(place.file)) else error.filename
        raise TargetError(
            f"{file} has a syntax error at line {error.lineno}: {error.msg}", user_traceback(error)
        ) from error
    except ModuleNotFoundError as error:
        own = place.file is None and _names_target(target, error)
        raise TargetError(_not_found(where, target, place, error), "" if own else user_traceback(error)) from error
    except SystemExit as error:
        problem = user_error(f"importing {where}", error)
        advice = (
            'put the script part under `if __name__ == "__main__":`, give its arguments with --argv "...", or use '
            "`gradlint run`"
        )
        raise TargetError(f"{problem}: {advice}", problem.traceback) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise user_error(f"importing {where}", error) from error


def _run_notebook(target: Target, place: _Place, file: str) -> ModuleType:
    """Run the cells of a notebook up to the one with the target's attribute, as a module."""
    code = code_of(file, target.file_label, target.attribute or "")
    module = sys.modules[place.name] = ModuleType(place.name)
    module.__file__ = file
    execute(code, vars(module))
    return module


def _import_by_name(place: _Place) -> ModuleType:
    spec = importlib.util.find_spec(place.name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {place.name!r}", name=place.name)
    if spec.origin and not is_library_file(spec.origin) and place.name.split(".")[0] != "gradlint":
        sys.modules.pop(place.name, None)
        sys.argv[:1] = [spec.origin]
    return importlib.import_module(place.name)


def _names_target(target: Target, error: ModuleNotFoundError) -> bool:
    """Return True if the missing module is the target itself or a package above it."""
    missing = error.name or "?"
    return target.module is not None and f"{target.module}.".startswith(f"{missing}.")


def _not_found(where: str, target: Target, place: _Place, error: ModuleNotFoundError) -> str:
    missing = error.name or "?"
    near = _near_module(missing, place)
    if _names_target(target, error):
        return f"there is no module {missing!r}: " + (f"did you mean {near}?" if near else "write file.py:build")
    hint = f"did you mean {near}?" if near else "install it, or run gradlint where the model trains"
    return f"{where} imports {missing!r}, which is not installed here: {hint}"


def _near_module(missing: str, place: _Place) -> str | None:
    head, _, last = missing.rpartition(".")
    names: set[str] = set()
    for root in place.front + place.back:
        folder = Path(root, *head.split(".")) if head else Path(root)
        if folder.is_dir():
            names |= {p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    near = difflib.get_close_matches(last, names - {last}, n=1, cutoff=0.75)
    return f"{head}.{near[0]}" if near and head else near[0] if near else None


def _attribute(target: Target, module: ModuleType) -> Any:
    value: Any = module
    owner: Any = None
    done = target.file_label
    names = str(target.attribute).split(".")
    for name in names:
        owner = value
        try:
            value = getattr(owner, name)
        except AttributeError as error:
            raise TargetError(_no_attribute(done, name, owner, owner is module)) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise user_error(f"reading {name} of {done}", error) from error
        done = f"{done}:{name}" if owner is module else f"{done}.{name}"
    if isinstance(owner, type) and inspect.isfunction(value) and inspect.isfunction(_static(owner, names[-1])):
        return InstanceMethod(owner, names[-1])
    return value


def _static(owner: type, name: str) -> Any:
    return inspect.getattr_static(owner, name, None)


def _no_attribute(where: str, name: str, owner: Any, top: bool) -> str:
    public = [n for n in vars(owner) if not n.startswith("_")] if hasattr(owner, "__dict__") else []
    near = difflib.get_close_matches(name, public, n=1)
    text = f"{where} has no attribute {name!r}"
    text += f": did you mean {near[0]!r}?" if near else ": name the function that builds the model."
    builders = [n for n in public if _looks_like_builder(getattr(owner, n, None), owner)] if top else []
    return f"{text} It has: {', '.join(builders[:8])}" if builders else text


def _looks_like_builder(value: Any, module: Any) -> bool:
    import torch

    if isinstance(value, (torch.nn.Module, Setup)):
        return True
    if isinstance(value, type):
        return issubclass(value, torch.nn.Module) and value.__module__ == module.__name__
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    return all(p.default is not p.empty for p in inspect.signature(value).parameters.values())


def _dotted(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))
