"""``gradlint.record``: recording a training loop where it stands, as a ``with`` block or a decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from gradlint.engine.check import check_trace
from gradlint.engine.options import Options
from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.load.setup import Setup, modules_of, normalize, optimizers_of
from gradlint.recorder.observation import Observation
from gradlint.recorder.steps import STEPS
from gradlint.rulekit.rule import Rule
from gradlint.traces.trace import Trace

F = TypeVar("F", bound=Callable[..., Any])


class Recording:
    """Records the training that runs in a ``with`` block, or in each call of a decorated function.

    ::

        with gradlint.record(model, optimizer=optimizer) as recording:
            train_one_epoch(model, optimizer)
        report = gradlint.check(recording)

    Recording ends with the block, or once each optimizer has stepped `steps` times; the block runs on. Nothing is put
    back: the training is your own. `trace` is there once the recording has ended.

    Args:
        model: the module, or name → module; None to find what is called.
        optimizer: one optimizer, several, or name → optimizer; None to find those made in the block.
        steps: how many steps of each optimizer to record; None for all of the block's.
        name: what the report calls it.

    Raises:
        UsageError: `model` or `optimizer` is something else.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module] | None = None,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer] | None = None,
        steps: int | None = STEPS,
        name: str = "<recording>",
    ) -> None:
        self._models: dict[str, nn.Module] | None = None
        self._optimizers: dict[str, Optimizer] | None = None
        if model is not None or optimizer is not None:
            try:
                setup = normalize(Setup(model, optimizer=optimizer, step=_nothing), "gradlint.record()")
            except Exception as error:
                raise UsageError(str(error)) from None
            self._models = modules_of(setup) if model is not None else None
            self._optimizers = optimizers_of(setup) if optimizer is not None else None
        self._steps = steps
        self._name = name
        self._observation: Observation | None = None
        self._trace: Trace | None = None

    @property
    def trace(self) -> Trace:
        """The trace of the last block.

        Raises:
            UsageError: the recording has not ended yet.
        """
        if self._trace is None:
            raise UsageError("this recording has not ended yet: its trace is there after the block")
        return self._trace

    def __enter__(self) -> Recording:
        if self._observation is not None:
            raise UsageError("this recording has begun already: make another with gradlint.record()")
        self._trace = None
        observation = Observation(self._name, self._models, self._optimizers, self._steps or STEPS)
        if self._steps is not None:
            observation.ledger.stopping = self._stop_early
        try:
            self._observation = observation
            observation.__enter__()
            return self
        except BaseException:
            self._observation = None
            observation.end()
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            if self._observation is not None:
                self._finish(self._observation)
        finally:
            try:
                self._end()
            finally:  # an interrupt may have come before the first did anything
                self._end()

    def __call__(self, function: F) -> F:
        """Return the function with each call recorded.

        Its ``trace`` attribute holds the trace of the last call.
        """

        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            try:
                with self:
                    return function(*args, **kwargs)
            finally:
                if self._trace is not None:
                    recorded.trace = self._trace  # type: ignore[attr-defined]

        return recorded  # type: ignore[return-value]

    def _stop_early(self) -> bool:
        observation = self._observation
        if observation is not None and observation.enough() and self._trace is None:
            self._finish(observation)
            observation.stop()
        return False

    def _end(self) -> None:
        if self._observation is not None:
            self._observation.end()
            self._observation = None

    def _finish(self, observation: Observation) -> None:
        if self._trace is None:
            self._trace = observation.trace()


record = Recording
"""Record the training in a ``with`` block, or in each call of a decorated function."""


class Watch:
    """Checks the first steps of training that a framework runs, for callbacks.

    Args:
        action: ``log`` what is found, or ``raise`` it.
        steps: how many steps of each optimizer to look at.
        rules: the rules to judge by; None for all.
    """

    def __init__(self, action: str = "log", steps: int = STEPS, rules: Iterable[type[Rule]] | None = None) -> None:
        if action not in ("log", "raise"):
            raise UsageError(f"action is {action!r}, expected 'log' or 'raise'")
        self._action = action
        self._steps = steps
        self._rules = rules
        self._observation: Observation | None = None
        self.report: Report | None = None
        """The verdict; None until there is one."""

    def begin(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Begin to record training."""
        if self._observation is None and self.report is None:
            named = {"" if len(optimizers) == 1 else str(n): o for n, o in enumerate(optimizers)}
            self._observation = Observation(type(model).__name__, {"": model}, named, self._steps)
            self._observation.__enter__()

    def after_step(self) -> None:
        """Judge after a step once there were enough.

        Raises:
            TrainingFault: something is wrong, and `action` is ``raise``.
        """
        if self._observation is not None and self._observation.enough():
            self.end()

    def end(self, *, judge: bool = True) -> None:
        """Judge at the end of training, unless it failed (`judge` False)."""
        if (observation := self._observation) is None:
            return
        from gradlint.rulekit import registry

        try:
            trace = observation.trace() if judge and observation.ledger.training.backwards else None
        finally:
            try:
                observation.end()
            finally:
                observation.end()
                self._observation = None
        if trace is not None:
            rules = registry.load().rules if self._rules is None else tuple(self._rules)
            self.report = check_trace(trace, rules, Options())
            self._tell(self.report)

    def _tell(self, report: Report) -> None:
        import logging
        from pathlib import Path

        from gradlint.findings import Severity
        from gradlint.report import concise
        from gradlint.report.view import View

        report.findings = [f for f in report.findings if f.severity > Severity.INFO]
        if not report.findings:
            return
        text = concise.render(report, View(width=100, color=False, terminal=False, encoding="utf-8", root=Path.cwd()))
        if self._action == "raise":
            raise TrainingFault(f"gradlint found what is wrong with this training:\n{text}", report)
        logging.getLogger("gradlint").warning("%s", text.rstrip())


class TrainingFault(Exception):
    """Something is wrong with the training that a callback watches.

    Attributes:
        report: all that was found.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def _nothing() -> None: ...
