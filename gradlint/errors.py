"""The one base exception of gradlint, and the few kinds that a caller may want to tell apart."""

from __future__ import annotations


class GradlintError(Exception):
    """Something kept gradlint from doing its job; the message is one clear sentence for the user."""


class UsageError(GradlintError):
    """An option, a rule code or a pattern that makes no sense."""


class TargetError(GradlintError):
    """A target could not be loaded, built or run.

    Attributes:
        traceback: the user's own traceback as text, without gradlint's frames; empty when the fault is not theirs.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


def torch_missing(error: ImportError) -> TargetError:
    """What to say where torch is needed and cannot be imported."""
    return TargetError(
        f'checking a model needs torch, which cannot be imported ({error}): pip install "torch-gradlint[torch]"'
    )
