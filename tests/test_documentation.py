"""The programs in the rules' documentation are true: the bad one gives its finding and no other, the other none."""

from __future__ import annotations

import claims
import pytest

from gradlint.rulekit import registry


@pytest.mark.parametrize("rule", registry.load(packs=False).rules, ids=lambda rule: rule.code)
def test_documentation(rule, tmp_path):
    wrong = list(claims.documentation(rule, tmp_path))
    assert not wrong, "\n".join(wrong)
