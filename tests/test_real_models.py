"""Real models from transformers configs: correct setups are silent, seeded mistakes are found where they were made."""

from __future__ import annotations

from importlib.util import find_spec

import proof
import pytest
import table

pytestmark = pytest.mark.skipif(not (find_spec("transformers") and find_spec("peft")), reason="no transformers or peft")

BUILDERS = [b for path in sorted((table.FIXTURES / "real").glob("*.py")) for b in table.builders(path, "bad_", "good_")]
BAD = [b for b in BUILDERS if b.name.startswith("bad_")]
GOOD = [b for b in BUILDERS if b.name.startswith("good_")]
FAMILIES = ("bert", "gpt2", "vit", "t5", "whisper", "clip", "llama", "resnet_50")


def test_every_family_has_a_correct_setup():
    assert [family for family in FAMILIES if not any(b.name.startswith(f"good_{family}") for b in GOOD)] == []


def test_ten_mistakes_are_seeded():
    assert len(BAD) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_builder(builder):
    wrong = ["it is bad and announces no error or warning"] if builder in BAD and not builder.bad else []
    wrong += proof.untruths(builder, nudge=False)
    report = table.report(builder.target)
    wrong += table.differences(builder, report, list(proof.parts(builder.load()()).parameters))
    assert not wrong, "\n".join([*wrong, table.names_of(builder.id, report)])
