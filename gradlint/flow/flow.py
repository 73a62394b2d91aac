"""Which parameters the loss depends on, which its gradient reaches, and the cuts that explain the difference.

Computed once from a trace and shared by rules, summaries and explanations.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

from gradlint.flow.added_numbers import added_numbers
from gradlint.flow.constant_terms import constant_terms
from gradlint.flow.cut import Cut
from gradlint.flow.cut_search import find_cuts
from gradlint.flow.dropped_terms import DroppedTerm, dropped_penalties, dropped_terms
from gradlint.flow.evidence import Evidence, Questions
from gradlint.flow.exits import apply_evidence, grouped_by_exit
from gradlint.flow.facts import FlowFacts
from gradlint.flow.frozen_optimizers import FrozenOptimizer, frozen_optimizers
from gradlint.flow.left_out import left_out_losses
from gradlint.flow.loss_terms import ConstantTerm, terms_behind
from gradlint.flow.parted import PartedOptimizer, parted_optimizers
from gradlint.flow.replaced import ReplacedParameter, replaced_parameters
from gradlint.flow.zero_factors import cuts_beside_zero_factors
from gradlint.location import Location
from gradlint.traces.ids import ParameterIndex, SiteId
from gradlint.traces.trace import Parameter, Trace

_FROM_EVIDENCE = (
    "relabels", "_constant_terms", "constant_terms", "dropped_terms", "left_out", "terms_behind", "partly_used",
)  # fmt: skip
"""The cached facts that evidence may change."""


@dataclass(frozen=True)
class Relabel:
    """A computed tensor that was made to require grad after its gradient was lost."""

    name: str
    site: SiteId
    parameters: list[Parameter]
    """Parameters whose data reaches the tensor and whose gradient does not return from it."""
    cuts: list[Cut]
    """Cuts before it; empty if the relabelling itself cuts the gradient."""


class Flow(FlowFacts):
    """The facts about a trace, and the cuts and terms that follow from them.

    It is computed from the trace and from evidence, and runs nothing. Where the recording leaves a question open
    (`open_questions`), the parameters concerned are undecided until there is evidence (`with_evidence`).
    """

    def __init__(self, trace: Trace, evidence: Evidence | None = None) -> None:
        super().__init__(trace, Evidence() if evidence is None else evidence)
        recorded = trace.training is not None and bool(trace.training.backwards)
        self.waits_for_step = trace.setup.has_step and not trace.setup.has_loss and not recorded
        self._search()

    def _search(self) -> None:
        """Settle the open questions by the evidence, and find the cuts."""
        groups = grouped_by_exit(self)
        apply_evidence(self, groups)
        self.cuts, unexplained = find_cuts(self)
        self._asked = Questions(tuple(groups.values()), unexplained)
        self._add_zero_factors()

    def _add_zero_factors(self) -> None:
        """Count parameters as starved whose only gradient has the factor 0, beside a cut."""
        self.only_zero = frozenset[ParameterIndex]()
        for cut, lost in list(cuts_beside_zero_factors(self)):
            known = next((c for c in self.cuts if (c.kind, c.location) == (cut.kind, cut.location)), None)
            if known is None:
                self.cuts = sorted([*self.cuts, cut], key=lambda c: c.op)
                known = cut
            known.starved += [p for p in lost if p not in known.starved]
            self.only_zero |= {p.index for p in lost}
        self.reached -= self.only_zero
        self.starved |= self.only_zero

    def open_questions(self, *, terms: bool = True) -> Questions:
        """Return what the recording alone cannot answer.

        With `terms`, questions about numbers in the loss are included.
        """
        if not terms:
            return self._asked
        return replace(self._asked, numbers=tuple(added_numbers(self)))

    def with_evidence(self, evidence: Evidence) -> Flow:
        """Return the flow of the same trace with evidence."""
        flow = copy.copy(self)
        for name in _FROM_EVIDENCE:
            vars(flow).pop(name, None)
        flow.evidence = evidence
        flow.reached = flow.trace.reached
        flow._divide()
        flow._search()
        return flow

    @cached_property
    def relabels(self) -> list[Relabel]:
        """The relabelled tensors on the way to the loss that starve parameters or a term of the loss."""
        by_location: dict[Location | None, Relabel] = {}
        lost: list[tuple[int, list[Cut], list[Parameter]]] = [
            (cut.relabelled, [cut], cut.starved) for cut in self.cuts if cut.relabelled is not None
        ]
        lost += [(t.relabelled, t.cuts, t.parameters) for t in self.constant_terms if t.relabelled is not None]
        for number, cuts, parameters in sorted(lost, key=lambda entry: entry[0]):
            op = self.trace.ops[number]
            merged = by_location.setdefault(self.trace.location(op.site), Relabel(op.name, op.site, [], []))
            merged.parameters.extend(p for p in parameters if p not in merged.parameters)
            merged.cuts.extend(c for c in cuts if c.op != number)
        return list(by_location.values())

    @cached_property
    def constant_terms(self) -> list[ConstantTerm]:
        """The terms of the loss that depend on trainable parameters but have no gradient.

        Terms behind a cut that starves parameters are left out.
        """
        return [term for term in self._constant_terms if not term.starves]

    @cached_property
    def _constant_terms(self) -> list[ConstantTerm]:
        return constant_terms(self)

    def loses_a_term(self, cut: Cut) -> list[Parameter]:
        """Return the parameters that train and lose a term of the loss at a cut that starves others."""
        terms = [t for t in self._constant_terms if t.starves and any(c.location == cut.location for c in t.cuts)]
        return self.by_index({p.index for term in terms for p in term.parameters} - self.starved)

    @cached_property
    def terms_behind(self) -> dict[int, list[SiteId]]:
        """Position of a cut in `cuts` → sites of the terms of the loss that its values enter."""
        return terms_behind(self)

    @cached_property
    def dropped_terms(self) -> list[DroppedTerm]:
        """Scalars with a gradient that reach neither loss nor output, with the parameters nothing else uses."""
        return dropped_terms(self)

    @cached_property
    def left_out(self) -> list[DroppedTerm]:
        """Losses that nothing adds, with the starved parameters that they alone would train."""
        return left_out_losses(self)

    @cached_property
    def dropped_penalties(self) -> list[DroppedTerm]:
        """Scalars made of a gradient that has a graph (``create_graph``), which nothing reads."""
        return dropped_penalties(self)

    @cached_property
    def replaced(self) -> list[ReplacedParameter]:
        """The tensors that optimizers hold and the model no longer does."""
        return replaced_parameters(self.trace)

    @cached_property
    def frozen_optimizers(self) -> list[FrozenOptimizer]:
        """The optimizers that train nothing because all that they contain is frozen."""
        return list(frozen_optimizers(self.trace))

    @cached_property
    def parted(self) -> list[PartedOptimizer]:
        """The optimizers that step tensors in the place of the model's parameters; those in `replaced` are left out."""
        known = {old.optimizer for old in self.replaced}
        return [parted for parted in parted_optimizers(self) if parted.optimizer.number not in known]
