"""Links from the codes in a report to the pages of rules, for terminals that follow them (OSC 8)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

_TITLE = re.compile(r"^((?:\x1b\[[0-9;]*m)+)([A-Z]+[0-9]+)(?= )", re.MULTILINE)
"""Matches the code at the beginning of a finding's title, which is styled; all other lines are indented or plain."""


def address_of(code: str, base: str) -> str:
    """Return the address of a rule's page.

    It is `base` with the code in the place of ``{code}``, else behind it.
    """
    return base.replace("{code}", quote(code)) if "{code}" in base else base + quote(code)


def with_links(text: str, codes: Iterable[str], base: str) -> str:
    """Return a coloured report whose titles lead to the pages of rules.

    Only the codes of rules become links.
    """
    known = frozenset(codes)

    def linked(match: re.Match[str]) -> str:
        style, code = match.groups()
        if code not in known:
            return match.group()
        return f"{style}\x1b]8;;{address_of(code, base)}\x1b\\{code}\x1b]8;;\x1b\\"

    return _TITLE.sub(linked, text)
