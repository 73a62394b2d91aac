"""The pytest plugin: the fixture and marker `gradlint`, and ``pytest --gradlint``.

Importing it imports no torch, and nothing of gradlint is loaded until a test uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradlint.config.settings import Settings
    from gradlint.testing.assertions import Assertions

MARKER = (
    "gradlint(target, ..., select=(), ignore=(), trains=(), frozen=(), inputs=()): "
    "check these targets before the test; it fails if they are not clean."
)
_MARKER_OPTIONS = ("select", "ignore", "extend_select", "trains", "frozen", "inputs", "strict")
_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--gradlint``."""
    parser.getgroup("gradlint").addoption(
        "--gradlint", action="store_true", help="also check the targets that are configured for gradlint, one test each"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; with ``--gradlint``, have the configuration file collected."""
    config.addinivalue_line("markers", MARKER)
    if not config.getoption("gradlint", default=False):
        return
    from gradlint.config.settings import Configuration
    from gradlint.errors import GradlintError

    try:
        settings = Configuration().near(config.rootpath)
    except GradlintError as error:
        raise pytest.UsageError(str(error)) from None
    if settings.path is None or not settings.targets:
        where = f"in {settings.path}" if settings.path else f"at or above {config.rootpath}"
        raise pytest.UsageError(
            f"--gradlint: no targets are configured {where}; name them in [tool.gradlint.targets] of pyproject.toml"
        )
    config.stash[_SETTINGS] = settings
    here = Path(str(config.invocation_params.dir))
    if not any(_same_file(here / argument.split("::")[0], settings.path) for argument in config.args):
        config.args.append(str(settings.path))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the configured targets from the configuration file."""
    settings = parent.config.stash.get(_SETTINGS, None)
    if settings is None or settings.path is None or not _same_file(file_path, settings.path):
        return None
    return ConfigurationFile.from_parent(parent, path=file_path)


class ConfigurationFile(pytest.File):
    """A configuration file; its tests are the targets that it names."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one test for each target."""
        for target in self.config.stash[_SETTINGS].targets:
            yield TargetItem.from_parent(self, name=target)


class TargetItem(pytest.Item):
    """The check of one configured target."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_marker("gradlint")

    def runtest(self) -> None:
        """Check the target.

        Raises:
            NotCleanError: it has findings that count, or could not be checked.
        """
        from gradlint.engine.check import check_target
        from gradlint.engine.options import Options
        from gradlint.rulekit import registry, selection
        from gradlint.testing.assertions import lenient_warnings, text_of
        from gradlint.triage import filters

        settings = self.config.stash[_SETTINGS]
        rules = registry.load(settings.rule_folders())  # pytest runs the project's own code anyway
        chosen = selection.select(rules, settings.select, settings.ignore, settings.extend_select)
        target = _absolute(self.name, settings.root)
        with lenient_warnings():
            report = check_target(target, chosen.rules, Options().configured(settings, target), self.name)
        report = filters.of_one(report, filters.Plan(settings, rules, chosen), show_info=settings.show_info)
        worst = report.worst()
        if report.errors or (worst is not None and worst >= settings.fail_on):
            raise NotCleanError(text_of(report, self.name))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the report, without a traceback of gradlint."""
        if isinstance(excinfo.value, NotCleanError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Return the file of the target and the heading of its failure."""
        return self.path, 0, f"gradlint {self.name}"


class NotCleanError(Exception):
    """A target is not clean; the text is its report."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Check the targets that the markers of a test name, before its body runs."""
    marks = list(pyfuncitem.iter_markers("gradlint"))
    if not marks:
        return
    from gradlint.errors import GradlintError
    from gradlint.testing.assertions import text_of

    for mark in reversed(marks):
        unknown = sorted(set(mark.kwargs) - set(_MARKER_OPTIONS))
        if unknown or not mark.args:
            problem = f"takes no {', '.join(unknown)}" if unknown else "names no target"
            pytest.fail(f"the marker gradlint {problem}; write @pytest.mark.gradlint('model.py:build')", pytrace=False)
        for target in mark.args:
            try:
                report = _assertions(pyfuncitem.config, pyfuncitem.path.parent).check(target, **mark.kwargs)
            except GradlintError as error:
                pytest.fail(f"@pytest.mark.gradlint({target!r}): {error}", pytrace=False)
            if not report.clean:
                pytest.fail(text_of(report, target), pytrace=False)


@pytest.fixture(scope="session")
def gradlint(pytestconfig: pytest.Config) -> Assertions:
    """Return the assertions about gradient: check, assert_clean, assert_trains and others."""
    return _assertions(pytestconfig)


def _assertions(config: pytest.Config, *folders: Path) -> Assertions:
    from gradlint.testing.assertions import Assertions

    return Assertions([config.rootpath, *folders])


def _absolute(target: str, root: Path) -> str:
    """Return a configured target so that it is found from any folder."""
    from gradlint.load.target import parse_target

    path = parse_target(target).path
    return target if path is None or path.is_absolute() else str(root / target)


def _same_file(one: Path, other: Path) -> bool:
    return os.path.normcase(os.path.abspath(one)) == os.path.normcase(os.path.abspath(other))
