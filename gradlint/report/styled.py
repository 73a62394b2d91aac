"""The parts of rich that reports are made of.

A report may be rendered inside the user's training, and rich draws a random number when it is imported. So Python's
random numbers are put back to where they were.
"""

from __future__ import annotations

import random

_before = random.getstate()
try:
    from rich.color import ColorSystem as ColorSystem
    from rich.console import Console as Console
    from rich.style import Style as Style
    from rich.text import Text as Text
finally:
    random.setstate(_before)
