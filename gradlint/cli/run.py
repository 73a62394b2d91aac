"""``gradlint run``: an unmodified training script, stopped after its first steps."""

from __future__ import annotations

from functools import partial

import click

from gradlint.cli.app import color_option, configuration, contract, known_findings, reporting, rules_dir_option


@click.command()
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS...]")
@click.option("-m", "module", metavar="MODULE", help="Run a module or package, as python -m does.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Steps to see of each optimizer.")
@click.option(
    "--max-batches", type=click.IntRange(1), default=500, show_default=True,
    help="Stop after so many calls of the models, however few steps were seen.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(1), default=300.0, show_default=True, help="Stop after so many seconds."
)
@click.option("--tracking", is_flag=True, help="Leave experiment trackers (wandb, comet, ...) on.")
@reporting
@known_findings
@configuration
@contract
@click.option("--strict", is_flag=True, help="Make a finding of each part that could not be recorded (GL003).")
@rules_dir_option
@click.option("-v", "--verbose", is_flag=True, help="Say which rules were skipped, and why.")
@color_option
def run(
    script: str | None, arguments: tuple[str, ...], module: str | None, steps: int, max_batches: int, timeout: float,
    tracking: bool, select: tuple[str, ...], ignore: tuple[str, ...], extend_select: tuple[str, ...],
    show_info: bool, fail_on: str | None, exit_zero: bool, output_format: str | None, output_file: str | None,
    statistics: bool, quiet: bool, add_ignores: bool, baseline: str | None, write_baseline: str | None,
    config: str | None, isolated: bool, trains: tuple[str, ...], frozen: tuple[str, ...], strict: bool,
    rules_dirs: tuple[str, ...], verbose: bool, color: str,
) -> int:  # fmt: skip
    """Run a training script, stop it after its first steps, and report what is wrong with them.

    The script runs as it is, in a process of its own: gradlint run train.py -- --lr 1e-3. What it writes is written.
    Its output goes to stderr. Configuration, comments, baseline and exit codes as for check.
    """
    from gradlint.runner.job import Job  # loads what --version need not
    from gradlint.runner.parent import begun

    if module is not None:
        arguments = (*(() if script is None else (script,)), *arguments)
        script = module
    if script is None:
        raise click.UsageError("name the script to run, or a module after -m")
    job = Job(
        script=script, module=module is not None, arguments=arguments, steps=steps, max_batches=max_batches,
        seconds=timeout, trains=trains, frozen=frozen,
    )  # fmt: skip
    with begun(tracking=tracking) as process:
        from gradlint.cli import output as outcome  # while the process imports torch
        from gradlint.cli.check import Request
        from gradlint.cli.scripts import ScriptChecker

        request = Request(
            (job.target,), select=select, ignore=ignore, extend_select=extend_select, strict=strict,
            rules_dirs=rules_dirs, config=config, isolated=isolated, baseline=baseline, trains=trains, frozen=frozen,
        )  # fmt: skip
        wishes = outcome.Wishes(
            show_info=show_info, fail_on=fail_on, exit_zero=exit_zero, output_format=output_format,
            output_file=output_file, statistics=statistics, quiet=quiet, add_ignores=add_ignores,
            write_baseline=write_baseline, verbose=verbose, color=color,
        )  # fmt: skip
        return outcome.run(request, wishes, make=partial(ScriptChecker, job=job, process=process))
