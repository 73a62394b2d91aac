"""The commands and their options. Each returns its exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gradlint._version import __version__
from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.errors import GradlintError

if TYPE_CHECKING:
    from gradlint.rulekit.registry import Registry

F = TypeVar("F", bound=Callable[..., object])

color_option = click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto",
    help="Colour the output; auto: on a terminal, as NO_COLOR and FORCE_COLOR say.",
)  # fmt: skip
rules_dir_option = click.option(
    "--rules-dir", "rules_dirs", multiple=True, metavar="FOLDER", help="Also load the rules in this folder; repeatable."
)
inputs_option = click.option(
    "--input", "inputs", multiple=True, metavar="SHAPE",
    help="An input of the forward, as in 2,3,224,224 or 2,16:int64:1000 or mask=2,16:bool; repeatable.",
)  # fmt: skip


FORMATS = ("full", "concise", "json", "sarif", "github")


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order given."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


reporting = _together(
    click.option("--select", multiple=True, metavar="RULES", help="Run only these: codes, prefixes (GL4) or names."),
    click.option("--ignore", multiple=True, metavar="RULES", help="Do not run these. The more specific selector wins."),
    click.option("--extend-select", multiple=True, metavar="RULES", help="Run these too."),
    click.option("--show-info", is_flag=True, help="Also show findings of severity info."),
    click.option(
        "--fail-on", type=click.Choice(["error", "warning", "info"]), show_default="warning",
        help="The lowest severity that makes the exit code 1; info implies --show-info.",
    ),
    click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever is found; errors still exit with 2."),
    click.option(
        "--output-format", type=click.Choice(FORMATS), show_default="full", help="How the report is written to stdout."
    ),
    click.option("--output-file", metavar="FILE", help="Write the report to a file instead."),
    click.option("--statistics", is_flag=True, help="Count the findings of each rule instead of listing them."),
    click.option("-q", "--quiet", is_flag=True, help="Write nothing but findings."),
)  # fmt: skip
"""What is looked for, and how it is told."""
known_findings = _together(
    click.option("--add-ignores", is_flag=True, help="Write a comment that silences each finding into its file."),
    click.option("--baseline", metavar="FILE", help="Report only findings that this file does not list."),
    click.option("--write-baseline", metavar="FILE", help="List all findings in this file, and report none."),
)  # fmt: skip
"""What is known and not told."""
configuration = _together(
    click.option(
        "--config", metavar="FILE", help="The configuration file that counts, instead of the nearest one of each file."
    ),
    click.option("--isolated", is_flag=True, help="Read no configuration file."),
)
"""Which configuration counts."""
contract = _together(
    click.option("--trains", multiple=True, metavar="GLOB", help="Parameters that must train; repeatable."),
    click.option("--frozen", multiple=True, metavar="GLOB", help="Parameters that must not move; repeatable."),
)
"""What is declared to train and to be frozen."""


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
            from gradlint.wording import nearest  # loads what --version need not

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
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@reporting
@click.option("--fix", is_flag=True, help="Make the safe edits of the findings.")
@click.option("--unsafe-fixes", is_flag=True, help="Make the other edits too, with --fix, --fix-only or --diff.")
@click.option("--fix-only", is_flag=True, help="Make the edits, and do not report or fail on what is left.")
@click.option("--diff", is_flag=True, help="Show the edits as a diff and write nothing; exit with 1 if there are any.")
@known_findings
@click.option("--stdin-filename", metavar="NAME", help="What the source that `-` reads from stdin is called.")
@click.option(
    "--extend-exclude", multiple=True, metavar="GLOB", help="Leave these files out of folders too; repeatable."
)
@click.option("--force-exclude", is_flag=True, help="Exclude files that are named themselves as well.")
@click.option("--no-cache", is_flag=True, help="Remember nothing about source files.")
@click.option("--cache-dir", metavar="FOLDER", help="Where findings in source files are remembered.")
@configuration
@inputs_option
@contract
@click.option("--strict", is_flag=True, help="Make a finding of each part that could not be recorded (GL003).")
@click.option("--numeric", is_flag=True, help="Train a few steps and measure the gradients (GL605); all is taken back.")
@rules_dir_option
@click.option("-v", "--verbose", is_flag=True, help="Say which rules were skipped, and why.")
@color_option
def check(
    targets: tuple[str, ...], select: tuple[str, ...], ignore: tuple[str, ...], extend_select: tuple[str, ...],
    show_info: bool, fail_on: str | None, exit_zero: bool, output_format: str | None, output_file: str | None,
    statistics: bool, quiet: bool, fix: bool, unsafe_fixes: bool, fix_only: bool, diff: bool, add_ignores: bool,
    baseline: str | None, write_baseline: str | None, stdin_filename: str | None, extend_exclude: tuple[str, ...],
    force_exclude: bool, no_cache: bool, cache_dir: str | None, config: str | None, isolated: bool,
    inputs: tuple[str, ...], trains: tuple[str, ...], frozen: tuple[str, ...], strict: bool, numeric: bool,
    rules_dirs: tuple[str, ...], verbose: bool, color: str,
) -> int:  # fmt: skip
    """Check each TARGET, and report what does not train.

    A file or a folder is read, and judged by the rules that need its source alone: nothing is run. `-` reads a file
    from stdin. FILE.py:ATTRIBUTE is built and run once. Without a TARGET, those of the configuration are checked.

    Exit codes: 0 clean, 1 findings at or above --fail-on, 2 a target or an option kept gradlint from doing its job,
    130 interrupted.
    """
    from gradlint.cli import output as outcome
    from gradlint.cli.check import Request

    request = Request(
        targets, select, ignore, extend_select, inputs, strict, rules_dirs, config, isolated, stdin_filename,
        extend_exclude, force_exclude, no_cache, cache_dir, baseline, trains, frozen, numeric,
    )  # fmt: skip
    wishes = outcome.Wishes(
        show_info, fail_on, exit_zero, output_format, output_file, statistics, quiet, fix, unsafe_fixes, fix_only, diff,
        add_ignores, write_baseline, verbose, color,
    )  # fmt: skip
    return outcome.run(request, wishes, commands=frozenset(app.commands))


@app.command()
@click.argument("target")
@click.argument("pattern", metavar="PARAMETER-GLOB")
@inputs_option
@color_option
def why(target: str, pattern: str, inputs: tuple[str, ...], color: str) -> int:
    """Say why the parameters of TARGET that a glob names train or do not.

    Example: gradlint why model.py:build 'encoder.*.weight'
    """
    from gradlint.cli.one_target import explain  # loads what --version need not
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
@rules_dir_option
@configuration
@color_option
def rule(code: str, rules_dirs: tuple[str, ...], config: str | None, isolated: bool, color: str) -> int:
    """Print the documentation of a rule, named by its CODE or its name."""
    from gradlint.report import catalogue
    from gradlint.rulekit import selection  # loads what --version need not

    found = selection.lookup(_known(rules_dirs, config, isolated), code)
    streams.write(catalogue.page(found, streams.view_of_stdout(color)))
    return CLEAN


@app.command()
@click.option("--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True)
@rules_dir_option
@configuration
@color_option
def rules(output_format: str, rules_dirs: tuple[str, ...], config: str | None, isolated: bool, color: str) -> int:
    """List all rules."""
    from gradlint.report import catalogue  # loads what --version need not

    known = _known(rules_dirs, config, isolated).entries
    view = streams.view_of_stdout(color)
    streams.write(catalogue.as_json(known) if output_format == "json" else catalogue.table(known, view))
    return CLEAN


def _known(rules_dirs: tuple[str, ...], config: str | None, isolated: bool) -> Registry:
    """The rules that a check from here would know."""
    from gradlint.config.settings import Configuration
    from gradlint.rulekit import registry  # loads what --version need not

    settings = Configuration(config, isolated=isolated).near(Path.cwd())
    return registry.load(settings.rule_folders(rules_dirs))


@app.command("show-settings")
@click.argument("path", default=".")
@configuration
def show_settings(path: str, config: str | None, isolated: bool) -> int:
    """Print the settings that count for a file, a folder or a target."""
    from gradlint.config.settings import Configuration, as_toml  # loads what --version need not

    configuration = Configuration(config, isolated=isolated)
    found = configuration.near(path) if Path(path).exists() else configuration.of_target(path)
    streams.write(as_toml(found))
    return CLEAN


@app.command()
@click.option("--cache-dir", metavar="FOLDER", help="The cache to delete, if it is not where it usually is.")
@configuration
def clean(cache_dir: str | None, config: str | None, isolated: bool) -> int:
    """Delete what was remembered about source files."""
    from gradlint.config.settings import Configuration  # loads what --version need not
    from gradlint.engine import source_cache

    settings = Configuration(config, isolated=isolated).near(Path.cwd())
    configured = settings.root / settings.cache_dir if settings.cache_dir else source_cache.default_folder()
    folder = Path(cache_dir) if cache_dir else configured
    try:
        streams.tell(f"removed {folder}\n" if source_cache.clean(folder) else f"there is no cache at {folder}\n")
    except OSError as error:
        raise GradlintError(f"the cache is not removed: {error}") from error
    return CLEAN


@app.command()
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="FILE", help="Write it there; - for stdout. A file that is there stays.")
def init(file: str, output: str | None) -> int:
    """Write a build() for the model classes in FILE, for you to complete."""
    from gradlint.cli.init import run  # loads what --version need not

    return run(file, output)
