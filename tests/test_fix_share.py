"""The script that counts the fixes which work: on a file with edits, and on one without."""

from __future__ import annotations

from collections import Counter

import fix_share
import pytest
import table
from cases import each

SHARES = {
    "requires_grad_on_module.py": {"gone"},
    "detached_upstream.py": {"gone", "code"},
}


@pytest.mark.slow
@each("name", SHARES)
def test_each_fix_of_a_file_works_or_names_code(name: str) -> None:
    builders = fix_share.bad([table.FIXTURES / name])
    kinds = Counter(outcome.kind for outcome in fix_share.outcomes(builders))
    assert kinds and set(kinds) <= SHARES[name], kinds


@each("text, names_code", {
    "Call requires_grad_(False).": True, "Write `x = 1`.": True, "Pass lr=0.1.": True, "Use the result.": False,
}.items())  # fmt: skip
def test_what_reads_as_code(text: str, names_code: bool) -> None:
    assert bool(fix_share.CODE.search(text)) == names_code
