"""A callback for the Trainer of Hugging Face's transformers.

::

    trainer = Trainer(model, args, callbacks=[GradlintCallback(action="raise")], ...)
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from gradlint.api.recording import Watch
from gradlint.recorder.steps import STEPS


class GradlintCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Checks the first steps of a Trainer.

    Args:
        action: ``log`` findings as a warning of the logger ``gradlint``, or ``raise`` a `gradlint.TrainingFault`.
        steps: how many optimizer steps to look at.
    """

    def __init__(self, action: str = "log", steps: int = STEPS) -> None:
        self.watch = Watch(action, steps)
        """Holds the report once there is one."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to record."""
        optimizer = kwargs.get("optimizer")
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if kwargs.get("model") is not None:
            self.watch.begin(kwargs["model"], [optimizer] if optimizer is not None else [])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge once there were enough steps."""
        self.watch.after_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge what there is."""
        self.watch.end()
