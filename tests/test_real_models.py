"""Real models from transformers configs: correct set-ups are silent, seeded mistakes are found where they were made."""

from __future__ import annotations

import proof
import pytest
import table

pytest.importorskip("transformers")
pytest.importorskip("peft")

BUILDERS = [b for path in sorted((table.FIXTURES / "real").glob("*.py")) for b in table.builders(path, "bad_", "good_")]
BAD = [b for b in BUILDERS if b.name.startswith("bad_")]
GOOD = [b for b in BUILDERS if b.name.startswith("good_")]
FAMILIES = ("bert", "gpt2", "vit", "t5", "whisper", "clip", "llama", "resnet_50")


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_a_correct_set_up(family):
    assert any(b.name.startswith(f"good_{family}") for b in GOOD)


def test_ten_mistakes_are_seeded():
    assert len(BAD) >= 10


@pytest.mark.parametrize("builder", BAD, ids=lambda b: b.id)
def test_bad_builder_announces_an_error_or_a_warning(builder):
    assert builder.bad


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_what_is_announced_is_true(builder):
    assert not list(proof.untruths(builder, nudge=False))


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_builder_gives_what_it_announces(builder):
    report = table.report(builder.target)
    names = list(proof.parts(builder.load()()).parameters)
    wrong = list(table.differences(builder, report, names))
    assert not wrong, "\n".join([*wrong, table.names_of(builder.id, report)])
