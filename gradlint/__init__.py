"""gradlint: a static model-graph linter for PyTorch.

The names below are for everybody; rule authors find more in `gradlint.flow`, `gradlint.source`, `gradlint.traces` and
`gradlint.rulekit`. Names are loaded when they are first used: importing gradlint imports no torch.

The rooms, in the order in which they may import each other (each only those before it; tests/test_architecture.py):

    errors       the exceptions that gradlint raises
    system       files, text and processes: reading, writing, making text safe to show, ending what user code leaves;
                 undoing what a recording changes in its process
    location     file, line and column
    findings     findings and reports: plain data
    wording      names, counts and verbs in messages
    markers      declarations about the gradient of a value, in user code
    source       text → facts that its syntax proves; no torch
    load         target → Setup: the user's build(), its inputs, the wrappers of frameworks
    traces       the record of a run: ops, values, events, parameters; plain data
    restore      the user's objects as they were before the run
    recorder     Setup → Trace: runs forward, loss and steps, and writes down each call
    flow         Trace → Flow: where data comes from, where gradient goes, and the cuts between
    experiments  runs the training setup again for questions that one trace leaves open
    rulekit      the base class of rules, what they see, which there are and which run
    config       pyproject.toml and the files to check
    engine       the main line: record, analyse, run the rules; the pass over source files
    triage       which findings count: suppressions, baseline, filters; applies fixes
    report       Report → text, JSON, SARIF, GitHub annotations
    lock         the state of each parameter, in a file under version control
    api          `gradlint.check`, `gradlint.record`, `gradlint.fx_graph`; what `gradlint why` and `gradlint cost` ask
    runner, testing, integrations, cli   a script under the recorder, pytest, trainers, the command line

The rules are in rules/, one file each.

Glossary:

    training setup   what build() returns: model, inputs, optimizers, loss, step (class `Setup`)
    Trace            the record of one run
    Op, Event        one call of a torch operation; one change of state (freeze, optimizer, mode, write, ...)
    Flow             the facts derived from a trace
    cut              a place where the gradient path from the loss to a parameter ends (detach, no_grad, .item())
    starved          trainable, data reaches the loss, no gradient comes back; reports say "no gradient"
    fqn              the fully qualified name of a parameter: encoder.layer.0.weight
    Rule             one mistake that gradlint looks for
    Finding          one mistake that it found, at the line that caused it
    Severity         error: training is wrong; warning: wasted work or a trap; info: often intended
    rule pack        an installed package of rules (entry point group gradlint.rules)
"""

import os
import sys

# `python -m gradlint` puts the working directory first on the path, before this file runs and nothing else has been
# imported. What lies there is to be read, not run. A checkout of gradlint itself that is used in this way stays.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "gradlint":
    try:
        if sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
            del sys.path[0]
    except OSError:  # the working directory is gone, and nothing lies in it
        pass

from typing import TYPE_CHECKING

from gradlint._version import __version__ as __version__
from gradlint.lazy import lazy_names

if TYPE_CHECKING:
    from gradlint.api.check import check as check
    from gradlint.api.check import gradient_map as gradient_map
    from gradlint.api.check import summary as summary
    from gradlint.api.check import trace as trace
    from gradlint.api.fx import fx_graph as fx_graph
    from gradlint.api.recording import Recording as Recording
    from gradlint.api.recording import TrainingFault as TrainingFault
    from gradlint.api.recording import record as record
    from gradlint.errors import GradlintError as GradlintError
    from gradlint.errors import TargetError as TargetError
    from gradlint.errors import UsageError as UsageError
    from gradlint.findings import Edit as Edit
    from gradlint.findings import Finding as Finding
    from gradlint.findings import Fix as Fix
    from gradlint.findings import GradientMap as GradientMap
    from gradlint.findings import Related as Related
    from gradlint.findings import Report as Report
    from gradlint.findings import Severity as Severity
    from gradlint.findings import Summary as Summary
    from gradlint.flow.flow import Flow as Flow
    from gradlint.integrations.ipython import load_ipython_extension as load_ipython_extension
    from gradlint.load.setup import Setup as Setup
    from gradlint.location import Location as Location
    from gradlint.markers import constant as constant
    from gradlint.markers import differentiable as differentiable
    from gradlint.rulekit.context import Context as Context
    from gradlint.rulekit.rule import Rule as Rule
    from gradlint.rulekit.source_context import SourceContext as SourceContext
    from gradlint.source.file import SourceModule as SourceModule
    from gradlint.traces.events import Event as Event
    from gradlint.traces.ops import ModuleCall as ModuleCall
    from gradlint.traces.ops import Op as Op
    from gradlint.traces.ops import Value as Value
    from gradlint.traces.sites import Frame as Frame
    from gradlint.traces.trace import Gradient as Gradient
    from gradlint.traces.trace import Group as Group
    from gradlint.traces.trace import Module as Module
    from gradlint.traces.trace import Optimizer as Optimizer
    from gradlint.traces.trace import Parameter as Parameter
    from gradlint.traces.trace import Trace as Trace
    from gradlint.traces.training import Step as Step
    from gradlint.traces.training import Training as Training
else:
    __getattr__, __dir__ = lazy_names(__name__)
