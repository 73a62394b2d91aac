"""The context of a rule: one recorded training setup or source file, and the means to report findings."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol, TypeVar

from gradlint.findings import Finding, Fix, Related, Reporter, Severity
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import OutcomeKind, outcome_of
from gradlint.location import Location
from gradlint.rulekit.contract import Contract, Declaration, own_declarations, resolve
from gradlint.rulekit.executed_code import choice_location, uncalled_method_statements
from gradlint.source.notebook import within_cell
from gradlint.traces.events import Event, Freeze
from gradlint.traces.ids import SiteId
from gradlint.traces.trace import GradientSizes, Module, Optimizer, Parameter, Trace
from gradlint.traces.training import Training
from gradlint.wording import INFLECTED, inflect, summarize_names

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")
"""Functions that Python makes of comprehensions before 3.12: what stands in one is not called by the code around it."""
_MAY_TRAIN = frozenset((OutcomeKind.TRAINS, OutcomeKind.UNKNOWN))
"""Outcomes that no finding contradicts which says that parameters train."""


class Yielding(Protocol):
    """A rule, as far as its precedence goes."""

    @property
    def yields_to(self) -> frozenset[str]: ...


class _Fields(dict[str, object]):
    """The fields of a template about parameters."""

    def __init__(self, parameters: Sequence[Parameter], fields: dict[str, object]) -> None:
        super().__init__(fields)
        self._parameters = parameters

    def __missing__(self, word: str) -> str:
        if word not in INFLECTED:
            raise KeyError(f"{{{word}}} is neither a field nor one of {', '.join(sorted(INFLECTED))}")
        return inflect(self._parameters, word.replace("_", " "))


class Context:
    """One recorded training setup and the facts derived from it."""

    def __init__(self, trace: Trace, flow: Flow, declarations: Sequence[Declaration] | None = None) -> None:
        self.trace = trace
        """The recording: ops, events, parameters, modules, optimizers."""
        self.flow = flow
        """The parameters that data flows from and gradient flows to, and the cuts."""
        self.reported: dict[str, set[str]] = {}
        """Code of each rule that has run → names of the parameters that it reported."""
        self._declarations = declarations

    @cached_property
    def contract(self) -> Contract:
        """The parameters declared to train or to be frozen, by the setup itself and by the configuration.

        Raises:
            TargetError: two declarations contradict each other.
        """
        declared = own_declarations(self.trace) if self._declarations is None else self._declarations
        return resolve(self.trace, declared)

    @property
    def training(self) -> Training:
        """The recorded training steps; for rules that need ``step``."""
        training = self.trace.training
        assert training is not None, "only a rule that needs a step may ask for it"
        return training

    @property
    def gradient_sizes(self) -> GradientSizes:
        """The measured gradients; for rules that need ``numeric``."""
        numeric = self.flow.evidence.gradients
        assert numeric is not None, "only a rule that needs numeric may ask for it"
        return numeric

    def has(self, need: str) -> str | None:
        """Return None if the setup has what a rule needs, else the reason why not."""
        trace, training, numeric = self.trace, self.trace.training, self.flow.evidence.gradients
        if need == "contract" and not self.contract.declarations:
            return "nothing is declared to train or to be frozen"
        if need == "optimizer" and not trace.optimizers:
            return "no optimizer given"
        if need == "forward" and trace.forward_start >= len(trace.ops) and not trace.roots:
            return "no backward pass was recorded" if training is not None and training.steps else "no forward was run"
        if need == "loss" and self.flow.waits_for_step:
            return "the training setup has a step and no loss, and its step ran no backward pass"
        if need == "gradient" and self.flow.loss_lacks_gradient:
            return "the loss does not require grad"
        if need == "step" and training is None:
            return "no step given"
        if need == "step" and training is not None and not (training.backwards or training.steps):
            return "the step ran no backward pass"
        if need == "numeric or step":
            return self.has("numeric") if self.has("step") is not None else None
        if need == "numeric" and numeric is None:
            return "gradients are measured with --numeric only"
        if need == "numeric" and numeric is not None and numeric.failure:
            return "no gradient could be measured"
        return None

    def finding(
        self,
        rule: Reporter,
        message: str,
        at: Location | SiteId | None,
        parameters: Iterable[Parameter] = (),
        related: Iterable[Related | None] = (),
        fix: Fix | None = None,
        severity: Severity | None = None,
        demoted: bool = False,
        aliases: bool = False,
        named: Iterable[str] = (),
    ) -> Finding:
        """Return a finding of a rule, with its parameters in the model's order.

        Args:
            rule: the rule that reports it.
            message: one or two sentences that name the call, its effect and the parameters.
            at: a location or a site.
            parameters: the parameters it hits.
            related: other places; unknown ones (None), repeated ones and the primary location itself are left out.
            fix: how to mend it.
            severity: another severity than the rule's.
            demoted: report it as info.
            aliases: list each parameter under all of its names.
            named: names of tensors that are no parameter of the model.
        """
        where = self.trace.location(at) if isinstance(at, int) else at
        if where is not None and where in self._freezes:
            related = (*related, self.related("chosen here", choice_location(self.trace, self._freezes[where])))
        ordered = sorted({p.index: p for p in parameters}.values(), key=lambda p: p.index)
        places: dict[tuple[str, int], Related] = {}
        for place in related:
            if place is not None and (where is None or place.location != where):
                places.setdefault((place.location.path, place.location.line), place)
        return Finding(
            target=self.trace.target,
            code=rule.code,
            name=rule.name,
            severity=Severity.INFO if demoted else rule.severity if severity is None else severity,
            message=message,
            location=where,
            parameters=(*(name for p in ordered for name in (p.aliases if aliases else (p.fqn,))), *named),
            related=tuple(places.values()),
            fix=fix,
        )

    @cached_property
    def _freezes(self) -> dict[Location | None, SiteId]:
        """Location of each freeze → its site."""
        return {self.trace.location(site): site for site in {e.site for e in self.trace.events_of(Freeze)}}

    def related(self, message: str, at: Location | SiteId | Event | None) -> Related | None:
        """Return a related place; None if it is unknown."""
        if at is None:
            return None
        if not isinstance(at, (int, Location)):
            at = at.site
        where = self.trace.location(at) if isinstance(at, int) else at
        return Related(message, where) if where is not None else None

    def place(self, at: Location | SiteId | Event | None) -> str:
        """Return a place for a message, as ``train.py:31``; an empty text if it is unknown.

        In a notebook it is ``train.ipynb:cell 3:5``.
        """
        place = self.related("", at)
        if place is None:
            return ""
        cell, inner = within_cell(place.location)
        name = os.path.basename(inner.path)
        return f"{name}:cell {cell}:{inner.line}" if cell else f"{name}:{inner.line}"

    def by_user(self, site: SiteId) -> bool:
        """Return True if the innermost frame of a site is in the user's project."""
        frame = self.trace.sites.innermost(site) if site >= 0 else None
        return frame is not None and frame.project

    def callers(self, site: SiteId, message: str = "called here", limit: int = 3) -> Iterator[Related]:
        """Yield the frames of user code above the one that is blamed for a site, innermost first."""
        blamed = self.trace.frame(site)
        passed = in_comprehension = False
        count = 0
        for frame in self.trace.sites.chain(site):
            if passed and frame.project and not in_comprehension and count < limit:
                count += 1
                yield Related(message, frame.location)
            passed = passed or frame is blamed
            in_comprehension = frame.function.endswith(_COMPREHENSIONS)

    def created(self, optimizer: Optimizer) -> Related | None:
        """Return the place where an optimizer is created; None if it is unknown."""
        return self.related(f"{optimizer.type} is created here", optimizer.site)

    def uncalled(self, method: str) -> list[Related]:
        """Return the executed statements that name a method without a call: ``optimizer.zero_grad``."""
        places = uncalled_method_statements(self.trace, method)
        return [Related("referenced here, but not called", place) for place in places]

    def names(self, parameters: Iterable[Parameter]) -> str:
        """Return names and counts of parameters: ``encoder.* (148 tensors, 85.1M parameters)``."""
        return summarize_names(list(parameters), self.trace.parameters)

    def without_freeze(self, parameters: Sequence[Parameter]) -> str:
        """Return what parameters do that are not frozen, although they were to be: ``still train``.

        Other findings may say that some get no gradient, so only the flag is named then.
        """
        kinds = {outcome_of(self.flow, p).kind for p in parameters}
        train = any(map(self.flow.meant_to_train, parameters)) and kinds <= _MAY_TRAIN
        return inflect(parameters, "still train") if train else inflect(parameters, "still require") + " grad"

    def fill(self, template: str, parameters: Sequence[Parameter], **fields: object) -> str:
        """Return a template with its placeholders filled in.

        ``{parameters}`` becomes `names`, and ``{still_train}`` becomes `without_freeze`. A placeholder without a field
        is one of the words `INFLECTED`, which is inflected for the parameters: ``{are}``, ``{them}``.

        Raises:
            KeyError: a placeholder is neither a field nor such a word.
        """
        fixed: dict[str, object] = {"parameters": self.names(parameters)}
        if "{still_train}" in template:
            fixed["still_train"] = self.without_freeze(parameters)
        return template.format_map(_Fields(parameters, fixed | fields))

    def by_place(self, items: Iterable[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
        """Return items grouped by a key, in the order in which each key first appears.

        The key is a site, a location, or a tuple with all that the items of one finding have in common.
        """
        groups: dict[K, list[T]] = {}
        for item in items:
            groups.setdefault(key(item), []).append(item)
        return list(groups.items())

    def reported_before(self, rule: Yielding) -> set[str]:
        """Return the names of the parameters that the rules reported to which this one yields."""
        return {name for code in rule.yields_to for name in self.reported.get(code, ())}

    def unreported(self, rule: Yielding, parameters: Iterable[Parameter]) -> list[Parameter]:
        """Return the parameters that no rule has reported to which this one yields."""
        names = self.reported_before(rule)
        return [p for p in parameters if p.fqn not in names]

    def freeze_site(self, module: Module, parameters: Iterable[Parameter]) -> SiteId:
        """Return the site of a freeze of some parameters, else where their module was registered."""
        freeze = self.first_freeze(parameters)
        return freeze.site if freeze is not None else module.registered_at

    def first_freeze(self, parameters: Iterable[Parameter]) -> Freeze | None:
        """Return the event that froze the first parameter with a known one; None if none is known."""
        return next((event for p in parameters if (event := p.frozen_by) is not None), None)
