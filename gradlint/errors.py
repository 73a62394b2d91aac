"""The base exception of gradlint, and the kinds that a caller may distinguish."""

from __future__ import annotations


class GradlintError(Exception):
    """Something kept gradlint from doing its job; the message is one clear sentence for the user."""


class UsageError(GradlintError):
    """An option, a rule code or a pattern that makes no sense."""


class TargetError(GradlintError):
    """A target could not be loaded, built or run.

    Attributes:
        traceback: the user's traceback without gradlint's frames; empty if the fault is not in user code.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


def torch_missing(error: ImportError) -> TargetError:
    """Return the error for a missing torch."""
    return TargetError(
        f'checking a model needs torch, which cannot be imported ({error}): pip install "torch-gradlint[torch]"'
    )
