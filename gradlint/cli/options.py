"""The options that commands share, and the two objects that hold what the user gave for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from gradlint.cli.sizes import Size, SizeType
from gradlint.report import FORMATS

if TYPE_CHECKING:
    from gradlint.cli.workers.limits import Limits
    from gradlint.config.settings import Settings
    from gradlint.engine.options import Options

F = TypeVar("F", bound=Callable[..., object])
P = TypeVar("P", "CheckOptions", "OutputOptions")


def parsed(group: type[P], values: Mapping[str, Any]) -> P:
    """Return a group of options from the parameters of a command.

    Options that the command does not have keep their defaults.
    """
    return group(**{name: value for name, value in values.items() if name in group._fields})


class CheckOptions(NamedTuple):
    """The arguments and options of one call that decide what is found."""

    targets: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    argv: str | None = None
    strict: bool = False
    rules_dirs: tuple[str, ...] = ()
    config: str | None = None
    isolated: bool = False
    stdin_filename: str | None = None
    extend_exclude: tuple[str, ...] = ()
    force_exclude: bool = False
    no_cache: bool = False
    cache_dir: str | None = None
    baseline: str | None = None
    since: str | None = None
    trains: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    numeric: bool = False
    cost: bool = False
    overview: bool = False
    """True if the report includes the modules of each target."""
    flow_map: bool = False
    """True if the report includes the map of each target."""
    draft: bool = False
    """True if the report includes a build() like a script's training."""
    timeout: float = 600.0
    """Seconds that the user code of each target gets."""
    max_memory: Size | None = None
    """The memory that the user code of each target gets; None for any."""

    @property
    def limits(self) -> Limits:
        """What the user code of each target may take."""
        from gradlint.cli.workers.limits import Limits  # loads what --version need not

        return Limits(self.timeout, "--timeout", self.max_memory)

    def cache_folder(self, settings: Settings) -> Path:
        """Return the folder of the cache of source files.

        Raises:
            UsageError: the configured one lies outside of the configuration's own folder.
        """
        from gradlint.engine.source_cache import default_folder  # loads what --version need not

        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        return settings.cache_folder(trusted=self.config is not None) or default_folder()

    def engine_options(self) -> Options:
        """Return the options of the engine, before the settings of a target are added.

        Raises:
            UsageError: an argument of build() is malformed.
        """
        from gradlint.engine.options import Options, given_contract  # loads what --version need not
        from gradlint.load.arguments.given import given

        contract = given_contract(self.trains, self.frozen)
        return Options(
            inputs=self.inputs, strict=self.strict, numeric=self.numeric, contract=contract, cost=self.cost,
            overview=self.overview, flow_map=self.flow_map, arguments=given(self.args, self.argv),
        )  # fmt: skip


class OutputOptions(NamedTuple):
    """The options of one call that decide what becomes of its findings."""

    show_info: bool = False
    fail_on: str | None = None
    exit_zero: bool = False
    output_format: str | None = None
    output_file: str | None = None
    also: tuple[str, ...] = ()
    """Further reports, each as ``FORMAT:FILE``."""
    statistics: bool = False
    quiet: bool = False
    fix: bool = False
    unsafe_fixes: bool = False
    fix_only: bool = False
    diff: bool = False
    add_ignores: bool = False
    write_baseline: str | None = None
    verbose: bool = False
    color: str = "auto"
    rule_url: str = ""
    """Where the pages of rules are; empty for no links to them."""

    @property
    def changes_files(self) -> bool:
        """True if edits are made or shown."""
        return self.fix or self.fix_only or self.diff


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return several options as one decorator, in the order given."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def script(metavar: str) -> Callable[[F], F]:
    """Return the arguments of a command that runs a script, or a module after -m."""
    return _together(
        click.argument("script", required=False, metavar=metavar, type=click.Path()),
        click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]..."),
        click.option(
            "-m", "module", metavar="MODULE", help="Run a module or package instead of SCRIPT, as python -m does."
        ),
    )


def names_file(text: str, *suffixes: str) -> bool:
    """Return True if an argument names a file or folder rather than a target.

    One that is not there is known by its suffix.
    """
    if os.path.lexists(text):
        return True
    head, colon, attribute = text.rpartition(":")
    return not (colon and head and attribute) and text.endswith(suffixes)


color = click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto",
    help="Colour the output; auto colours terminals and obeys NO_COLOR and FORCE_COLOR.",
)  # fmt: skip
rules_dir = click.option(
    "--rules-dir", "rules_dirs", multiple=True, metavar="FOLDER", help="Also load the rules in this folder; repeatable."
)
inputs = click.option(
    "--input", "inputs", multiple=True, metavar="SHAPE",
    help="Use this input of the forward: 2,3,224,224 or 2,16:int64:1000 or mask=2,16:bool; repeatable.",
)  # fmt: skip
arguments = _together(
    click.option(
        "--arg", "args", multiple=True, metavar="NAME=VALUE",
        help="Call build() with this argument: JSON, a text, or a .json, .yaml or .toml file; cfg.lr=0.1 sets a key.",
    ),
    click.option("--argv", metavar="TEXT", help="Let the target see these words in sys.argv."),
)  # fmt: skip
"""What a target's function is called with."""
strict = click.option(
    "--strict", is_flag=True, help="Report each part that could not be recorded as a finding (GL003)."
)
numeric = click.option(
    "--numeric", is_flag=True, help="Train a few steps to measure gradients (GL605, GL606), then undo them."
)
cost = click.option(
    "--cost", is_flag=True, help="Measure what the fixes save of memory and work; each is run once more."
)
timeout = click.option(
    "--timeout", type=click.FloatRange(1), default=600.0, show_default=True,
    help="End the check of a target after this many seconds, as an error.",
)  # fmt: skip
max_memory = click.option(
    "--max-memory", type=SizeType(), metavar="SIZE",
    help="End the check of a target that takes more memory than this (4GB, 512MiB), as an error; Linux only.",
)  # fmt: skip
verbose = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Name the skipped rules with the reason, and what each part of the model does.",
)
lock_file = click.option(
    "--lock-file", metavar="FILE", help="Use this lock instead of gradlint.lock beside the configuration file."
)
reporting = _together(
    click.option("--select", multiple=True, metavar="RULES", help="Run only these: codes, prefixes (GL4) or names."),
    click.option("--ignore", multiple=True, metavar="RULES", help="Skip these. The more specific selector wins."),
    click.option("--extend-select", multiple=True, metavar="RULES", help="Run these too."),
    click.option("--show-info", is_flag=True, help="Also report findings of severity info."),
    click.option(
        "--fail-on", type=click.Choice(["error", "warning", "info"]), show_default="warning",
        help="Exit with 1 from this severity on; info implies --show-info.",
    ),
    click.option("--exit-zero", is_flag=True, help="Exit with 0 despite findings; errors still exit with 2."),
    click.option(
        "--output-format", type=click.Choice(list(FORMATS)), show_default="full",
        help="Write the report to stdout in this format.",
    ),
    click.option("--output-file", metavar="FILE", help="Write the report to this file instead of stdout."),
    click.option(
        "--also", multiple=True, metavar="FORMAT:FILE",
        help="Write the report to this file in this format too, as in sarif:out.sarif; repeatable.",
    ),
    click.option("--statistics", is_flag=True, help="Count the findings of each rule instead of listing them."),
    click.option("-q", "--quiet", is_flag=True, help="Write findings only."),
)  # fmt: skip
"""Which rules run, and how the report is written."""
triage = _together(
    click.option("--add-ignores", is_flag=True, help="Add a comment to the source that suppresses each finding."),
    click.option("--baseline", metavar="FILE", help="Report only findings that this file does not list."),
    click.option("--write-baseline", metavar="FILE", help="List all findings in this file, and report none."),
)  # fmt: skip
"""Findings that are accepted and not reported."""
since = click.option(
    "--since", metavar="REVISION", help="Report only findings that the files did not have at this revision of git."
)
fixes = _together(
    click.option("--fix", is_flag=True, help="Make the safe edits of the findings."),
    click.option("--unsafe-fixes", is_flag=True, help="Make the unsafe edits too, with --fix, --fix-only or --diff."),
    click.option("--fix-only", is_flag=True, help="Make the edits; neither report nor fail on the rest."),
    click.option("--diff", is_flag=True, help="Show the edits as a diff, write nothing; exit with 1 if there are any."),
)  # fmt: skip
"""Edits that the findings propose."""
files = _together(
    click.option("--stdin-filename", metavar="NAME", help="Give the source that `-` reads from stdin this file name."),
    click.option(
        "--extend-exclude", multiple=True, metavar="GLOB", help="Also exclude these files from folders; repeatable."
    ),
    click.option("--force-exclude", is_flag=True, help="Apply exclusions to files named on the command line too."),
    click.option("--no-cache", is_flag=True, help="Neither read nor write the cache of source files."),
    click.option("--cache-dir", metavar="FOLDER", help="Keep the cache of source files in this folder."),
)  # fmt: skip
"""Source files, and the cache of their findings."""
configuration = _together(
    click.option("--config", metavar="FILE", help="Use this configuration file instead of the nearest one."),
    click.option("--isolated", is_flag=True, help="Read no configuration file."),
)
"""Which configuration file counts."""
contract = _together(
    click.option("--trains", multiple=True, metavar="GLOB", help="Require these parameters to train; repeatable."),
    click.option("--frozen", multiple=True, metavar="GLOB", help="Require these parameters not to move; repeatable."),
)
"""Patterns of parameters that are declared to train or to be frozen."""
