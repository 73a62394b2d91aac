"""What the hooks collect besides events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradlint.traces.ids import (
    EventIndex,
    ModuleIndex,
    OptimizerKey,
    SiteId,
)
from gradlint.traces.ops import ModuleCall
from gradlint.traces.trace import Arguments


class HookLog:
    """The facts that the hooks collect besides events. Keeps the objects alive, so that identities stay unique."""

    def __init__(self) -> None:
        self.at_first_module: Callable[[], None] = lambda: None
        """Called before the first module is numbered: the user's libraries are imported then."""
        self.calls: list[ModuleCall] = []
        self.modules: list[nn.Module] = []
        self.numbers: dict[int, ModuleIndex] = {}
        self.optimizers: list[Optimizer] = []
        self.arguments: dict[OptimizerKey, Arguments] = {}
        """Optimizer → the arguments in the source of its constructor call."""
        self.under_construction: list[OptimizerKey] = []
        """The optimizers whose constructor is running."""
        self.group_events: dict[OptimizerKey, list[tuple[SiteId, EventIndex]]] = {}
        """Optimizer → (site, event) of each group in order."""
        self.schedulers: list[tuple[Any, SiteId]] = []
        """Learning-rate schedulers with the sites that created them."""
        self.scalers: list[tuple[Any, bool]] = []
        """Gradient scalers, each with True if the user wants it enabled."""
        self.steps: list[range] = []
        """Op ranges of the optimizer steps before training is followed: a warm-up in build()."""
        self.shards: dict[int, tuple[Tensor, Tensor]] = {}
        """Identity of a parameter that was gathered for a forward → (that parameter, the shard that stands for it)."""
        self.registrations: list[SiteId] | None = None
        """Sites of the registrations of an unrecorded run; None while they are not collected."""

    def number(self, module: nn.Module) -> ModuleIndex:
        """Return the number of a module, constant for the whole recording."""
        number = self.numbers.get(id(module))
        if number is None:
            if not self.modules:
                self.at_first_module()
            number = self.numbers[id(module)] = ModuleIndex(len(self.modules))
            self.modules.append(module)
        return number
