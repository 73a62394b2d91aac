"""Intern the user's call chains while they are recorded."""

from __future__ import annotations

from types import CodeType

from gradlint.traces.ids import SiteId
from gradlint.traces.sites import Sites


class SiteTable:
    """The growing table of call chains."""

    def __init__(self) -> None:
        self.rows: list[tuple[CodeType, int, SiteId]] = []
        """(code, last instruction, number of the chain above) of each site."""
        self.numbers: dict[tuple[int, int, SiteId], SiteId] = {}
        """(identity of the code, last instruction, number of the chain above) → site."""
        self.so_far = Sites(self.rows)
        """The sites interned by now."""

    def intern(self, code: CodeType, instruction: int, above: SiteId) -> SiteId:
        """Return the number of the chain made of this frame on top of the chain `above`."""
        key = (id(code), instruction, above)  # the code objects stay alive in `rows`: no other object gets their ids
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = SiteId(len(self.rows))
            self.rows.append((code, instruction, above))
        return number

    def known(self, site: SiteId, count: int) -> SiteId:
        """Return a site if it is among the first `count`, else the nearest site above it that is."""
        while site >= count:
            site = self.rows[site][2]
        return site
