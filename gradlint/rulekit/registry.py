"""The rules that are known: the built-in folder, installed rule packs and folders named by the user.

There is no list of rules: each folder is read, one rule per file. A file that is no proper rule stops the start.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from gradlint.errors import GradlintError
from gradlint.findings import Severity
from gradlint.rulekit.fence import Fence
from gradlint.rulekit.precedence import in_order
from gradlint.rulekit.rule import Rule
from gradlint.system import reading

MODULE_PREFIX = "_gradlint_rules_"
"""What the names of modules begin with that are rules from folders."""
ENTRY_POINTS = "gradlint.rules"
"""The entry-point group in which installed packages name a module that is a rule, or a package that holds rules."""
HEADINGS = ("What it does", "Why it is bad", "Example", "Use instead", "Known limits", "References")
"""The headings that the docstring of every rule has."""
_HEADINGS = {heading.lower(): heading for heading in HEADINGS}
_LONGEST_HEADING = 40
"""Characters of a heading with its markup; most lines are longer and need no look-up."""
_OPEN = Fence()


@dataclass(frozen=True)
class OwnCode:
    """A code that gradlint gives by itself, without a rule."""

    code: str
    name: str
    severity: Severity
    doc: str


OWN_CODES = (
    OwnCode(
        "GL001",
        "unused-suppression",
        Severity.WARNING,
        "A suppression that suppresses nothing.\n\n"
        "What it does\n\nFinds codes in `# gradlint: ignore[...]`, `# gradlint: ignore-file[...]` and `# noqa: ...` "
        "that suppress no finding or that no rule has. Codes of rules that need a recording are reported only by a "
        "check of a training setup, on lines that it ran. The fix removes the code.\n",
    ),
    OwnCode(
        "GL002",
        "syntax-error",
        Severity.ERROR,
        "A file that Python cannot parse.\n\n"
        "What it does\n\nReports files with a syntax error or a wrong encoding among those that the source rules read. "
        "The other files are checked.\n",
    ),
    OwnCode(
        "GL003",
        "partial-recording",
        Severity.WARNING,
        "A part of the training setup could not be recorded: scripted modules, other threads, custom C++ operators.\n\n"
        "What it does\n\nNames the part that is unknown. It is a note, and a finding with --strict.\n",
    ),
    OwnCode(
        "GL704",
        "lock-drift",
        Severity.ERROR,
        "What trains is not what the lock says.\n\n"
        "What it does\n\n`gradlint lock --check` compares each target with gradlint.lock, and says in words what "
        "changed: what stopped or started training and at which line, what is new or gone, other shapes, optimizers, "
        "learning rates, modes of norm layers.\n\n"
        "Use instead\n\nUndo the change; or, if it is meant, run `gradlint lock` and commit the file, so that the "
        "change is seen in review.\n",
    ),
)
"""Codes that can be selected and explained, without a rule file."""


Entry = type[Rule] | OwnCode
"""Anything with a code, a name, a severity and documentation."""


@dataclass(frozen=True, eq=False)
class Registry:
    """The rules that one start of gradlint knows, ordered by code."""

    rules: tuple[type[Rule], ...]
    origins: dict[type[Rule], Path] = field(default_factory=dict)
    """The file that each rule came from."""
    refused: tuple[str, ...] = ()
    """Installed packs that the fence keeps out, each with its place."""

    @property
    def entries(self) -> list[Entry]:
        """The rules and gradlint's own codes, ordered by code."""
        entries: list[Entry] = [*OWN_CODES, *self.rules]
        return sorted(entries, key=lambda entry: entry.code)


_loading = threading.RLock()
"""Held while rules are loaded, which several threads may ask for at once."""
_loaded: set[str] = set()
"""The names of the modules that were loaded to their end: an interrupted one is loaded again."""


def load(folders: Sequence[str | Path] = (), *, packs: bool = True, fence: Fence = _OPEN) -> Registry:
    """Load the built-in rules, those of installed packs and those in `folders`.

    A file is loaded once per process: loading again gives the same classes.

    Args:
        folders: those that the user allows.
        packs: whether installed packs are loaded.
        fence: keeps out packs in folders that are only read.

    Raises:
        GradlintError: a folder is missing or empty, a rule is malformed or two have the same code or name; the message
            names file and line.
    """
    origins: dict[type[Rule], Path] = {}
    refused: list[str] = []
    with _loading:
        for rule, path in _all_rules(folders, packs, fence, refused):
            if rule not in origins:
                _check_unique(rule, path, origins)
                origins[rule] = path
    _check_precedence(origins)
    return Registry(tuple(sorted(origins, key=lambda rule: rule.code)), origins, tuple(refused))


def builtin_folder() -> Path:
    """Return the folder of the built-in rules, in the installed package or in a checkout.

    Raises:
        GradlintError: they are in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    installed, checkout = package / "rules", package.parent / "rules"
    if installed.is_dir():
        return installed
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise GradlintError(f"gradlint's own rules are missing: neither {installed} nor {checkout} is there; reinstall it")


def _all_rules(
    folders: Sequence[str | Path], packs: bool, fence: Fence, refused: list[str]
) -> Iterator[tuple[type[Rule], Path]]:
    builtin = list(_folder_rules(builtin_folder()))
    if not builtin:
        raise GradlintError(f"gradlint's own rules are missing: {builtin_folder()} holds none; reinstall it")
    yield from builtin
    if packs:
        yield from _pack_rules(fence, refused)
    for folder in folders:
        path = Path(folder).resolve()
        if not path.is_dir():
            raise GradlintError(f"--rules-dir {folder}: there is no such folder")
        pairs = list(_folder_rules(path))
        if not pairs:
            raise GradlintError(f"--rules-dir {folder}: it holds no rule files (*.py)")
        yield from pairs


def _rule_files(folder: Path) -> list[Path]:
    """Return the rule files of a folder, without helpers, which begin with an underscore."""
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))


def _folder_rules(folder: Path) -> Iterator[tuple[type[Rule], Path]]:
    for path in _rule_files(folder):
        # The folder is part of the module's name, so that equal stems in two folders do not meet in sys.modules.
        digest = hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()[:8]
        yield _rule_of(_load_file(path, f"{MODULE_PREFIX}{digest}_{path.stem}"), path), path


def _load_file(path: Path, name: str) -> ModuleType:
    if name in _loaded and name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise GradlintError(f"{path}: cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise GradlintError(_import_failure(error, path)) from error
    _loaded.add(name)
    return module


def _pack_rules(fence: Fence, refused: list[str]) -> Iterator[tuple[type[Rule], Path]]:
    from importlib.metadata import entry_points  # slow to import, and not needed by every command

    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        what = f"rule pack {entry.name} ({entry.value})"
        places = [] if entry.dist is None else [str(entry.dist.locate_file(""))]
        for name in itertools.accumulate(entry.module.split("."), "{}.{}".format):  # looking for a.b runs a
            places += _places_of(name)
            outside = next((place for place in places if not fence.admits(place)), None)
            if outside is not None:
                refused.append(f"{what} in {outside}")
                break
            module = _import_pack(name, what)
        else:
            yield from _rules_of_pack(module, entry.module, fence, refused)


def _places_of(name: str) -> list[str]:
    """Return the files and folders that a module would be loaded from."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []  # the import says what is wrong
    if spec is None:
        return []
    return [*([spec.origin] if spec.has_location and spec.origin else []), *(spec.submodule_search_locations or [])]


def _rules_of_pack(
    module: ModuleType, name: str, fence: Fence, refused: list[str]
) -> Iterator[tuple[type[Rule], Path]]:
    if not hasattr(module, "__path__"):
        path = Path(module.__file__ or name)
        yield _rule_of(module, path), path
        return
    for folder in module.__path__:
        for path in _rule_files(Path(folder)):
            if fence.admits(path):
                yield _rule_of(_import_pack(f"{name}.{path.stem}", str(path)), path), path
            else:
                refused.append(f"rule {name}.{path.stem} in {path}")


def _import_pack(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise GradlintError(_import_failure(error, Path(what))) from error


def _import_failure(error: Exception, path: Path) -> str:
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            line = frame.lineno
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{path}:{line or 1}: this rule cannot be loaded: {type(error).__name__}: {text}"


@functools.cache
def _rule_of(module: ModuleType, path: Path) -> type[Rule]:
    """Return the one rule that a file defines, checked."""
    rules = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Rule)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if len(rules) != 1:
        line = _line(path, rules[1].__name__) if rules else 1
        raise GradlintError(f"{path}:{line}: a rule file defines exactly one subclass of Rule, this one {len(rules)}")
    rule = rules[0]
    for attribute, problem in _problems(rule, path):
        raise GradlintError(f"{path}:{_line(path, rule.__name__, attribute)}: {rule.__name__}: {problem}")
    return rule


def _problems(rule: type[Rule], path: Path) -> Iterable[tuple[str, str]]:
    """Yield (attribute, problem) for each problem that keeps a class from being a rule."""
    code, name = getattr(rule, "code", None), getattr(rule, "name", None)
    severity, doc = getattr(rule, "severity", None), rule.__dict__.get("__doc__")
    if not isinstance(code, str) or not re.fullmatch(r"[A-Z]{2,}\d{3}", code):
        yield "code", f"its code {code!r} is not capital letters and three digits, as in 'GL401'"
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        yield "name", f"its name {name!r} is not kebab-case, as in 'detached-upstream'"
    elif path.stem != name.replace("-", "_"):
        yield "name", f"the file of the rule {name!r} must be called {name.replace('-', '_')}.py"
    if not isinstance(severity, Severity):
        yield "severity", f"its severity {severity!r} is not a gradlint.Severity"
    if not rule.judges_recordings() and not rule.judges_source():
        yield "check", "it has no check() and no check_source() of its own"
    try:
        re.compile(rule.suppressible_on)
    except (re.error, TypeError) as error:
        yield "suppressible_on", f"its suppressible_on is no regular expression: {error}"
    codes: object = rule.yields_to
    if not isinstance(codes, frozenset):
        yield "yields_to", f"its yields_to {codes!r} is no frozenset of codes"
    texts = rule.source_prefilter
    if not isinstance(texts, tuple) or not all(isinstance(t, str) and all(t.split("|")) for t in texts):
        yield "source_prefilter", f"its source_prefilter {texts!r} is no tuple of texts"
    elif rule.judges_source() and not texts:
        yield "check_source", "it has a check_source() and no source_prefilter, the text that its files contain"
    if not any(name.startswith("MESSAGE") and isinstance(text, str) for name, text in vars(rule).items()):
        yield "", "it has no MESSAGE, the template of what it reports"
    found = {heading_of(line) for line in (doc or "").splitlines()}
    missing = [heading for heading in HEADINGS if heading not in found]
    if missing:
        yield "", f"its docstring lacks the heading {', '.join(map(repr, missing))}"


def heading_of(line: str) -> str | None:
    """Return the heading that a docstring line is, without its markup; None if it is none."""
    text = line.strip()
    if len(text) > _LONGEST_HEADING:
        return None
    text = text.lstrip("#").strip().removesuffix("::").removesuffix(":").strip("*").strip()
    return _HEADINGS.get(text.lower())


def _check_unique(rule: type[Rule], path: Path, origins: dict[type[Rule], Path]) -> None:
    for own in OWN_CODES:
        if rule.code == own.code or rule.name == own.name:
            raise GradlintError(f"{path}:{_line(path, rule.__name__, 'code')}: {own.code} {own.name} is gradlint's own")
    for other, origin in origins.items():
        for attribute in ("code", "name"):
            value = getattr(rule, attribute)
            if value == getattr(other, attribute):
                place = f"{path}:{_line(path, rule.__name__, attribute)}"
                raise GradlintError(f"{place}: the {attribute} {value} is taken by {origin}")


def _check_precedence(origins: dict[type[Rule], Path]) -> None:
    codes = {rule.code: rule for rule in origins}
    for rule, path in origins.items():
        if unknown := sorted(rule.yields_to - codes.keys()):
            place = f"{path}:{_line(path, rule.__name__, 'yields_to')}"
            raise GradlintError(f"{place}: {rule.__name__}: no rule has the code {unknown[0]} that it yields to")
    try:
        in_order(list(origins))
    except graphlib.CycleError as error:
        circle = error.args[1]
        rule = codes[circle[0]]
        place = f"{origins[rule]}:{_line(origins[rule], rule.__name__, 'yields_to')}"
        raise GradlintError(f"{place}: rules yield to each other in a circle: {' → '.join(circle)}") from None


def _line(path: Path, class_name: str, attribute: str = "") -> int:
    """Return the line of an attribute of a class, or of the class if it has no such attribute."""
    try:
        tree = ast.parse(reading.read(path))
    except (OSError, SyntaxError, ValueError):
        return 1
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for statement in node.body:
                if attribute and attribute in _defined(statement):
                    return statement.lineno
            return node.lineno
    return 1


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement of a class body defines."""
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return [getattr(statement, "name", ""), getattr(getattr(statement, "target", None), "id", "")]
