"""One call of ``gradlint run``: an unmodified training script, under the settings of the folder that it lies in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.check import Checker, CheckResult
from gradlint.cli.exits import Interrupted
from gradlint.cli.options import CheckOptions
from gradlint.config.settings import Settings
from gradlint.findings import Failure, Report
from gradlint.runner.job import Job
from gradlint.runner.launchers import launched, launcher_of
from gradlint.runner.parent import Process
from gradlint.system.legible import one_line


class ScriptChecker(Checker):
    """Runs a script and judges its training."""

    def __init__(self, options: CheckOptions, job: Job, process: Process) -> None:
        """Read the configuration for a script.

        Args:
            options: the options of the call.
            job: what to run, as far as the command line says.
            process: where to run it.

        Raises:
            UsageError: an option or a configuration file is wrong.
        """
        self.job = launched(job) or job if launcher_of(job) else job
        self.process = process
        super().__init__(options._replace(targets=(self.job.target,)))
        self.sources, self.targets = [], [self.job.target]

    def _read_paths(self) -> list[str]:
        return [] if self.job.module else [self.job.script]

    def _settings(self) -> Settings:
        return self._of_target(self.job.target)

    def _of_target(self, text: str) -> Settings:
        return self.configuration.near(Path.cwd() if self.job.module else self.job.script)

    def check(self) -> CheckResult:
        """Run the script.

        Raises:
            UsageError: a configuration file is wrong.
            Interrupted: on Ctrl-C; the script has been ended.
        """
        settings = self.settings
        job = replace(
            self.job,
            rules=tuple(rule.code for rule in self.plan(settings).selection.rules),
            rules_dirs=self.plans.folders(settings),
            fence=self.plans.fence,
            exclude=(*settings.exclude, *settings.extend_exclude),
            root=str(settings.root),
            strict=settings.strict,
            overview=self.options.overview,
            flow_map=self.options.flow_map,
            draft=self.options.draft,
        )
        result = CheckResult(Report())
        try:
            self.add(result, self._run(job), settings)
        except KeyboardInterrupt:
            result.report.errors.append(Failure(job.target, "interrupted"))
            raise Interrupted(self.reported(result)) from None
        return result

    def _run(self, job: Job) -> Report:
        if launcher := launcher_of(job):
            problem = f"{launcher} starts a script in other processes: name the script as a file, FILE.py, or after -m"
            return Report(errors=[Failure(job.target, problem)])
        if not job.module and not Path(job.script).is_file():
            problem = "is a folder" if Path(job.script).is_dir() else "does not exist"
            return Report(errors=[Failure(job.target, f"{job.script} {problem}: name the file of a training script")])
        streams.write_error(
            f"gradlint: running {one_line(job.target)} until each optimizer has stepped {job.steps} times; "
            "files that it writes stay\n"
        )
        return self.process.run(job, _say_that_it_ends)


def _say_that_it_ends() -> None:
    streams.write_error("gradlint: waiting for the script to end; press Ctrl-C again to end it at once\n")
