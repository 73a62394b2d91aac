"""The end of a training of which enough is recorded."""

from __future__ import annotations


class EnoughRecorded(BaseException):
    """Ends the user's training once enough is recorded. A BaseException, so that no ``except Exception`` stops it."""
