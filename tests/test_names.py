"""Names of many parameters in a message: prefixes, then patterns of numbers, then shared parts."""

from __future__ import annotations

from typing import NamedTuple

from gradlint.wording import summarize_names


class Named(NamedTuple):
    fqn: str
    numel: int = 1


def adapted() -> list[Named]:
    """Return the parameters of a model with adapters on two kinds of layers."""
    return [
        Named(f"model.layers.{number}.{block}.{part}")
        for number in range(6)
        for block in ("attention.query", "attention.value", "mlp.up")
        for part in ("base.weight", "lora_A.default.weight", "lora_B.default.weight")
    ]


def test_adapters_are_named_by_their_own_part() -> None:
    everything = adapted()
    wanted = [p for p in everything if "lora_" in p.fqn]
    assert summarize_names(wanted, everything) == "*.lora_A.*, *.lora_B.* (36 tensors, 36 parameters)"


def test_a_part_that_other_parameters_have_is_no_pattern() -> None:
    everything = adapted()
    wanted = [p for p in everything if "lora_" in p.fqn and ".0." not in p.fqn]
    assert "*.lora_A" not in summarize_names(wanted, everything)


def test_a_whole_subtree_is_a_prefix() -> None:
    everything = adapted()
    wanted = [p for p in everything if ".layers.1." in p.fqn]
    assert summarize_names(wanted, everything) == "model.layers.1.* (9 tensors, 9 parameters)"


def test_names_that_differ_in_numbers_are_one_pattern() -> None:
    everything = adapted()
    wanted = [p for p in everything if p.fqn.endswith("up.base.weight")]
    assert summarize_names(wanted, everything) == "model.layers.*.mlp.up.base.weight (6 tensors, 6 parameters)"
