"""The process that runs the script: it records, judges, leaves the report and ends the script.

The report is written before the script is stopped, so that nothing it does on its way out can lose the report.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import contextlib
import faulthandler
import os
import pkgutil
import re
import runpy
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from gradlint.engine.check import check_trace
from gradlint.engine.options import Options, given_contract
from gradlint.errors import GradlintError, TargetError
from gradlint.findings import Draft, Failure, Note, Report
from gradlint.load.build import InternalError, user_error
from gradlint.load.notebooks import code_of, execute, is_notebook, what_is_skipped
from gradlint.recorder.cuda import CpuStandIn
from gradlint.recorder.ledger.enough import EnoughRecorded
from gradlint.recorder.observation import Observation
from gradlint.recorder.user_code import gradlint_runs_user_code
from gradlint.rulekit import registry
from gradlint.runner.job import INTERRUPT_GRACE, Job, discard, leave
from gradlint.runner.wind_up import wind_up
from gradlint.source.text import NOTEBOOK
from gradlint.system.gc_pause import ImportsUnscanned
from gradlint.system.process_tree import end_tree, open_descriptors
from gradlint.traces.sites import is_project
from gradlint.traces.trace import Trace
from gradlint.wording import plural, summarize_names

_WRONG_USAGE = 2
"""Exit code of a script that does not take its arguments."""
_HELD_UP = 50
"""How often a script may catch the exception that ends it."""

_NUDGE = 2.0
"""Seconds that a script has, once its time is up, to call a model before it is interrupted."""
_LATE = 8.0
"""Seconds after the end of its time when the place is noted that a script does not leave."""
_INTERRUPTED = 130
"""Exit code of a script that was interrupted."""
_ALONE = (
    "recorded in one process (RANK 0, WORLD_SIZE 1): {launcher} starts several, and its own options were not applied"
)
_NO_RANK = re.compile(r"environment variable (RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT) expected|'(LOCAL_)?RANK'")
"""The errors of a script that a launcher is to start."""
_OTHERS = 3
"""How many times as many steps another thread may take until the main one is waited for no longer."""


class _Runner:
    def __init__(self, job: Job) -> None:
        self.job = job
        rules = registry.load(job.rules_dirs, fence=job.fence)
        self.rules = [entry for entry in rules.rules if entry.code in job.rules]
        self.observation = Observation(
            job.target, steps=job.steps, gives_up=True, limit=job.max_batches, on_fault=lambda: self.finish(None)
        )
        self.observation.ledger.stopping = self.stopping
        self.observation.ledger.other_threads.on_step = self.elsewhere
        self.done = False
        self.timed_out = False
        self.interrupted = False
        """True if the script was interrupted because its time was up."""
        self.ended = threading.Event()
        self.stops = 0
        self.exit = os._exit
        self.pid = os.getpid()

    def run(self) -> int:
        """Run the script; returns the exit code of the process.

        Raises:
            KeyboardInterrupt: the user pressed Ctrl-C, and the script has ended.
        """
        job = self.job
        timer = threading.Timer(job.seconds, self.time_is_up)
        timer.daemon = True
        timer.start()
        os._exit = self.exit_hard
        for number in {signal.SIGINT, getattr(signal, "SIGBREAK", signal.SIGINT)}:
            signal.signal(number, signal.default_int_handler)
        code = 0
        failure: Failure | None = None
        try:
            with ImportsUnscanned() as imports, CpuStandIn() as cpu, self.observation:
                self.observation.log.at_first_module = imports.end
                self.observation.recorder.redirect_cuda(cpu)
                try:
                    gradlint_runs_user_code(_script, job)
                except EnoughRecorded:
                    pass
                except SystemExit as error:
                    code = error.code if isinstance(error.code, int) else int(error.code is not None)
                    if code:
                        hint = job.hint() if code == _WRONG_USAGE else ""
                        failure = Failure(job.target, f"the script called sys.exit({error.code!r}){hint}")
                except KeyboardInterrupt:
                    if not self.interrupted:
                        raise
                except TargetError as error:
                    failure = Failure(job.target, str(error), error.traceback)
                except BaseException as error:
                    cause = user_error("the script", error)
                    hint = job.hint() if job.misplaced in str(cause) else ""
                    if not job.launcher and _NO_RANK.search(str(cause)):
                        hint += f"; to run it as one process of torchrun: gradlint run torchrun {job.target} ..."
                    failure = Failure(job.target, f"{cause}{hint}", cause.traceback)
                self.finish(None if self.interrupted else failure)
        finally:
            self.ended.set()
            timer.cancel()
            os._exit = self.exit
        return code

    # -- when to stop -------------------------------------------------------------------------------------------

    def time_is_up(self) -> None:
        """Stop the script at the next call of a model; interrupt it if it makes none."""
        self.timed_out = True
        if not self.ended.wait(_NUDGE) and not self.done:
            self.interrupted = True
            interrupt_main_thread()

    def stopping(self) -> bool:
        """Return True if the script must stop, and write the report then.

        It is called before each call of a model, each backward pass and each step.
        """
        observation = self.observation
        if not (self.done or self.timed_out or observation.patience_lost or observation.enough()):
            return False
        self.finish(None)
        self.stops += 1
        if self.stops > _HELD_UP:  # it catches BaseException
            self.leave_now()
        return True

    def elsewhere(self) -> None:
        """Stop the script before a step in another thread, if the main thread does not train.

        Other threads are not recorded.

        Raises:
            SystemExit: ends the other thread silently.
        """
        ledger = self.observation.ledger
        if not ledger.training.backwards and ledger.other_threads.steps > self.job.steps * _OTHERS:
            self.finish(None)
            raise SystemExit

    def leave_now(self) -> NoReturn:
        """End the process at once, because the script keeps catching the exception."""
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self.exit(0)
        raise SystemExit

    def exit_hard(self, status: int) -> NoReturn:
        """Write the report before ``os._exit``; one of a script that trained may be without error."""
        if os.getpid() == self.pid:
            training = self.observation.ledger.training
            is_right = bool(training.backwards or training.steps) and status == 0
            self.finish(None if is_right else Failure(self.job.target, f"the script called os._exit({status})"))
        self.exit(status)
        raise SystemExit

    # -- the verdict --------------------------------------------------------------------------------------------

    def finish(self, failure: Failure | None) -> None:
        """Judge what was recorded and leave the report; once only."""
        if self.done:
            return
        self.done = True
        observation = self.observation
        try:
            with observation.recorder.pausing():
                report = self.judged(failure)
        except Exception as error:
            report = Report(errors=[Failure(self.job.target, *InternalError.from_exception(error, "while it judged"))])
        leave(report, self.job.report)

    def judged(self, failure: Failure | None) -> Report:
        """Return the verdict; `failure` is how the script ended before enough was recorded."""
        job, observation = self.job, self.observation
        training = observation.ledger.training
        fault = observation.recorder.fault
        if fault is not None:
            return Report(errors=[Failure(job.target, *fault)])
        if not training.backwards and not training.steps:
            return Report(errors=[failure or Failure(job.target, self.why_nothing())])
        contract = given_contract(job.trains, job.frozen)
        trace = observation.trace()
        files = tuple(_project_files(job, trace))
        options = Options(
            strict=job.strict, contract=contract, files=files, overview=job.overview, flow_map=job.flow_map
        )
        report = check_trace(trace, self.rules, options)
        if job.draft:
            report.draft = self.drafted(failure)
        if not job.module and (skipped := what_is_skipped(os.path.abspath(job.script))):
            report.notes.append(Note(job.target, skipped))
        if job.launcher:
            report.notes.append(Note(job.target, _ALONE.format(launcher=job.launcher)))
        if not observation.enough():
            report.ran = {}  # what a comment silences may come later
        if failure is not None:
            report.errors.append(failure)
        passes = plural(len(training.backwards), "backward pass")
        progress = f"{plural(len(training.steps), 'optimizer step')} and {passes}"
        if observation.patience_lost and not trace.optimizers:
            report.notes.append(Note(job.target, f"stopped after {passes} without an optimizer (--max-batches)"))
        elif observation.patience_lost:
            calls = f"{plural(observation.forwards, 'call')} of the script's models"
            report.notes.append(Note(job.target, f"stopped after {calls} (--max-batches) with {progress}"))
        elif self.timed_out:
            report.notes.append(Note(job.target, f"stopped after {job.seconds:g} s (--timeout) with {progress}"))
        elif failure is None and not observation.enough():
            report.notes.append(Note(job.target, f"the script ended by itself after {progress}"))
        elif failure is None:
            report.notes += [Note(job.target, text) for text in _what_comes_later(trace)]
        return report

    def drafted(self, failure: Failure | None) -> Draft:
        """Return a build() like the training that runs, or the reason why there is none."""
        from gradlint.runner.draft import NoDraft, draft  # only `init` asks for it

        if failure is not None or not self.observation.enough():
            return Draft(problem=f"the script ended before each optimizer had stepped {self.job.steps} times")
        try:
            return Draft(draft(sys._getframe(), *self.observation.found(), self.job.script))
        except NoDraft as error:
            return Draft(problem=str(error))

    def why_nothing(self) -> str:
        """Return the reason why there is nothing to judge."""
        observation, job = self.observation, self.job
        forwards = observation.forwards
        calls = f"{plural(forwards, 'call')} of the script's models" if forwards else "no call of a model"
        if observation.ledger.other_threads.steps:
            return "the script trains outside of its main thread, where gradlint cannot follow it"
        if observation.patience_lost:
            return f"no backward pass in {calls}: give more with --max-batches, or give the script less to prepare"
        if self.timed_out:
            return f"no backward pass within {job.seconds:g} s, {calls}: raise --timeout, or give it less to prepare"
        return (
            f"the script never trained: it ended after {calls} and no backward pass "
            "(does it need arguments, or train in other processes?)"
        )


def _what_comes_later(trace: Trace) -> Iterator[str]:
    """Yield a note on the parameters of which the recorded steps say nothing: a later stage."""
    stepped = {key for step in trace.training.steps for key in step.content} if trace.training is not None else set()
    later = [
        p
        for p in trace.parameters
        if p.in_tree and p.requires_grad and p.key not in stepped and p.index not in trace.reached
        if not trace.has_trainable_twin(p)  # the target of a network follows it, and never trains
    ]
    if later:
        yield (
            f"not judged: {summarize_names(later, trace.parameters)}, which no recorded step trains: "
            "if a later part of the script does, record it with --steps"
        )


def _project_files(job: Job, trace: Trace) -> Iterator[str]:
    """Yield the user's files that ran, without rules and what the configuration excludes."""
    from gradlint.config.discover import patterns  # while the script runs, it is not needed

    modules = [module for name, module in list(sys.modules.items()) if not name.startswith(registry.MODULE_PREFIX)]
    imported = {getattr(module, "__file__", None) or "" for module in modules}
    excluded = patterns(job.exclude, Path(job.root))
    for path in sorted(imported | {code.co_filename for code in trace.executed}):
        if path.endswith((".py", NOTEBOOK)) and is_project(path) and not excluded.match_below(path):
            yield path


def _script(job: Job) -> None:
    if job.launcher:
        _become_only_rank()
    if job.module:
        sys.argv = [job.script, *job.arguments]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(job.script, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [job.script, *job.arguments]
        script = os.path.abspath(job.script)
        sys.path.insert(0, os.path.dirname(script))
        if is_notebook(script):
            _notebook(script, job.script)
        elif script.endswith(".pyc") or pkgutil.get_importer(script) is not None:  # compiled, or an archive
            runpy.run_path(script, run_name="__main__")
        else:
            _source_file(script)


def _notebook(path: str, label: str) -> None:
    code = code_of(path, label)
    module = sys.modules["__main__"] = ModuleType("__main__")
    vars(module).update(__file__=path, __builtins__=builtins)
    execute(code, vars(module))


def _become_only_rank() -> None:
    """Set what a launcher sets for each process that it starts, as for one process alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK"), "0")
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"), "1")
    os.environ.update(ranks | sizes, MASTER_ADDR="localhost", MASTER_PORT=str(port))


def _source_file(script: str) -> None:
    """Run a file as Python does.

    runpy would make ``sys.argv[0]`` absolute, and hide the module from atexit.
    """
    loader = SourceFileLoader("__main__", script)
    module = ModuleType("__main__")
    vars(module).update(__file__=script, __cached__=None, __loader__=loader, __builtins__=builtins)
    sys.modules["__main__"] = module
    exec(loader.source_to_code(loader.get_data(script), script), vars(module))


def main(job: Job, parent: int) -> NoReturn:
    """Run a job, and exit.

    Args:
        job: what to run.
        parent: file descriptor that reaches its end when the process that gave the job ends.
    """
    leave_process = os._exit
    orphaned = threading.Event()
    threading.Thread(target=_watch, args=(parent, job, orphaned), daemon=True).start()
    with contextlib.suppress(OSError, ValueError):
        crash = open(job.crash, "wb")
        faulthandler.enable(crash, all_threads=False)
        faulthandler.dump_traceback_later(job.seconds + _LATE, file=crash)
    before = open_descriptors()  # that of the crash log too
    try:
        code = _run(job)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wind_up(before, finalizes=True)
    if orphaned.is_set():
        _end_group()
    leave_process(code & 0xFF)


def interrupt_main_thread() -> None:
    """Raise KeyboardInterrupt in the main thread, also if it sleeps."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _watch(parent: int, job: Job, orphaned: threading.Event) -> None:
    """Wait until the process that gave the job is gone; then interrupt the script, and end it."""
    with contextlib.suppress(OSError):
        while os.read(parent, 1):
            pass
    orphaned.set()
    discard(job.report)
    interrupt_main_thread()
    time.sleep(INTERRUPT_GRACE)
    _end_group()


def _end_group() -> None:
    """End this process and those that it started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    end_tree(os.getpid())


def _run(job: Job) -> int:
    warnings.filterwarnings("ignore", message="Using `torch.compile", category=UserWarning)
    try:
        runner = _Runner(job)
    except (GradlintError, ImportError) as error:
        leave(Report(errors=[Failure(job.target, str(error))]), job.report)
        return 2
    return runner.run()
