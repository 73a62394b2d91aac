"""The commands and their options. Each returns its exit code, and loads what it needs once it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlint._version import __version__
from gradlint.cli import options, streams
from gradlint.cli.exits import CLEAN
from gradlint.cli.help import GroupedCommand
from gradlint.cli.options import CheckOptions, OutputOptions, parsed
from gradlint.cli.script_command import ScriptCommand, TargetOrScriptCommand, is_script
from gradlint.errors import GradlintError
from gradlint.system.legible import one_line

if TYPE_CHECKING:
    from gradlint.rulekit.registry import Registry
    from gradlint.runner.job import Job


class Commands(click.Group):
    """The group of commands; suggests the nearest one for one that it does not know."""

    command_class = GroupedCommand

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names.

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


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "auto_envvar_prefix": "GRADLINT",  # GRADLINT_CHECK_SELECT is --select of check
    },
)
@click.version_option(__version__, message="torch-gradlint %(version)s", allow_from_autoenv=False)
def app() -> None:
    """Report parameters that should train and do not.

    A target is FILE.py:ATTRIBUTE or PACKAGE.MODULE:ATTRIBUTE. The attribute is a function that returns the model,
    alone or together with its optimizer, inputs and loss.
    """


@app.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@options.reporting
@options.fixes
@options.triage
@options.since
@options.files
@options.configuration
@options.inputs
@options.arguments
@options.contract
@options.strict
@options.numeric
@options.cost
@options.timeout
@options.max_memory
@options.rules_dir
@options.verbose
@options.color
def check(**values: Any) -> int:
    """Check each TARGET and report training mistakes.

    FILE.py:ATTRIBUTE is built and run once. Files and folders are only read, by the source rules; `-` reads stdin.
    Without a TARGET, the configured ones are checked, or else the files below the working directory.

    Exit codes: 0 clean, 1 findings at or above --fail-on, 2 a target cannot be checked or an option is wrong, 130
    interrupted.
    """
    from gradlint.cli.output import run

    return run(parsed(CheckOptions, values), parsed(OutputOptions, values))


@app.command(cls=ScriptCommand)
@options.script("SCRIPT")
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Record this many steps of each optimizer."
)
@click.option(
    "--max-batches", type=click.IntRange(1), show_default="500, and 60 seconds",
    help="Stop after this many calls of the models without a backward pass, or backward passes without a step.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(1), default=300.0, show_default=True, help="Stop after this many seconds."
)
@click.option("--tracking", is_flag=True, help="Leave experiment trackers (wandb, comet, ...) on.")
@options.reporting
@options.triage
@options.configuration
@options.contract
@options.strict
@options.rules_dir
@options.verbose
@options.color
def run(
    script: str | None, arguments: tuple[str, ...], module: str | None, steps: int, max_batches: int | None,
    timeout: float, tracking: bool, **values: Any,
) -> int:  # fmt: skip
    """Run the first steps of a training script and check them.

    The script runs unmodified in a process of its own: gradlint run train.py --lr 1e-3. Options of gradlint stand
    before SCRIPT or -m MODULE; everything after it belongs to the script. Files that it writes stay. Its output goes
    to stderr. Configuration, comments, baseline and exit codes work as for check.
    """
    from functools import partial

    from gradlint.runner.parent import begun

    check_options = parsed(CheckOptions, values)
    job = _job(
        script, arguments, module,
        steps=steps, max_batches=max_batches, seconds=timeout, trains=check_options.trains, frozen=check_options.frozen,
    )  # fmt: skip
    with begun(tracking=tracking) as process:
        from gradlint.cli import output  # while the process imports torch
        from gradlint.cli.run import ScriptChecker

        return output.run(
            check_options, parsed(OutputOptions, values), partial(ScriptChecker, job=job, process=process)
        )


def _job(script: str | None, arguments: tuple[str, ...], module: str | None, **settings: Any) -> Job:
    """Return the script that a command is to run, as its arguments name it.

    Raises:
        click.UsageError: they name none.
    """
    from gradlint.runner.job import Job

    if module is not None and script is not None:
        arguments = (script, *arguments)
    name = module or script
    if name is None:
        raise click.UsageError("name the script to run, or a module after -m")
    command = click.get_current_context().command
    assert isinstance(command, ScriptCommand)
    return Job(name, module is not None, arguments, command.misplaced(arguments), **settings)


@app.command(cls=TargetOrScriptCommand)
@options.script("TARGET|SCRIPT")
@click.option("--depth", type=click.IntRange(0), help="Show this many levels below the model.")
@click.option("--expand", multiple=True, metavar="GLOB", help="Unfold these modules and all in them; repeatable.")
@click.option("--parameters", is_flag=True, help="List the parameters: shape, requires_grad, state.")
@click.option(
    "--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True,
    help="Write the summary to stdout in this format.",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Record this many steps of a script."
)
@click.option(
    "--timeout", type=click.FloatRange(1), show_default="600, of a script 300",
    help="End the target or the script after this many seconds.",
)  # fmt: skip
@options.inputs
@options.arguments
@options.configuration
@options.color
def summary(
    script: str | None, arguments: tuple[str, ...], module: str | None, depth: int | None, expand: tuple[str, ...],
    parameters: bool, output_format: str, steps: int, timeout: float | None, color: str, **values: Any,
) -> int:  # fmt: skip
    """Show which modules train.

    TARGET is built and run once, as for check. SCRIPT runs until its optimizers have stepped, as for run: everything
    after it belongs to it. Repeated modules share one row, and a subtree without differences may be closed.
    """
    from functools import partial

    from gradlint.cli.check import Checker
    from gradlint.cli.summary import summary
    from gradlint.report.overview import Wanted

    wanted = Wanted(depth, expand, parameters)
    given = parsed(CheckOptions, values)._replace(overview=True)
    if module is None and script is None:
        raise click.UsageError("name a target, as in model.py:build, or a training script")
    if module is None and script is not None and not is_script(script):
        if arguments:
            raise click.UsageError(f"one target at a time: {arguments[0]} is one too many")
        given = given._replace(targets=(script,), timeout=timeout or given.timeout)
        return summary(given, wanted, output_format, color, Checker)
    from gradlint.runner.parent import begun

    job = _job(script, arguments, module, steps=steps, seconds=timeout or 300.0)
    with begun() as process:
        from gradlint.cli.run import ScriptChecker  # while the process imports torch

        return summary(given, wanted, output_format, color, partial(ScriptChecker, job=job, process=process))


@app.command("map", cls=TargetOrScriptCommand)
@options.script("TARGET|SCRIPT")
@click.option(
    "-o", "--output", metavar="FILE",
    help="Write to this file (required; before SCRIPT): .html, .svg, .dot, .mmd (Mermaid) or .json (Model Explorer).",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Record this many steps of a script."
)
@click.option(
    "--timeout", type=click.FloatRange(1), show_default="600, of a script 300",
    help="End the target or the script after this many seconds.",
)  # fmt: skip
@options.inputs
@options.arguments
@options.configuration
def draw_map(
    script: str | None, arguments: tuple[str, ...], module: str | None, output: str | None, steps: int,
    timeout: float | None, **values: Any,
) -> int:  # fmt: skip
    """Draw where gradient flows, and where it stops.

    TARGET is built and run once, as for check; SCRIPT runs as for run, with everything after it. An HTML map is one
    file that loads nothing: modules open level by level, each cut shows its finding, and a search leads from a
    parameter to the place that keeps it from training.
    """
    from functools import partial

    from gradlint.cli.check import Checker
    from gradlint.cli.map import draw

    given = parsed(CheckOptions, values)._replace(flow_map=True)
    if module is None and script is None:
        raise click.UsageError("name a target, as in model.py:build, or a training script")
    if output is None:
        is_after = any(word in ("-o", "--output") for word in arguments)
        why = ": put it before the script, to which all that follows belongs" if is_after else ""
        raise click.UsageError(f"the map needs a file, -o FILE{why}")
    if module is None and script is not None and not is_script(script):
        if arguments:
            raise click.UsageError(f"one target at a time: {arguments[0]} is one too many")
        given = given._replace(targets=(script,), timeout=timeout or given.timeout)
        return draw(given, output, Checker)
    from gradlint.runner.parent import begun

    job = _job(script, arguments, module, steps=steps, seconds=timeout or 300.0)
    with begun() as process:
        from gradlint.cli.run import ScriptChecker  # while the process imports torch

        return draw(given, output, partial(ScriptChecker, job=job, process=process))


@app.command()
@click.argument("target")
@click.argument("pattern", metavar="PARAMETER-GLOB")
@options.inputs
@options.arguments
@click.option(
    "--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True,
    help="Write the explanations to stdout in this format.",
)  # fmt: skip
@options.color
def why(target: str, pattern: str, output_format: str, color: str, **given: Any) -> int:
    """Explain why parameters train or do not.

    Each parameter of TARGET that the glob matches is explained: gradlint why model.py:build 'encoder.*.weight'
    """
    from gradlint.cli.why import why

    return why(target, pattern, parsed(CheckOptions, given).engine_options(), output_format, color)


@app.command()
@click.argument("target")
@click.option("--batch", type=click.IntRange(1), help="Repeat the inputs of build() to a batch of this size.")
@click.option("--compare", metavar="A", help="Show what TARGET costs more or less than the target A.")
@click.option(
    "--depth", type=click.IntRange(0), default=2, show_default=True, help="Show the module tree down to this level."
)
@click.option(
    "--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True,
    help="Write the costs to stdout in this format.",
)  # fmt: skip
@options.inputs
@options.arguments
@options.color
def cost(
    target: str, batch: int | None, compare: str | None, depth: int, output_format: str, color: str, **given: Any
) -> int:
    """Measure the memory and the FLOPs of a training step.

    TARGET is built and run, and its optimizer takes a step on tensors of gradlint's own. Activations are the bytes that
    autograd keeps for backward. FLOPs are those of torch.utils.flop_counter. gradlint cost --compare A B shows both
    targets side by side.
    """
    from gradlint.cli.cost import run

    return run(target, parsed(CheckOptions, given).engine_options(), batch, compare, depth, output_format, color)


@app.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--check", is_flag=True, help="Write nothing; report each difference from the lock (GL704).")
@options.lock_file
@options.inputs
@options.arguments
@click.option(
    "--output-format", type=click.Choice(["full", "concise", "json"]), default="full", show_default=True,
    help="Write the report of --check to stdout in this format.",
)  # fmt: skip
@options.color
def lock(
    targets: tuple[str, ...], check: bool, lock_file: str | None, output_format: str, color: str, **given: Any
) -> int:
    """Write a lock file that lists which parameters train.

    Without a TARGET, all configured ones are locked. With --check, any difference from the lock makes the exit code 1.
    A lock is written whole or not at all.
    """
    from gradlint.cli.lock import lock

    return lock(targets, check, lock_file, parsed(CheckOptions, given).engine_options(), output_format, color)


@app.command()
@click.argument("before", metavar="[A]", required=False)
@click.argument("after", metavar="[B]", required=False)
@options.lock_file
@options.inputs
@options.arguments
@options.color
def diff(before: str | None, after: str | None, lock_file: str | None, color: str, **given: Any) -> int:
    """Show which parameters train in A or B only.

    A and B are targets or lock files. Without B, A is compared with its lock; without both, every configured target is.
    The exit code is 1 if anything differs, else 0.
    """
    from gradlint.cli.lock import diff

    return diff(before, after, lock_file, parsed(CheckOptions, given).engine_options(), color)


@app.command()
@click.argument("code", metavar="[CODE]", required=False)
@click.option("--all", "every", is_flag=True, help="Print the documentation of all rules.")
@click.option(
    "--output-format", type=click.Choice(["full", "markdown", "json"]), default="full", show_default=True,
    help="Write the documentation to stdout in this format.",
)  # fmt: skip
@options.rules_dir
@options.configuration
@options.color
def rule(code: str | None, every: bool, output_format: str, color: str, **given: Any) -> int:
    """Print the documentation of one rule, given by code or name, or of all."""
    from gradlint.report import catalogue
    from gradlint.rulekit import selection  # loads what --version need not

    if every == (code is not None):
        raise click.UsageError("name one rule by its code or name, or give --all")
    known = _known(parsed(CheckOptions, given))
    entries = known.entries if code is None else [selection.lookup(known, code)]
    view = streams.view_of_stdout(color)
    if output_format == "json":
        streams.write_document(catalogue.as_json(entries))
    elif output_format == "markdown":
        streams.write_document(catalogue.as_pages(entries))
    else:
        streams.write_document("\n".join(catalogue.page(entry, view) for entry in entries))
    return CLEAN


@app.command()
@click.option(
    "--output-format", type=click.Choice(["full", "json"]), default="full", show_default=True,
    help="Write the list to stdout in this format.",
)  # fmt: skip
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(["source", "recording", "step"]),
    help="List the rules that judge source files, recordings or training steps; repeatable.",
)  # fmt: skip
@click.option(
    "--severity", "severities", multiple=True, type=click.Choice(["error", "warning", "info"]),
    help="List the rules of this severity; repeatable.",
)  # fmt: skip
@click.option("--fixable", is_flag=True, help="List the rules whose findings --fix mends.")
@click.option("--select", multiple=True, metavar="RULES", help="List only these: codes, prefixes (GL4) or names.")
@options.rules_dir
@options.configuration
@options.color
def rules(
    output_format: str, kinds: tuple[str, ...], severities: tuple[str, ...], fixable: bool, select: tuple[str, ...],
    color: str, **given: Any,
) -> int:  # fmt: skip
    """List the rules by family, with what they judge."""
    from gradlint.report import catalogue
    from gradlint.rulekit import selection  # loads what --version need not

    known = _known(parsed(CheckOptions, given))
    wanted = selection.codes_of(known, select) if select else None
    entries = [
        entry for entry in known.entries
        if (wanted is None or entry.code in wanted)
        and (not kinds or set(kinds) & set(catalogue.kinds(entry)))
        and (not severities or str(entry.severity) in severities)
        and (not fixable or catalogue.fixable(entry))
    ]  # fmt: skip
    view = streams.view_of_stdout(color)
    streams.write(catalogue.as_json(entries) if output_format == "json" else catalogue.table(entries, view))
    return CLEAN


def _known(given: CheckOptions) -> Registry:
    """Return the rules that a check in this folder would load, and write what it would not."""
    from gradlint.cli.plans import Plans
    from gradlint.config.settings import Configuration  # loads what --version need not

    plans = Plans(given, ())
    known = plans.of(Configuration(given.config, isolated=given.isolated).near(Path.cwd())).registry
    for note in plans.notes():
        streams.write_error(f"note: {one_line(note.message)}\n")
    return known


@app.command()
@click.argument("chapter", default="")
@options.color
def manual(chapter: str, color: str) -> int:
    """Print the manual, or the chapters whose titles contain a word."""
    from gradlint.report.manual import pages  # loads what --version need not

    streams.write_document(pages(Path(__file__).with_name("manual.md"), chapter, streams.view_of_stdout(color)))
    return CLEAN


@app.command("show-settings")
@click.argument("path", default=".")
@options.configuration
def show_settings(path: str, config: str | None, isolated: bool) -> int:
    """Print the settings for a file, folder or target."""
    from gradlint.config.settings import Configuration, as_toml  # loads what --version need not

    configuration = Configuration(config, isolated=isolated)
    settings = configuration.near(path) if Path(path).exists() else configuration.of_target(path)
    streams.write(as_toml(settings))
    return CLEAN


@app.command()
@click.option("--cache-dir", metavar="FOLDER", help="Delete the cache in this folder instead of the configured one.")
@options.configuration
def clean(**values: Any) -> int:
    """Delete the cache of source files."""
    from gradlint.config.settings import Configuration  # loads what --version need not
    from gradlint.engine import source_cache

    given = parsed(CheckOptions, values)
    folder = given.cache_folder(Configuration(given.config, isolated=given.isolated).near(Path.cwd()))
    try:
        is_gone = source_cache.clean(folder)
    except OSError as error:
        raise GradlintError(f"the cache is not removed: {error}") from error
    shown = one_line(str(folder))
    streams.write_error(f"removed the cache in {shown}\n" if is_gone else f"there is no cache at {shown}\n")
    return CLEAN


@app.command()
@click.argument("file", metavar="[FILE]", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]...")
@click.option("--from-run", is_flag=True, help="Run FILE with its arguments, and write a build() like its training.")
@click.option("--agent", is_flag=True, help="Print what a coding agent needs to know about gradlint.")
@click.option("-o", "--output", metavar="FILE", help="Write to this file, which must not exist; - for stdout.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=300.0, show_default=True, help="Stop the script after this."
)
def init(
    file: str | None, arguments: tuple[str, ...], from_run: bool, agent: bool, output: str | None, timeout: float
) -> int:
    """Write a build() for the models in FILE, or for the training script FILE.

    Without --from-run FILE is only read, and what it writes is a skeleton to complete. With it, the script runs as for
    `gradlint run`, and the build() that is written gives the same verdict: gradlint init --from-run train.py -- --lr 1
    """
    if agent:
        if file or arguments or from_run:
            raise click.UsageError("--agent prints a text, and takes no FILE")
        streams.write(Path(__file__).with_name("agent.md").read_text(encoding="utf-8"))
        return CLEAN
    if file is None:
        raise click.UsageError("name the file with the model, or after --from-run the training script")
    if not from_run:
        if arguments:
            raise click.UsageError(f"only a script that runs takes arguments ({arguments[0]}): add --from-run")
        from gradlint.cli.init import run  # loads what --version need not

        return run(file, output)
    from gradlint.cli.init_from_run import write_build
    from gradlint.runner.job import Job
    from gradlint.runner.parent import begun

    with begun() as process:
        return write_build(Job(file, False, arguments, seconds=timeout), output, process)
