"""What users read is what was reviewed: words, related places, fixes and edits of every announced finding."""

from __future__ import annotations

import messages
import pytest
import table

REVIEWED = messages.read(messages.SNAPSHOT)


@pytest.mark.parametrize("builder", messages.builders(), ids=lambda b: b.id)
def test_words_are_as_reviewed(builder):
    now = messages.text(builder, table.report(builder.target))
    assert now == REVIEWED.get(builder.id), "if meant: python tests/kit/messages.py --write, and read it"


def test_nothing_else_is_kept():
    assert set(REVIEWED) == {b.id for b in messages.builders()}
