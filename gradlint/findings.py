"""What a check gives back: findings, and the report that holds them. Plain data, no torch."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gradlint.location import Location
from gradlint.system.shown import Shown, save_map, to_dict, to_json


class Severity(enum.IntEnum):
    """The weight of a finding. Ordered: INFO < WARNING < ERROR."""

    INFO = 0
    """True and often intended; hidden by default."""
    WARNING = 1
    """Work is wasted, or a trap is set."""
    ERROR = 2
    """Training is wrong."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Related:
    """A second place that explains a finding: where the parameter was frozen, where the optimizer was made."""

    message: str
    location: Location


@dataclass(frozen=True)
class Edit:
    """Replace the text of `location` (its end included) by `text`."""

    location: Location
    text: str


@dataclass(frozen=True)
class Fix:
    """The remedy for a finding: a text and, if they are known, edits."""

    description: str
    safe: bool = False
    """True if the edits keep the program's meaning apart from the mistake itself."""
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Saved:
    """What one training step costs less once a finding is fixed."""

    activations: int = 0
    """Bytes that are kept for backward."""
    gradients: int = 0
    """Bytes."""
    optimizer: int = 0
    """Bytes of the optimizer's state."""
    flops: int = 0


@dataclass(frozen=True)
class Finding:
    """One mistake, at the place that caused it."""

    target: str
    """The target, as the user named it."""
    code: str
    """For example ``GL401``."""
    name: str
    """For example ``detached-upstream``."""
    severity: Severity
    message: str
    location: Location | None
    """None only where no line of any source file can be named."""
    parameters: tuple[str, ...] = ()
    """Fully qualified names of the parameters it hits, in the model's order."""
    related: tuple[Related, ...] = ()
    fix: Fix | None = None
    saving: Saved | None = None
    """What the fix saves, if that was measured."""


class Reporter(Protocol):
    """A rule, as far as its findings name it."""

    @property
    def code(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def severity(self) -> Severity: ...


@dataclass(frozen=True)
class Skipped:
    """A rule that could not judge, and why."""

    target: str
    code: str
    reason: str
    asked: bool = True
    """True if it judges every training setup that it can, rather than on request."""


@dataclass(frozen=True)
class Failure:
    """A target that ended in an error instead of a verdict."""

    target: str
    message: str
    """One sentence."""
    traceback: str = ""
    """The user's own traceback as text, without gradlint's frames; empty when the fault is not in their code."""


@dataclass(frozen=True)
class Note:
    """Something the user should know that is no finding: what was assumed, what could not be seen."""

    target: str
    message: str
    code: str = ""
    """``GL003`` for a part of the setup that could not be recorded; else empty."""
    location: Location | None = None


@dataclass(frozen=True)
class TargetSummary:
    """The recording of one target in numbers, so that no finding never means nothing seen. Counts are of tensors."""

    target: str
    inputs: str
    """The inputs that were used, in words, for example ``float32[2, 3, 224, 224] (searched)``."""
    loss: str
    """Description of the loss or output that the gradient was followed from."""
    parameters: int
    trainable: int
    frozen: int
    starved: int
    unused: int
    reached: int
    """Parameters that train."""
    numel: int
    """Number of scalars in all parameters."""
    optimizers: tuple[tuple[str, int], ...] = ()
    """(class name, number of parameters held) for each optimizer."""
    seconds: float = 0.0
    declared: tuple[int, ...] = (0, 0)
    """Numbers of parameters declared to train and to be frozen, if a contract was checked."""
    not_in_optimizer: int = 0
    """Trainable parameters that no optimizer holds."""
    zero_rate: int = 0
    """Parameters whose optimizer does not move them."""
    parts: tuple[tuple[str, str], ...] = ()
    """(name, outcomes in words) of each top-level part of the model, as in ``("encoder", "12 frozen")``."""
    proposed: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Patterns that names in the source suggest to declare frozen, and to declare trained; empty with a contract."""


@dataclass(frozen=True)
class ParameterState:
    """One parameter as an overview shows it."""

    name: str
    names: tuple[str, ...]
    """Every name of it, that of `name` first."""
    shape: tuple[int, ...]
    numel: int
    requires_grad: bool
    outcome: str
    """The outcome of training, as in ``no gradient``."""
    groups: tuple[tuple[int, int], ...]
    """(position of the optimizer, position of the group) of every group that holds it."""
    dtype: str
    device: str


@dataclass(frozen=True)
class ModuleState:
    """One module as an overview shows it."""

    name: str
    """Fully qualified name; empty for a single root."""
    parent: int
    """Position of the module that contains it; -1 for a root."""
    type: str
    class_number: int
    """Number of its class: two classes may have one name."""
    training: bool
    by_mode: str = ""
    """The layer that its mode decides on: ``norm`` with running statistics, ``dropout``; empty for others."""
    parameters: tuple[int, ...] = ()
    """Positions of the parameters that it registers and that are counted here."""
    tied: tuple[int, ...] = ()
    """Positions of those that it registers and that are counted in another module."""


@dataclass(frozen=True)
class GroupState:
    """One parameter group of an optimizer as an overview shows it."""

    lr: float | None
    weight_decay: float | None
    scheduled: bool
    """True if a learning-rate scheduler is attached."""
    tensors: int
    """Number of tensors that it holds, those of other models included."""


@dataclass(frozen=True)
class OptimizerState:
    """One optimizer as an overview shows it."""

    label: str
    """Its class, with its name if there are several: ``SGD 'critic'``."""
    groups: tuple[GroupState, ...]


@dataclass(frozen=True)
class Overview:
    """The modules and parameters of one target, and the outcome of training for each. Parents come first."""

    target: str
    modules: tuple[ModuleState, ...]
    parameters: tuple[ParameterState, ...]
    optimizers: tuple[OptimizerState, ...]


@dataclass(frozen=True)
class Calls:
    """Torch calls of one line of code in one module, as a map shows them."""

    module: int
    """Position of the module in the overview; -1 outside of the model."""
    label: str
    """Names of the first functions that are called: ``relu, add``."""
    count: int
    """Number of calls."""
    location: Location | None
    kind: str = ""
    """``inputs`` or ``loss`` for the ends of the data flow; else empty."""


@dataclass(frozen=True)
class MapCut:
    """A place where gradient stops, as a map shows it."""

    text: str
    """As a clause: ``detach() cuts the gradient path``."""
    location: Location | None
    calls: int
    """Position of the calls at which gradient stops."""
    parameters: tuple[int, ...]
    """Positions in the overview of the parameters whose gradient ends there."""


@dataclass(frozen=True)
class FlowMap:
    """The data flow between the modules of one target, and where gradient flows back."""

    overview: Overview
    calls: tuple[Calls, ...]
    """In the order of their first run."""
    edges: tuple[tuple[int, int, int], ...]
    """(calls that make values, calls that read them, flow): 1 with gradient, 2 without gradient that is lost on the way
    from trainable parameters, 4 without any; sums of these if the values differ."""
    cuts: tuple[MapCut, ...]
    readers: tuple[tuple[int, ...], ...]
    """Parameter in the overview → positions of the calls that read it."""
    reasons: tuple[tuple[str, Location | None], ...]
    """Reasons of outcomes, with the lines that decide them."""
    reason: tuple[int, ...]
    """Parameter in the overview → position of its reason."""


@dataclass(frozen=True)
class Draft:
    """A file with a build() like the training of a script, or the reason why there is none."""

    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class SourceSummary:
    """Numbers of a source check, which runs no file."""

    files: int
    judged: int
    """Files that hold what a rule could be about; the others are not parsed."""
    cached: int = 0
    """Number of files whose findings came from the cache."""
    seconds: float = 0.0


@dataclass
class Report(Shown):
    """The outcome of a check over one or more targets. It prints like the report on the command line."""

    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    errors: list[Failure] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    targets: list[TargetSummary] = field(default_factory=list)
    hidden: int = 0
    """Number of info findings left out because no option includes them."""
    silenced: int = 0
    """Findings that comments in the source silenced."""
    known: int = 0
    """Findings that a baseline lists."""
    gone: int = 0
    """Findings that a baseline lists and that are there no more."""
    earlier: int = 0
    """Findings that the files had at an earlier revision (--since)."""
    fixed: int = 0
    """Findings whose edits were made."""
    sources: SourceSummary | None = None
    """Numbers of the source check; None without one."""
    overviews: list[Overview] = field(default_factory=list)
    """The modules of each target, if they were asked for."""
    maps: list[FlowMap] = field(default_factory=list)
    """The map of each target, if it was asked for."""
    draft: Draft | None = None
    """A build() like a script's training, if it was asked for."""
    ran: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """File → first and last lines of the user's functions that ran while recording."""
    spellings: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(Target, parameter) → the parameter's name with the attributes of wrappers, for those inside wrappers."""

    def extend(self, other: Report) -> None:
        """Append what another report holds."""
        self.findings += other.findings
        self.skipped += other.skipped
        self.errors += other.errors
        self.notes += other.notes
        self.targets += other.targets
        self.overviews += other.overviews
        self.maps += other.maps
        self.draft = other.draft or self.draft
        self.hidden += other.hidden
        self.silenced += other.silenced
        self.known += other.known
        self.gone += other.gone
        self.earlier += other.earlier
        self.fixed += other.fixed
        self.sources = other.sources or self.sources
        for path, spans in other.ran.items():
            self.ran[path] = tuple(dict.fromkeys((*self.ran.get(path, ()), *spans)))
        self.spellings |= other.spellings

    def worst(self) -> Severity | None:
        """Return the highest severity among the findings; None without findings."""
        return max((f.severity for f in self.findings), default=None)

    @property
    def clean(self) -> bool:
        """True if every target got a verdict and nothing above info was found."""
        return not self.errors and (self.worst() or Severity.INFO) < Severity.WARNING

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON report as plain dicts and lists."""
        return to_dict(self)

    def to_json(self) -> str:
        """Return the JSON report."""
        return to_json(self)


@dataclass(frozen=True)
class Summary(Shown):
    """The modules of a training setup with the outcome of training for each. It prints like ``gradlint summary``."""

    report: Report
    """The report of a check, with the overviews of its targets."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON summary as plain dicts and lists."""
        return to_dict(self)

    def to_json(self) -> str:
        """Return the JSON summary."""
        return to_json(self)


@dataclass(frozen=True)
class GradientMap(Shown):
    """Where gradient flows in a training setup and where it stops. Notebooks show it as ``gradlint map`` does."""

    report: Report
    """The report of a check, with the map of its target."""

    def save(self, path: str) -> None:
        """Write the map to a file, whose suffix decides the format, as for ``gradlint map -o``.

        Raises:
            GradlintError: the target failed, or the file cannot be written.
            UsageError: no map is written in a file of this name.
        """
        save_map(self, path)


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings ordered by path, line, column and code."""

    def place(finding: Finding) -> tuple[str, int, int, str]:
        where = finding.location or Location("", 0, 0)
        return where.path, where.line, where.column, finding.code

    return sorted(findings, key=place)
