"""A callback for Lightning's Trainer.

::

    trainer = Trainer(callbacks=[GradlintCallback(action="raise")], ...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradlint.api.recording import Watch
from gradlint.recorder.steps import STEPS

if TYPE_CHECKING:
    Callback = object
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback


class GradlintCallback(Callback):
    """Checks the first steps of a Trainer.

    Args:
        action: ``log`` findings as a warning of the logger ``gradlint``, or ``raise`` a `gradlint.TrainingFault`.
        steps: how many optimizer steps to look at.
    """

    def __init__(self, action: str = "log", steps: int = STEPS) -> None:
        super().__init__()
        self.watch = Watch(action, steps)
        """Holds the report once there is one."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record."""
        self.watch.begin(pl_module, [getattr(o, "optimizer", o) for o in trainer.optimizers])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Judge once there were enough steps."""
        self.watch.after_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge what there is."""
        self.watch.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the recorder, because training failed."""
        self.watch.end(judge=False)
