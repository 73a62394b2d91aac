"""One call of ``gradlint run``: a training script under the settings that count where it lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradlint.cli.check import Checker, Found, Request
from gradlint.cli.exits import Interrupted
from gradlint.cli.one_target import run_script
from gradlint.config.settings import Settings
from gradlint.findings import Report
from gradlint.runner.job import Job
from gradlint.runner.parent import Process


class ScriptChecker(Checker):
    """Runs a script, and judges its training as a request asks."""

    def __init__(self, request: Request, job: Job, process: Process) -> None:
        """
        Args:
            request: what is asked.
            job: what to run, as far as the command line says.
            process: where to run it.

        Raises:
            UsageError: an option or a configuration file is wrong.
        """
        self.job = job
        self.process = process
        super().__init__(request)
        self.sources, self.targets = [], [job.target]

    def _settings(self) -> Settings:
        return self._of_target(self.job.target)

    def _of_target(self, text: str) -> Settings:
        return self.configuration.near(Path.cwd() if self.job.module else self.job.script)

    def check(self) -> Found:
        """Run the script.

        Raises:
            UsageError: a configuration file is wrong.
            Interrupted: on Ctrl-C; the script has been ended.
        """
        settings = self.settings
        job = replace(
            self.job,
            rules=tuple(rule.code for rule in self.plan(settings).selection.rules),
            rules_dirs=tuple(map(str, self.folders(settings))),
            strict=settings.strict,
        )
        found = Found(Report())
        try:
            report = run_script(job, self.process)
        except Interrupted as stop:
            found.report.extend(stop.report)
            raise Interrupted(self.finished(found)) from None
        self.add(found, report, settings)
        return found
