"""``gradlint run``: an unmodified training script, stopped after its first steps."""

from __future__ import annotations

import click

from gradlint.cli.app import color_option, rules_dir_option
from gradlint.cli.exits import Interrupted


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
@click.option("--select", multiple=True, metavar="RULES", help="Run only these: codes, prefixes (GL4) or names.")
@click.option("--ignore", multiple=True, metavar="RULES", help="Do not run these. The more specific selector wins.")
@click.option("--extend-select", multiple=True, metavar="RULES", help="Run these too.")
@click.option("--show-info", is_flag=True, help="Also show findings of severity info.")
@click.option(
    "--fail-on", type=click.Choice(["error", "warning", "info"]), default="warning", show_default=True,
    help="The lowest severity that makes the exit code 1; info implies --show-info.",
)  # fmt: skip
@click.option(
    "--output-format", type=click.Choice(["full", "concise", "json", "sarif", "github"]), default="full",
    show_default=True, help="How the report is written to stdout.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Make a finding of each part that could not be recorded (GL003).")
@rules_dir_option
@click.option("-v", "--verbose", is_flag=True, help="Say which rules were skipped, and why.")
@color_option
def run(
    script: str | None, arguments: tuple[str, ...], module: str | None, steps: int, max_batches: int, timeout: float,
    tracking: bool, select: tuple[str, ...], ignore: tuple[str, ...], extend_select: tuple[str, ...],
    show_info: bool, fail_on: str, output_format: str, strict: bool,
    rules_dirs: tuple[str, ...], verbose: bool, color: str,
) -> int:  # fmt: skip
    """Run a training script, stop it after its first steps, and report what is wrong with them.

    The script runs as it is, in a process of its own: gradlint run train.py -- --lr 1e-3. What it writes is written.
    Its output goes to stderr. Exit codes as for check.
    """
    from gradlint import registry, selection  # loads what --version need not
    from gradlint.cli import outcome
    from gradlint.cli.session import run_script
    from gradlint.findings import Severity
    from gradlint.runner.job import Job

    if module is not None:
        arguments = (*(() if script is None else (script,)), *arguments)
        script = module
    if script is None:
        raise click.UsageError("name the script to run, or a module after -m")
    wishes = outcome.Wishes(output_format=output_format, verbose=verbose, color=color)
    known = registry.load(rules_dirs)
    chosen = selection.select(known, select, ignore, extend_select)
    job = Job(
        script=script, module=module is not None, arguments=arguments, report="", strict=strict, steps=steps,
        rules=tuple(rule.code for rule in chosen.rules), rules_dirs=tuple(map(str, rules_dirs)),
        max_batches=max_batches, seconds=timeout,
    )  # fmt: skip
    try:
        report = run_script(job, tracking=tracking)
    except Interrupted as stop:
        if output_format == "json":
            outcome.show(stop.report, wishes)
        raise
    report = chosen.apply(report, show_info=show_info or fail_on == "info")
    outcome.show(report, wishes, lambda: known.entries)
    return outcome.code(report, wishes, Severity[fail_on.upper()])
