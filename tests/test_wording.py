"""Names, counts and verbs as messages write them."""

from __future__ import annotations

from dataclasses import dataclass

from cases import each

from gradlint.wording import count, counts, inflect, list_of, summarize_names


@dataclass(frozen=True)
class Tensor:
    """A parameter, as far as naming it goes."""

    fqn: str
    numel: int = 10


@each(
    ("number", "text"), [(0, "0"), (9_999, "9,999"), (235_147, "235.1k"), (7_100_000, "7.1M"), (1_200_000_000, "1.2B")]
)
def test_count(number: int, text: str) -> None:
    assert count(number) == text


@each(("sizes", "text"), [([1], "1 tensor, 1 parameter"), ([100, 12], "2 tensors, 112 parameters")])
def test_counts(sizes: list[int], text: str) -> None:
    assert counts([Tensor("", size) for size in sizes]) == text


@each(
    ("plural", "singular"),
    [("are", "is"), ("have", "has"), ("still train", "still trains"), ("them", "it")],
)
def test_inflect(plural: str, singular: str) -> None:
    assert inflect("ab", plural) == plural
    assert inflect("a", plural) == singular


@each(("names", "text"), [("a", "a"), ("abcd", "a, b, c, d"), ("abcde", "a, b, c, d and 1 more")])
def test_list_of(names: str, text: str) -> None:
    assert list_of(names) == text


EVERYTHING = [Tensor(f"enc.{layer}.{kind}") for layer in range(6) for kind in ("weight", "bias")] + [Tensor("head")]


@each(
    ("wanted", "text"),
    [
        ([], "no parameter"),
        (["head"], "head (1 tensor, 10 parameters)"),
        (["enc.0.weight", "enc.0.bias", "head"], "enc.0.*, head (3 tensors, 30 parameters)"),
        ([f"enc.{layer}.bias" for layer in range(6)], "enc.*.bias (6 tensors, 60 parameters)"),
        ([p.fqn for p in EVERYTHING[:-1]], "enc.* (12 tensors, 120 parameters)"),
    ],
)
def test_summarize_names(wanted: list[str], text: str) -> None:
    assert summarize_names([p for p in EVERYTHING if p.fqn in wanted], EVERYTHING) == text
