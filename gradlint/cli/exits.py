"""The exit codes, and what carries Ctrl-C to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlint.findings import Report

CLEAN, FOUND, FAILED, INTERRUPTED = 0, 1, 2, 130


class Interrupted(Exception):
    """The user pressed Ctrl-C.

    Attributes:
        report: what was found until then.
        is_shown: whether it was written to stdout.
    """

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report
        self.is_shown = False
