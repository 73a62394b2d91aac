"""Compares the forms of one program: with a loss, with a step, with both, and as a script under ``run``.

``python tests/kit/forms.py [NAME ...] [--corpus FOLDER]`` prints the differences. NAME is the stem of a fixture file or
a part of a builder's id. A builder with a loss gets the step of tests/kit/loop.py, which clears, runs the forward and
the loss, propagates back and steps; its script executes the file as ``__main__`` and calls that step again and again.
A builder with a step of its own keeps it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import functools
import io
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loop
import script
import table
import torch
from table import Builder

from gradlint import Finding, Report, Rule, Setup, Severity, TargetError, Trace
from gradlint.api.explain import _explain
from gradlint.engine.check import Options, check_trace, record_target
from gradlint.engine.options import declared
from gradlint.experiments.settle import analyse
from gradlint.flow.evidence import NOT_ASKED
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import OutcomeKind, outcome_of
from gradlint.load.setup import normalize, optimizers_of
from gradlint.lock.take import take
from gradlint.recorder.user_code import seed
from gradlint.restore.preserved import Preserved
from gradlint.rulekit import registry

MODEL = "model"
"""The variable for a script's only network."""
LOOP = "the loop"
BY_SOURCE = frozenset({"GL103", "GL210"})
"""Codes of the rules that ask the source of executed functions what a recording does not show."""


class Form(enum.Enum):
    """How a program is given to gradlint."""

    LOSS = "loss"
    BOTH = "loss and step"
    STEP = "step"
    SCRIPT = "script"


class Inexpressible(Exception):
    """The builder has not what a form needs."""


@dataclass(frozen=True)
class Said:
    """A finding, as far as the forms can agree on it."""

    code: str
    place: str
    """Line of the builder's file; LOOP for a line of tests/kit/loop.py."""
    parameters: tuple[str, ...]
    severity: str
    undeclared: bool = False
    """True if it names a parameter that is not of the declared model."""

    def __str__(self) -> str:
        return f"{self.code} {self.severity} {self.place} ({', '.join(self.parameters)})"


@dataclass
class Verdict:
    """What gradlint says of one form."""

    form: Form
    outcomes: dict[str, OutcomeKind] = field(default_factory=dict)
    said: set[Said] = field(default_factory=set)
    skipped: frozenset[str] = frozenset()
    """Codes of the rules that could not judge."""
    undecided: frozenset[str] = frozenset()
    """Parameters whose outcome only a second run of the program would tell."""
    optimizers: int = 0
    schedulers: int = 0
    error: str = ""
    """The one failure that kept gradlint from a verdict."""
    flow: Flow | None = None
    report: Report | None = None


# -- recording --------------------------------------------------------------------------------------------------------


@functools.cache
def _rules() -> tuple[type[Rule], ...]:
    return registry.load(packs=False).rules


@functools.lru_cache(maxsize=1)
def verdicts(builder: Builder) -> dict[Form, Verdict]:
    """Return the verdict on each form in which a builder can be expressed."""
    found = {}
    for form in Form:
        with contextlib.suppress(Inexpressible), quiet():
            found[form] = _verdict(builder, form)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what fixtures print and warn of, and put back the state of the process."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), Preserved(()):
        warnings.simplefilter("ignore")
        yield


def _verdict(builder: Builder, form: Form) -> Verdict:
    verdict = Verdict(form)
    try:
        if form is Form.SCRIPT:
            trace = _script(builder)
            flow = analyse(trace, None)
        else:
            with record_target(builder.target, Options(amend=lambda setup: _in_form(setup, form))) as recorded:
                trace = recorded.trace
                flow = analyse(trace, recorded.replay)
    except TargetError as error:
        verdict.error = str(error)
        return verdict
    report = check_trace(trace, _rules(), Options(), flow.evidence)
    verdict.error = "; ".join(failure.message for failure in report.errors)
    verdict.flow, verdict.report = flow, report
    verdict.skipped = frozenset(skipped.code for skipped in report.skipped)
    names = _names(builder, trace)
    if flow.why_undecided == NOT_ASKED.reason:
        verdict.undecided = frozenset(names.get(p.fqn, p.fqn) for p in flow.by_index(flow.undecided))
    verdict.optimizers = len(trace.optimizers)
    verdict.schedulers = len(trace.training.schedulers) if trace.training is not None else 0
    verdict.outcomes = {names[p.fqn]: outcome_of(flow, p).kind for p in trace.parameters if p.fqn in names}
    verdict.said = {_said(builder, finding, names) for finding in report.findings}
    return verdict


def _said(builder: Builder, finding: Finding, names: Mapping[str, str]) -> Said:
    where = "nowhere"
    if finding.location is not None:
        path = Path(finding.location.path)
        where = str(finding.location.line) if path == builder.path else f"{path.name}:{finding.location.line}"
        where = LOOP if path == Path(loop.__file__) else where
    parameters = tuple(sorted({names.get(name, name) for name in finding.parameters}))
    undeclared = not names.keys() >= set(finding.parameters)
    return Said(finding.code, where, parameters, str(finding.severity), undeclared)


def _names(builder: Builder, trace: Trace) -> dict[str, str]:
    """Return name of a parameter in a trace → its name in the declared model; others are left out.

    A script has its own names for its networks: a variable's where there are several, none for a single one.
    """
    declared = _declared(builder)
    first = {name.partition(".")[2]: name for name in declared}
    names = {}
    for fqn in (p.fqn for p in trace.parameters):
        below = fqn.removeprefix(f"{MODEL}.")
        if fqn in declared or below in declared:
            names[fqn] = fqn if fqn in declared else below
        elif fqn in first and [name for name, _ in trace.setup.models] == [""]:
            names[fqn] = first[fqn]
    return names


@functools.cache
def has_own_step(builder: Builder) -> bool:
    """Return True if a builder gives a step beside its loss."""
    setup = _made(builder)
    return setup.step is not None and setup.loss is not None


@functools.cache
def evaluates(builder: Builder) -> bool:
    """Return True if a builder declares that its model runs in eval mode."""
    return _made(builder).train is False


def _made(builder: Builder) -> Setup:
    """What a builder returns; a grad mode that it leaves off does not stay so."""
    with torch.enable_grad():
        return normalize(builder.load()())


@functools.cache
def _declared(builder: Builder) -> frozenset[str]:
    """Return the names of the parameters of the model that a builder declares."""
    model = normalize(builder.load()()).model
    models = model if isinstance(model, Mapping) else {"": model} if model is not None else {}
    return frozenset(f"{k}.{n}" if k else n for k, m in models.items() for n, _ in m.named_parameters())


def _in_form(setup: Setup, form: Form) -> Setup:
    if form is Form.LOSS:
        if setup.loss is None:
            raise Inexpressible
        return dataclasses.replace(setup, step=None)
    step = step_of(setup)
    if form is Form.BOTH:
        if setup.loss is None:
            raise Inexpressible
        return dataclasses.replace(setup, step=step)
    return dataclasses.replace(setup, loss=None, inputs=None, step=step)


def step_of(setup: Setup) -> Callable[[], Any]:
    """Return a setup's own step, or the one that follows from its loss."""
    if setup.step is not None:
        return setup.step
    if setup.loss is None or setup.inputs is None or setup.model is None:
        raise Inexpressible
    optimizers = list(optimizers_of(setup).values())
    if any(isinstance(o, torch.optim.LBFGS) for o in optimizers):
        raise Inexpressible  # its step needs a closure
    return loop.round_of(setup.model, setup.inputs, optimizers, setup.loss)


def _script(builder: Builder) -> Trace:
    """Return the trace of a builder's file run as a script, which trains for three rounds."""
    main = types.ModuleType("__main__")
    main.__file__ = str(builder.path)
    code = compile(builder.path.read_text(encoding="utf-8"), str(builder.path), "exec")

    def run() -> None:
        exec(code, vars(main))
        setup = normalize(getattr(main, builder.name)())
        models = setup.model if isinstance(setup.model, Mapping) else {"": setup.model}
        vars(main).update({name or MODEL: model for name, model in models.items()})
        if setup.train is not None or not any(m.training for m in models.values() if m is not None):
            for model in models.values():
                if model is not None:
                    model.train(setup.train is not False)
        step = step_of(setup)
        seed()
        for _ in range(loop.ROUNDS + 1):
            step()

    try:
        return script.recorded(builder.target, loop.ROUNDS, main, run)
    except (Inexpressible, TargetError):
        raise
    except Exception as error:
        raise TargetError(f"the script raised {type(error).__name__}: {error}") from error


# -- comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One thing that two forms say differently."""

    builder: str
    forms: str
    text: str

    def __str__(self) -> str:
        return f"{self.builder}: {self.forms}: {self.text}"


@dataclass(frozen=True)
class Pair:
    """Two forms of one builder, one of which says something that the other does not."""

    builder: Builder
    here: Verdict
    there: Verdict
    own_step: bool
    """True if the step is the builder's own, and need not be the program that its loss belongs to."""


Explains = Callable[[Pair, str, Said | None], bool]

REASONS: dict[str, Explains] = {
    "a rule needs a part that a form lacks": lambda pair, name, said: (
        said is not None and said.code in pair.there.skipped
    ),
    "the step of a builder is another program than its loss": lambda pair, name, said: (
        pair.own_step
        and _forms(pair) != {Form.STEP, Form.SCRIPT}
        and not (said is not None and pair.here.form is Form.LOSS and pair.there.form is Form.BOTH)
    ),
    "only a program that can be run again shows whether a value that left torch counts": lambda pair, name, said: bool(
        {name, *(said.parameters if said else ())} & (pair.here.undecided | pair.there.undecided)
    ),
    "a loss alone does not say what an optimizer that it does not reach is for": lambda pair, name, said: (
        Form.LOSS in _forms(pair) and bool({name, *(said.parameters if said else ())} & _unknown(pair))
    ),
    "a step and a script declare no inputs": lambda pair, name, said: (
        said is not None and any(part.startswith("inputs[") for part in said.parameters)
    ),
    "a script has networks that no setup declares": lambda pair, name, said: (
        said is not None and said.undeclared and pair.here.form is Form.SCRIPT
    ),
    "a script names networks that no setup declares by its variables": lambda pair, name, said: (
        said is not None
        and said.undeclared
        and pair.there.form is Form.SCRIPT
        and any((s.code, s.place) == (said.code, said.place) for s in pair.there.said)
    ),
    "a script has optimizers that no setup declares": lambda pair, name, said: (
        Form.SCRIPT in _forms(pair) and pair.here.optimizers != pair.there.optimizers
    ),
    "a step has the modes of its begin, a script those of its first backward pass": lambda pair, name, said: (
        _forms(pair) == {Form.STEP, Form.SCRIPT} and said is not None and said.code == "GL604"
    ),
    "a script's forward before its training cannot be told from one of its steps": lambda pair, name, said: (
        pair.there.form is Form.SCRIPT and said is not None and said.code == "GL212"
    ),
    "a script declares no model that a network of the loss could stand beside": lambda pair, name, said: (
        pair.there.form is Form.SCRIPT and said is not None and said.code == "GL302" and said.severity == "info"
    ),
    "a script cannot declare that it evaluates on purpose": lambda pair, name, said: (
        pair.here.form is Form.SCRIPT and said is not None and said.code == "GL505" and evaluates(pair.builder)
    ),
    "the loop steps no scheduler": lambda pair, name, said: (
        said is not None and said.code == "GL303" and bool(pair.here.schedulers)
    ),
    "a script before Python 3.12 does not tell which functions without torch calls ran": lambda pair, name, said: (
        sys.version_info < (3, 12) and pair.there.form is Form.SCRIPT and said is not None and said.code in BY_SOURCE
    ),
}
"""Reason → whether it explains that `here` says something of a parameter, or in a finding, and `there` does not."""

REFUSED = {
    "a graph that is made once serves one backward pass": "backward through the graph a second time",
    "torch refuses the backward pass of a loss without gradient": "does not require grad and does not have a grad_fn",
}
"""Reason → part of an error that the user's own training would end in."""


CASES = {
    "aliased_network-bad_values_handed_over": "a script takes the module of a smoke test for a network of its own",
    "frozen_norm_updates_stats-bad_frozen_encoder_before_a_generator": "a loss alone may have turns that come later",
    "no_grad_upstream-good_frozen_in_the_forward": "the forward freezes what the loss, then the steps, are judged by",
    "nothing_trains-good_average_kept_by_an_optimizer_of_its_own": "a script knows the networks by other names",
    "optimizer_never_steps-good_generator_every_fifth_time": "three rounds of a script end before the fifth",
    "optimizer_never_steps-good_accumulated_over_many_calls": "three rounds of a script end before the first step",
    "optimizer_never_steps-good_gradients_of_a_worker": "a script knows the networks by other names",
    "unused_parameter-bad_noise_decides_nothing": "a model that draws at random runs other layers in each form",
    "unused_parameter-good_condition_left_out_by_a_random_tensor": "random numbers decide what runs in each form",
    "unused_parameter-good_condition_left_out_by_chance": "random numbers decide what runs in each form",
    "wrapper_trained_around-good_penalty_alone": "a script knows only the networks that run, and this one never does",
    "zero_gradient-good_tasks_in_turns": "a loss alone runs one task, a step and a script all of them",
    "zero_learning_rate_group-bad_everything": "a loss alone does not show that the rate stays at zero",
    "requires_grad_on_module-bad_setattr_in_a_helper": "a script does not know the helper before Python 3.12",
}
"""Builder → the reason why its forms differ, where no kind of reason above fits."""


def _forms(pair: Pair) -> set[Form]:
    return {pair.here.form, pair.there.form}


def _unknown(pair: Pair) -> set[str]:
    alone = pair.here if pair.here.form is Form.LOSS else pair.there
    return {name for name, kind in alone.outcomes.items() if kind is OutcomeKind.UNKNOWN}


def differences(builder: Builder, found: Mapping[Form, Verdict] | None = None) -> Iterator[Difference]:
    """Yield what the forms of a builder say differently without a reason."""
    if builder.id in CASES:
        return
    found = verdicts(builder) if found is None else found
    own_step = has_own_step(builder)
    forms = list(found.values())
    for number, one in enumerate(forms):
        for other in forms[number + 1 :]:
            pair = f"{one.form.value} / {other.form.value}"
            for text in _between(builder, one, other, own_step):
                yield Difference(builder.id, pair, text)


def _between(builder: Builder, one: Verdict, other: Verdict, own_step: bool) -> Iterator[str]:
    if one.error or other.error:
        if bool(one.error) != bool(other.error):
            broken, sound = (one, other) if one.error else (other, one)
            is_loud = any(s.severity != "info" for s in sound.said)
            if not is_loud and not any(part in broken.error for part in REFUSED.values()):
                yield f"{broken.form.value} ends in an error, {sound.form.value} is clean: {broken.error}"
        return
    for name in sorted(one.outcomes.keys() | other.outcomes.keys()):
        a, b = one.outcomes.get(name), other.outcomes.get(name)
        pair = Pair(builder, one, other, own_step)
        if a is not b and not any(explains(pair, name, None) for explains in REASONS.values()):
            yield f"{name}: {a.value if a else 'absent'} / {b.value if b else 'absent'}"
    for here, there in ((one, other), (other, one)):
        pair = Pair(builder, here, there, own_step)
        for said in sorted(here.said, key=str):
            if not any(_agree(said, s) for s in there.said):
                if not any(explains(pair, "", said) for explains in REASONS.values()):
                    yield f"only {here.form.value}: {said}"


def _agree(one: Said, other: Said) -> bool:
    """Return True if two findings are the same; a loss without a line of its own is blamed where it is called."""
    places = {one.place, other.place}
    return (one.code, one.parameters, one.severity) == (other.code, other.parameters, other.severity) and (
        len(places) == 1 or LOOP in places
    )


# -- one form ---------------------------------------------------------------------------------------------------------


def contradictions(verdict: Verdict) -> Iterator[str]:
    """Yield where summary, lock, contract, `why` and findings of one form say different things of a parameter."""
    flow, report = verdict.flow, verdict.report
    if flow is None or report is None or verdict.error:
        return
    trace, form = flow.trace, verdict.form.value
    mine = [p for p in trace.parameters if p.in_tree]
    kinds = {p.fqn: outcome_of(flow, p).kind for p in mine}
    counted = report.targets[0]
    for count, kind in [
        (counted.reached, OutcomeKind.TRAINS),
        (counted.frozen, OutcomeKind.FROZEN),
        (counted.starved, OutcomeKind.NO_GRADIENT),
        (counted.unused, OutcomeKind.UNUSED),
        (counted.not_in_optimizer, OutcomeKind.NOT_IN_OPTIMIZER),
        (counted.zero_rate, OutcomeKind.ZERO_LR),
    ]:
        told = sum(k is kind for k in kinds.values())
        if count != told:
            yield f"{form}: the summary counts {count} for {kind.value}, outcomes {told}"
    locked = {name: entry.outcome for name, entry in take(trace, flow).entries.items()}
    if locked != {name: kinds[name] for name in locked}:
        yield f"{form}: the lock differs from the outcomes"
    stated = {p.fqn: _explain(trace, flow, p).state.partition(":")[0] for p in mine}
    yield from (f"{form}: why says {stated[n]} of {n}" for n, kind in kinds.items() if stated[n] != kind.value)
    unknown = {name for name, kind in kinds.items() if kind is OutcomeKind.UNKNOWN}
    unknown |= {p.fqn for p in mine if not p.numel}  # a contract spares a parameter without elements
    contract = check_trace(
        trace, _contract_rules(), Options(contract=declared(["*"]), own_contract=False), flow.evidence
    )
    broken = {name for finding in contract.findings for name in finding.parameters}
    still = {name for name, kind in kinds.items() if kind is not OutcomeKind.TRAINS}
    if broken - unknown != still - unknown:
        yield f"{form}: a contract finds {sorted(broken ^ still)} differently"
    found = {name for finding in report.findings for name in finding.parameters}
    loud = any(finding.severity > Severity.INFO for finding in report.findings)
    silent = sorted(n for n, kind in kinds.items() if kind is OutcomeKind.NO_GRADIENT and n not in found)
    if silent and not loud:
        yield f"{form}: no finding tells why {', '.join(silent)} get no gradient"


@functools.cache
def _contract_rules() -> tuple[type[Rule], ...]:
    return tuple(rule for rule in _rules() if rule.code == "GL701")


# -- the command ------------------------------------------------------------------------------------------------------


def builders(names: Sequence[str] = ()) -> list[Builder]:
    """Return the builders of the rules' fixtures whose ids contain any of the names; all without names."""
    every = [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")]
    wanted = [name.replace("-", "_") for name in names]
    return [b for b in every if not names or any(w in b.id.replace("-", "_") for w in wanted)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--corpus", type=Path, help="compare the files of a folder (bad/*.py, good/*.py) instead")
    given = parser.parse_args(arguments)
    chosen = builders(given.names)
    if given.corpus:
        paths = sorted(given.corpus.resolve().glob("*/*.py"))
        chosen = [b for path in paths for b in table.builders(path, "build")]
        chosen = [b for b in chosen if not given.names or any(n in b.path.stem for n in given.names)]
    wrong = number = 0
    for builder in chosen:
        found = verdicts(builder)
        number += len(found) > 1
        different = list(differences(builder, found))
        wrong += len(different)
        for d in different:
            print(d, flush=True)
        for text in (text for verdict in found.values() for text in contradictions(verdict)):
            print(f"{builder.id}: {text}", flush=True)
            wrong += 1
    print(f"{number} of {len(chosen)} builders in several forms, {wrong} differences")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
