"""The command line: arguments become engine calls, findings become exit codes. The only part that prints or exits."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from gradlint.cli import streams
from gradlint.cli.app import app
from gradlint.cli.exits import FAILED, INTERRUPTED, Interrupted
from gradlint.cli.script_command import ScriptCommand
from gradlint.errors import GradlintError, UsageError
from gradlint.report import WHOLE
from gradlint.system.legible import one_line
from gradlint.system.process_tree import mark_own_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, without exiting.

    In the formats json, sarif, gitlab, junit and rdjson stdout holds one document, also when the options are wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _run(arguments)
    streams.drop_unwritten()
    return code


def _run(arguments: list[str]) -> int:
    try:
        _refuse_a_lost_folder(arguments)
        _refuse_files_as_options(arguments)
        code = app.main(arguments, prog_name="gradlint", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt, Interrupted) as stop:
        streams.write_error("gradlint: interrupted\n")
        if not (isinstance(stop, Interrupted) and stop.is_shown):
            _write_document(arguments, "interrupted")
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        streams.write_error(error.format_message() + "\n")
        return FAILED
    except click.ClickException as error:
        usage = f"{error.ctx.get_usage()}\n" if isinstance(error, click.UsageError) and error.ctx else ""
        return _fail(arguments, error.format_message(), usage)
    except GradlintError as error:
        if isinstance(error, streams.StdoutLost) and error.has_no_reader:
            return FAILED
        return _fail(arguments, str(error))
    except SystemExit:  # so click ends if nobody reads stdout any more
        return FAILED
    except Exception as error:
        if _is_of_click(error):
            return _fail([], str(streams.StdoutLost(error)))
        import traceback  # not needed unless gradlint itself is at fault

        return _fail(arguments, f"gradlint itself failed ({type(error).__name__}: {error}); please report it",
                     traceback.format_exc())  # fmt: skip


def _refuse_a_lost_folder(arguments: list[str]) -> None:
    """Refuse a command in a working directory that does not exist any more.

    Raises:
        UsageError: this is one.
    """
    try:
        os.getcwd()
    except OSError as error:
        if arguments and not arguments[0].startswith("-"):
            problem = error.strerror or error
            raise UsageError(f"the working directory cannot be used ({problem}): change to another") from error


def _refuse_files_as_options(arguments: list[str]) -> None:
    """Refuse an option of `check` that is also the name of a file here.

    A hook or a glob of the shell may mean the file.

    Raises:
        UsageError: there is one.
    """
    if arguments[:1] != ["check"]:
        return
    for argument in itertools.takewhile(lambda text: text != "--", arguments[1:]):
        if argument.startswith("-") and argument != "-" and os.path.lexists(argument):
            raise UsageError(
                f"{argument} is an option, and a file of this name is here: put -- before file names, or rename it"
            )


def _is_of_click(error: Exception) -> bool:
    """Return True if an error comes from click's writing of a help page to stdout."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return isinstance(error, OSError) and trace is not None and trace.tb_frame.f_globals["__name__"] == "click.utils"


def _fail(arguments: list[str], message: str, before: str = "") -> int:
    streams.write_error(f"{before}error: {one_line(message)}\n")
    _write_document(arguments, message)
    return FAILED


def _write_document(arguments: list[str], message: str) -> None:
    command = app.commands.get(arguments[0]) if arguments else None
    variable = os.environ.get(f"GRADLINT_{arguments[0].upper().replace('-', '_')}_OUTPUT_FORMAT") if arguments else None
    if isinstance(command, ScriptCommand):
        arguments = command.own(arguments[1:])
    pairs = set(itertools.pairwise(arguments))
    is_given = any(argument.split("=")[0] == "--output-format" for argument in arguments)
    for document in WHOLE:
        is_asked = f"--output-format={document}" in arguments or ("--output-format", document) in pairs
        if is_asked or (variable == document and not is_given):
            from gradlint.findings import Failure, Report  # loads what --version need not
            from gradlint.report import render
            from gradlint.report.view import View

            with contextlib.suppress(streams.StdoutLost):
                streams.write_document(render(document, Report(errors=[Failure("", message)]), View()))
            return


def console_script() -> NoReturn:
    """Run the command line and exit: what the command ``gradlint`` calls."""
    mark_own_process()
    streams.fill_closed()
    code = main()
    streams.seal_stdout()
    if "gradlint.cli.workers.supervised_targets" in sys.modules:
        from gradlint.cli.workers.supervised_targets import wait_for_workers  # loads what --version need not

        wait_for_workers()
    sys.exit(code)
