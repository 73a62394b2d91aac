"""One call of ``gradlint check``: the files and targets that its options mean, and the findings in them."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradlint.cli.exits import Interrupted
from gradlint.cli.one_target import Targets
from gradlint.cli.options import CheckOptions, names_file
from gradlint.cli.plans import Plans
from gradlint.cli.revision import texts_at
from gradlint.cli.streams import progress
from gradlint.config.discover import SourceFile, discover, excluded
from gradlint.config.settings import Configuration, Settings
from gradlint.engine.source_cache import digest, is_usable
from gradlint.engine.source_of_recording import without_recorded
from gradlint.engine.source_pass import RuleSet, check_files
from gradlint.errors import UsageError
from gradlint.findings import Failure, Finding, Note, Report, SourceSummary
from gradlint.report.view import shown_path
from gradlint.rulekit.registry import Entry
from gradlint.source import overlay
from gradlint.system import reading, writing
from gradlint.triage.baseline import Baseline
from gradlint.triage.filters import Plan, Scope, filtered, shown, without_known

STDIN = "-"


@dataclass
class CheckResult:
    """The findings of a call before configuration, comments and baseline remove some."""

    report: Report
    sources: list[SourceFile] = field(default_factory=list)
    scopes: dict[str, Scope] = field(default_factory=dict)
    stdin: str = ""
    """The path that stdin goes by; empty where it was not read."""
    judged: dict[str, str] = field(default_factory=dict)
    """Digests of the contents that the source rules judged, by path."""
    began: float = field(default_factory=time.time)
    """The time before anything was read."""

    def has_changed(self, path: str, data: bytes) -> bool:
        """Return True if a file has been changed since it was judged; `data` is its content now.

        What a recording has read is not kept: there the time of the last change says it.

        Raises:
            OSError: the file is gone.
        """
        if path in self.judged:
            return digest(data) != self.judged[path]
        return self.began <= os.stat(path).st_mtime <= time.time()


class Checker:
    """Checks the files and targets that the options of a call mean."""

    def __init__(self, options: CheckOptions) -> None:
        """Read the configuration and sort the arguments into files and targets.

        Raises:
            UsageError: an option or a configuration file is wrong.
        """
        self.options = options
        self.before: Baseline | None = None
        """The findings at an earlier revision; None where none is asked for, or before it is known."""
        self.configuration = Configuration(options.config, isolated=options.isolated, override=self._overridden)
        self.sources = [text for text in options.targets if _is_source(text)]
        self.targets = [text for text in options.targets if not _is_source(text)]
        self.settings = self._settings()
        configured = [] if options.targets else list(self.settings.configured_targets())
        if not options.targets and not configured:
            self.sources = ["."]
        self.engine_options = options.engine_options()
        if (options.args or options.argv is not None) and not (self.targets or configured):
            raise UsageError("--arg and --argv are for targets, as in model.py:build, and none is named")
        self.plans = Plans(options, self._read_paths())
        self.targets += configured
        self.plan(self.settings)  # what is wrong with the options is said before anything is run

    def draw_maps(self) -> None:
        """Let the report include the map of each target."""
        self.options = self.options._replace(flow_map=True)
        self.engine_options = self.options.engine_options()

    def _settings(self) -> Settings:
        """Return the settings of the call: of the working directory, else of its first target."""
        here = self.configuration.near(Path.cwd())
        if here.path is not None:
            return here
        for text in self.options.targets:
            reads = _is_source(text) and text != STDIN
            settings = self.configuration.near(text) if reads else self._of_target(text)
            if settings.path is not None:
                return settings
        return here

    def _read_paths(self) -> list[str]:
        """Return the files and folders that are named, those of targets too."""
        named = [*self.sources, *(text.rpartition(":")[0] for text in self.targets), self.options.stdin_filename or ""]
        return [text for text in named if text and text != STDIN]

    def _of_target(self, text: str) -> Settings:
        return self.configuration.of_target(text)

    def _overridden(self, settings: Settings) -> Settings:
        """Return settings as the options change them.

        --select replaces all selection of the file.
        """
        options = self.options
        if options.select:
            settings = replace(
                settings, select=options.select, ignore=options.ignore, extend_select=options.extend_select
            )
        else:
            settings = replace(
                settings,
                ignore=(*settings.ignore, *options.ignore),
                extend_select=(*settings.extend_select, *options.extend_select),
            )
        return replace(
            settings,
            strict=settings.strict or options.strict,
            force_exclude=settings.force_exclude or options.force_exclude,
            extend_exclude=(*settings.extend_exclude, *options.extend_exclude),
        )

    def plan(self, settings: Settings) -> Plan:
        """Return the plan for the files and targets that have these settings."""
        return self.plans.of(settings)

    def entries(self) -> list[Entry]:
        """Return the rules and own codes of gradlint that this call knows."""
        return self.plan(self.settings).registry.entries

    def check(self) -> CheckResult:
        """Check all files and targets.

        Raises:
            UsageError: a configuration file is wrong.
            Interrupted: on Ctrl-C.
        """
        result = self.check_sources()
        if self.options.since:
            self.before = self._before(self.options.since, result.sources)
        grouped = self._grouped()
        every = [target for _, targets in grouped for target in targets]
        with Targets(every, self._check_target, "checking", self.options.limits) as outcomes:
            for settings, targets in grouped:
                report = Report()
                try:
                    for _, part in outcomes.of(targets, report):
                        report.extend(part)
                except Interrupted:
                    result.report.extend(report)
                    raise Interrupted(self.reported(result)) from None
                self.add(result, report, settings)
        return result

    def _check_target(self, target: str) -> Report:
        from gradlint.engine.check import check_target  # imports torch once it is called

        settings = self._of_target(target)
        options = self.engine_options.configured(settings, target)
        return check_target(target, self.plan(settings).selection.rules, options)

    def add(self, result: CheckResult, report: Report, settings: Settings) -> None:
        """Add the report on a recording."""
        plan = self.plan(settings)
        for path, spans in report.ran.items():
            scope = result.scopes.setdefault(path, Scope(plan))
            if self._covers(settings):
                scope.ran += spans
                scope.recorded |= plan.selection.codes - {s.code for s in report.skipped}
        result.report.findings = without_recorded(result.report.findings, report.findings, plan.registry.rules)
        result.report.extend(report)

    def _grouped(self) -> list[tuple[Settings, list[str]]]:
        groups: dict[int, tuple[Settings, list[str]]] = {}
        for target in dict.fromkeys(self.targets):
            settings = self._of_target(target)
            groups.setdefault(id(settings), (settings, []))[1].append(target)
        return list(groups.values())

    def _covers(self, settings: Settings) -> bool:
        """Return True if all configured targets are checked.

        Else a comment may be meant for another one.
        """
        here = {os.path.abspath(t) for t in self.targets}
        return {os.path.abspath(t) for t in settings.configured_targets()} <= here

    def check_sources(self) -> CheckResult:
        """Check the named files with the source rules.

        Raises:
            UsageError: stdin is named and closed.
        """
        result = CheckResult(Report())
        if not self.sources:
            return result
        started = time.perf_counter()
        listed: list[SourceFile] = []
        named = [text for text in dict.fromkeys(self.sources) if text != STDIN]
        if STDIN in self.sources:
            listed += self._stdin(result)
        for text in named:
            if not os.path.lexists(text):
                result.report.errors.append(Failure(text, "there is no such file or folder"))
        for file in discover([text for text in named if os.path.lexists(text)], self.configuration):
            problem = _taken_in(file.path) if file.named else ""
            if problem:
                result.report.errors.append(Failure(shown_path(file.path, Path.cwd()), problem))
            else:
                listed.append(file)
        result.sources = listed
        with progress("gradlint: reading source files"):
            self.judge_sources(result, listed)
        seconds = time.perf_counter() - started
        if result.report.sources is not None:
            result.report.sources = replace(result.report.sources, seconds=round(seconds, 3))
        return result

    def _stdin(self, result: CheckResult) -> list[SourceFile]:
        name = self.options.stdin_filename
        path = os.path.abspath(name) if name else "<stdin>"
        result.stdin = path
        if sys.stdin is None:
            raise UsageError("stdin is closed, and - is to read it")
        data = sys.stdin.buffer.read()
        overlay.stand_in(path, data)
        settings = self.configuration.near(path if name else Path.cwd())
        if name and settings.force_exclude and excluded(settings, path, below=True):
            return []
        return [SourceFile(path, settings, named=True)]

    def _before(self, revision: str, listed: Sequence[SourceFile]) -> Baseline:
        """Return the findings in files as they were at a revision, after its own comments.

        Raises:
            UsageError: git has no such revision.
        """
        texts = texts_at(revision, [file.path for file in listed])
        old = CheckResult(Report())
        with overlay.in_place_of(texts):
            self.judge_sources(old, [file for file in listed if file.path in texts])
            return Baseline.made_of(self.reported(old, show_info=True).findings, Path.cwd() / revision)

    def judge_sources(self, result: CheckResult, listed: Sequence[SourceFile]) -> None:
        """Add the findings of the source rules in files to a result."""
        by_path = {file.path: file for file in listed}
        cache_folder = self.cache_folder()
        if cache_folder is not None and not is_usable(cache_folder):
            if cache_folder.is_dir():
                note = f"nothing is cached: {cache_folder} holds other files; name a new or empty folder"
                result.report.notes.append(Note("", note))
            cache_folder = None
        outcome = check_files(
            listed,
            lambda file: RuleSet(
                tuple(r for r in self.plan(file.settings).selection.rules if r.judges_source()),
                self.plans.folders(file.settings),
                self.plans.fence,
            ),
            cache_folder=cache_folder,
            target_of=lambda path: shown_path(path, Path.cwd()),
        )
        for file in outcome.results:
            result.report.findings += file.findings
            result.judged[file.path] = file.digest
            scope = result.scopes.setdefault(file.path, Scope(self.plan(by_path[file.path].settings)))
            scope.source = True
        result.report.errors += outcome.failures
        result.report.sources = SourceSummary(outcome.files, outcome.parsed, outcome.cached)

    def cache_folder(self) -> Path | None:
        """Return the folder of the cache; None without a cache.

        Raises:
            UsageError: the configured one lies outside of the configuration's own folder.
        """
        if self.options.no_cache or os.environ.get("GRADLINT_NO_CACHE"):
            return None
        return self.options.cache_folder(self.settings)

    def reported(self, result: CheckResult, *, show_info: bool = False) -> Report:
        """Return the report without findings that configuration, comments or baseline remove."""
        plans = {path: scope.plan for path, scope in result.scopes.items() if scope.source}
        by_target = {t: self.plan(self._of_target(t)) for t in self.targets}

        def plan_of(finding: Finding) -> Plan:
            if finding.target in by_target:
                return by_target[finding.target]
            path = finding.location.path if finding.location is not None else ""
            return plans.get(path) or self.plan(self.settings)

        report = filtered(result.report, plan_of, result.scopes)
        every = [plan.selection for plan in (*plans.values(), *by_target.values(), self.plan(self.settings))]
        report = shown(report, every, show_info=show_info)
        report = replace(report, notes=[*report.notes, *(n for n in self.plans.notes() if n not in report.notes)])
        baseline = self.options.baseline
        report = without_known(report, Path(baseline) if baseline else self.settings.baseline_file())
        if self.before is None:
            return report
        fresh, known, _ = self.before.new(report.findings)
        return replace(report, findings=fresh, earlier=known)


def _taken_in(path: str) -> str:
    """Read a named file that can be read only once, and return what is wrong with it."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not os.path.samefile(path, os.devnull)):
            return "this is a device"
        if writing.is_special(path):
            overlay.stand_in(path, reading.read(path))
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return ""


def _is_source(text: str) -> bool:
    """Return True if an argument names files to read rather than a target to run."""
    return text == STDIN or names_file(text, ".py", ".pyi", ".ipynb")
