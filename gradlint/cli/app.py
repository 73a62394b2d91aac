"""The commands and their options. Each returns its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradlint._version import __version__
from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED, FOUND, Interrupted
from gradlint.errors import GradlintError

if TYPE_CHECKING:
    from gradlint.findings import Report

_color = click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto",
    help="Colour the output; auto: on a terminal, as NO_COLOR and FORCE_COLOR say.",
)  # fmt: skip
_rules_dir = click.option(
    "--rules-dir", "rules_dirs", multiple=True, metavar="FOLDER", help="Also load the rules in this folder; repeatable."
)
_inputs = click.option(
    "--input", "inputs", multiple=True, metavar="SHAPE",
    help="An input of the forward, as in 2,3,224,224 or 2,16:int64:1000 or mask=2,16:bool; repeatable.",
)  # fmt: skip


class Commands(click.Group):
    """The group of commands; suggests the nearest one for one that it does not know."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names.

        Raises:
            click.UsageError: there is none.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from gradlint.selection import nearest  # loads what --version need not

            near = nearest(name, self.list_commands(ctx))
            if near is None and (":" in name or name.endswith(".py") or Path(name).exists()):
                near = f"check {name}"
            hint = f" Did you mean `gradlint {near}`?" if near else ""
            raise click.UsageError(f"There is no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="torch-gradlint %(version)s")
def app() -> None:
    """Report where gradient does not reach what should train.

    A target is FILE.py:ATTRIBUTE or PACKAGE.MODULE:ATTRIBUTE; the attribute is a function that returns the model, or
    the model, its optimizer, inputs and loss together.
    """


@app.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--select", multiple=True, metavar="RULES", help="Run only these: codes, prefixes (GL4) or names.")
@click.option("--ignore", multiple=True, metavar="RULES", help="Do not run these. The more specific selector wins.")
@click.option("--extend-select", multiple=True, metavar="RULES", help="Run these too.")
@click.option("--show-info", is_flag=True, help="Also show findings of severity info.")
@click.option(
    "--fail-on", type=click.Choice(["error", "warning", "info"]), default="warning", show_default=True,
    help="The lowest severity that makes the exit code 1; info implies --show-info.",
)  # fmt: skip
@click.option(
    "--output-format", type=click.Choice(["full", "concise", "json"]), default="full", show_default=True,
    help="How the report is written to stdout.",
)  # fmt: skip
@_inputs
@click.option("--strict", is_flag=True, help="Make a finding of each part that could not be recorded (GL003).")
@_rules_dir
@click.option("-v", "--verbose", is_flag=True, help="Say which rules were skipped, and why.")
@_color
def check(
    targets: tuple[str, ...], select: tuple[str, ...], ignore: tuple[str, ...], extend_select: tuple[str, ...],
    show_info: bool, fail_on: str, output_format: str, inputs: tuple[str, ...], strict: bool,
    rules_dirs: tuple[str, ...], verbose: bool, color: str,
) -> int:  # fmt: skip
    """Build each TARGET, run it once, and report what does not train.

    Exit codes: 0 clean, 1 findings at or above --fail-on, 2 a target or an option kept gradlint from doing its job,
    130 interrupted.
    """
    from gradlint import registry, selection  # loads what --version need not
    from gradlint.cli.session import check_targets

    chosen = selection.select(registry.load(rules_dirs), select, ignore, extend_select)
    try:
        report = check_targets(targets, chosen, inputs=inputs, strict=strict)
    except Interrupted as stop:
        if output_format == "json":
            _show(stop.report, output_format, color, verbose)
        raise
    report = chosen.apply(report, show_info=show_info or fail_on == "info")
    _show(report, output_format, color, verbose)
    return _exit_code(report, fail_on)


def _exit_code(report: Report, fail_on: str) -> int:
    from gradlint.findings import Severity

    if report.errors:
        return FAILED
    worst = report.worst()
    return FOUND if worst is not None and worst >= Severity[fail_on.upper()] else CLEAN


@app.command(context_settings={"ignore_unknown_options": False})
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
    "--output-format", type=click.Choice(["full", "concise", "json"]), default="full", show_default=True,
    help="How the report is written to stdout.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Make a finding of each part that could not be recorded (GL003).")
@_rules_dir
@click.option("-v", "--verbose", is_flag=True, help="Say which rules were skipped, and why.")
@_color
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
    from gradlint.cli.session import run_script
    from gradlint.runner.job import Job

    if module is not None:
        arguments = (*(() if script is None else (script,)), *arguments)
        script = module
    if script is None:
        raise click.UsageError("name the script to run, or a module after -m")
    chosen = selection.select(registry.load(rules_dirs), select, ignore, extend_select)
    job = Job(
        script=script, module=module is not None, arguments=arguments, report="", strict=strict, steps=steps,
        rules=tuple(rule.code for rule in chosen.rules), rules_dirs=tuple(map(str, rules_dirs)),
        max_batches=max_batches, seconds=timeout,
    )  # fmt: skip
    try:
        report = run_script(job, tracking=tracking)
    except Interrupted as stop:
        if output_format == "json":
            _show(stop.report, output_format, color, verbose)
        raise
    report = chosen.apply(report, show_info=show_info or fail_on == "info")
    _show(report, output_format, color, verbose)
    return _exit_code(report, fail_on)


def _show(report: Report, output_format: str, color: str, verbose: bool) -> None:
    view = streams.view_of_stdout(color, verbose=verbose)
    if output_format == "full":
        from gradlint.report import full  # imports rich

        streams.write(full.render(report, view))
        return
    from gradlint.report import as_json, concise

    if output_format == "json":
        streams.write(as_json.render(report, view.root))
    else:
        streams.write(concise.render(report, view))
        streams.tell(concise.aside(report, view))
    streams.tell(concise.errors(report, view))


@app.command()
@click.argument("target")
@click.argument("pattern", metavar="PARAMETER-GLOB")
@_inputs
@_color
def why(target: str, pattern: str, inputs: tuple[str, ...], color: str) -> int:
    """Say why the parameters of TARGET that a glob names train or do not.

    Example: gradlint why model.py:build 'encoder.*.weight'
    """
    from gradlint.cli.session import explain  # loads what --version need not
    from gradlint.findings import Failure, Report
    from gradlint.report import concise, explanations

    view = streams.view_of_stdout(color)
    outcome = explain(target, pattern, inputs=inputs)
    if isinstance(outcome, Failure):
        streams.tell(concise.errors(Report(errors=[outcome]), view))
        return FAILED
    if not outcome:
        raise GradlintError(f"no parameter of {target} matches {pattern!r}")
    streams.write(explanations.render(outcome, view))
    return CLEAN


@app.command()
@click.argument("code", metavar="CODE")
@_rules_dir
@_color
def rule(code: str, rules_dirs: tuple[str, ...], color: str) -> int:
    """Print the documentation of a rule, named by its CODE or its name."""
    from gradlint import registry, selection  # loads what --version need not
    from gradlint.report import catalogue

    found = selection.lookup(registry.load(rules_dirs), code)
    streams.write(catalogue.page(found, streams.view_of_stdout(color)))
    return CLEAN


@app.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@_rules_dir
@_color
def rules(output_format: str, rules_dirs: tuple[str, ...], color: str) -> int:
    """List all rules."""
    from gradlint import registry  # loads what --version need not
    from gradlint.report import catalogue

    known = registry.load(rules_dirs).entries
    view = streams.view_of_stdout(color)
    streams.write(catalogue.as_json(known) if output_format == "json" else catalogue.table(known, view))
    return CLEAN
