"""What other threads than the recorder's train, which no finding may follow from."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from gradlint.traces.ids import ParameterKey


class OtherThreads:
    """The training in threads that are not recorded."""

    def __init__(self) -> None:
        self.parameters: set[ParameterKey] = set()
        """The parameters that it trains."""
        self.steps = 0
        """Number of its optimizer steps."""
        self.on_step: Callable[[], None] | None = None
        """A function called at each of these steps, in their thread."""

    def stepped(self, optimizer: Optimizer) -> None:
        """Note a step in another thread, whose parameters are ignored from now on."""
        self.steps += 1
        self.parameters.update(ParameterKey(id(p)) for group in optimizer.param_groups for p in group["params"])
        if self.on_step is not None:
            self.on_step()
