"""What a rule is. Everything that a rule needs is reached from here; importing it imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from gradlint.findings import Finding, Fix, Related, Severity
from gradlint.location import Location

if TYPE_CHECKING:
    from gradlint.flow.flow import Flow
    from gradlint.rulekit.contract import Contract, Declaration
    from gradlint.source.file import SourceModule
    from gradlint.traces.trace import Event, Parameter, Trace

ON_REQUEST = frozenset({"numeric", "contract"})
"""Needs that a set-up lacks unless somebody asks for what they serve."""


class Rule:
    """One mistake that gradlint looks for.

    A subclass states its class attributes, a docstring under the headings *What it does*, *Why it is bad*, *Example*,
    *Use instead*, *Known limits*, *References*, and one or both of `check`, which judges a recorded set-up, and
    `check_source`, which judges a source file.
    """

    code: ClassVar[str]
    """For example ``GL401``; never changes once released."""
    name: ClassVar[str]
    """In kebab case; reads naturally after "allow …"."""
    severity: ClassVar[Severity]
    """The usual severity; a single finding may weigh less."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What the set-up must have for the rule to judge: any of ``optimizer``, ``forward``, ``loss``,
    ``gradient`` (a loss that requires grad), ``step``, ``numeric``, ``contract``."""

    marks: ClassVar[tuple[str, ...]] = ()
    """What stands in every file in which `check_source` can find something, each as alternatives, for example
    ``("softmax|Softmax", "cross_entropy")``. Others are never parsed for this rule. Plain text, found faster than a
    pattern."""
    blames: ClassVar[str] = ""
    """A regular expression that every statement matches that `check` or `check_source` can blame, where there is one: a
    suppression on any other statement is unused without a recording that says so."""
    same_as: ClassVar[frozenset[str]] = frozenset()
    """Codes of rules whose finding in a recording, on the same line, is of the same mistake as its own in source."""
    recording_decides: ClassVar[bool] = False
    """Whether what `check` says of a set-up is final: `check_source` is then not asked about code that it saw run."""

    def check(self, context: Context) -> Iterable[Finding]:
        """Yield what is wrong with one recorded set-up."""
        return ()

    def check_source(self, module: SourceModule) -> Iterable[Finding]:
        """Yield what the syntax tree of one file proves to be wrong. Nothing of it is run; torch is not imported."""
        return ()

    @classmethod
    def judges_recordings(cls) -> bool:
        """Whether it has a `check` of its own."""
        return cls.check is not Rule.check

    @classmethod
    def judges_source(cls) -> bool:
        """Whether it has a `check_source` of its own."""
        return cls.check_source is not Rule.check_source


class Context:
    """One recorded set-up and what was worked out about it, as a rule sees them."""

    def __init__(self, trace: Trace, flow: Flow, declarations: Sequence[Declaration] | None = None) -> None:
        self.trace = trace
        """The recording: ops, events, parameters, modules, optimizers."""
        self.flow = flow
        """Which parameters data flows from and gradient flows to, and the cuts between."""
        self._declarations = declarations

    @cached_property
    def contract(self) -> Contract:
        """What the parameters are declared to do: by the set-up itself and, beside it, by the one who checks.

        Raises:
            TargetError: two declarations contradict each other.
        """
        from gradlint.rulekit.contract import own_declarations, resolve

        declared = own_declarations(self.trace) if self._declarations is None else self._declarations
        return resolve(self.trace, declared)

    def has(self, need: str) -> str | None:
        """None if the set-up has what a rule needs, else the reason why it has not."""
        if need == "contract" and not self.contract.declarations:
            return "nothing is declared to train or to be frozen"
        if need == "optimizer" and not self.trace.optimizers:
            return "no optimizer given"
        if need == "forward" and self.trace.forward_start >= len(self.trace.ops) and not self.trace.roots:
            return "no forward was run"
        if need == "loss" and self.flow.waits_for_step:
            return "the set-up has a step and no loss, and its step ran no backward pass"
        if need == "gradient" and self.flow.loss_lacks_gradient:
            return "the loss does not require grad"
        if need == "step" and self.trace.training is None:
            return "no step given"
        training = self.trace.training
        if need == "step" and training is not None and not (training.backwards or training.steps):
            return "the step ran no backward pass"
        if need == "numeric" and self.trace.numeric is None:
            return "gradients are measured with --numeric only"
        if need == "numeric" and self.trace.numeric is not None and self.trace.numeric.failure:
            return "no gradient could be measured"
        return None

    def finding(
        self,
        rule: Rule,
        message: str,
        at: Location | int | None,
        parameters: Iterable[Parameter] = (),
        related: Iterable[Related | None] = (),
        fix: Fix | None = None,
        severity: Severity | None = None,
        aliases: bool = False,
        named: Iterable[str] = (),
    ) -> Finding:
        """A finding of a rule. `at` is a location or a site; parameters are ordered as in the model, and with `aliases`
        each stands under all of its names. `named` are names of what is no parameter of the set-up.

        Related places that are unknown (None), doubled, or the primary location itself are left out.
        """
        where = self.trace.location(at) if isinstance(at, int) else at
        ordered = sorted({p.index: p for p in parameters}.values(), key=lambda p: p.index)
        places: dict[tuple[str, int], Related] = {}
        for place in related:
            if place is not None and (where is None or place.location != where):
                places.setdefault((place.location.path, place.location.line), place)
        return Finding(
            target=self.trace.target,
            code=rule.code,
            name=rule.name,
            severity=rule.severity if severity is None else severity,
            message=message,
            location=where,
            parameters=(*(name for p in ordered for name in (p.aliases if aliases else (p.fqn,))), *named),
            related=tuple(places.values()),
            fix=fix,
        )

    def related(self, message: str, at: Location | int | Event | None) -> Related | None:
        """A related place; None where it is not known."""
        if at is None:
            return None
        if not isinstance(at, (int, Location)):
            at = at.site
        where = self.trace.location(at) if isinstance(at, int) else at
        return Related(message, where) if where is not None else None

    def place(self, at: Location | int | Event | None) -> str:
        """A place in words, for a message: ``train.py:31``; empty where it is not known."""
        known = self.related("", at)
        return f"{os.path.basename(known.location.path)}:{known.location.line}" if known is not None else ""

    def by_user(self, site: int) -> bool:
        """Whether the innermost frame of a site is the user's own code: it was not done for them by a library."""
        frame = self.trace.sites.innermost(site) if site >= 0 else None
        return frame is not None and frame.project

    def callers(self, site: int, message: str = "called here", limit: int = 3) -> Iterator[Related]:
        """The user's frames above the one that is blamed for a site, innermost first."""
        blamed = self.trace.frame(site)
        passed = False
        given = 0
        for frame in self.trace.sites.chain(site):
            if passed and frame.project and given < limit:
                given += 1
                yield Related(message, frame.location)
            passed = passed or frame is blamed

    def names(self, parameters: Iterable[Parameter]) -> str:
        """Parameters in words, grouped: ``encoder.* (148 parameters, 85.1 M)``."""
        from gradlint.wording import in_words

        return in_words(list(parameters), self.trace.parameters)
