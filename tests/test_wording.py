"""Names, counts and verbs as messages write them."""

from __future__ import annotations

import ast
import inspect
import re
import string
from dataclasses import dataclass
from pathlib import Path

import pytest
from cases import each

from gradlint.rulekit import registry
from gradlint.rulekit.context import Context
from gradlint.wording import INFLECTED, count, counts, inflect, list_of, patterns_of, plural, summarize_names


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
    ("number", "noun", "text"),
    [(1, "backward pass", "1 backward pass"), (2, "backward pass", "2 backward passes"), (0, "step", "0 steps")],
)
def test_plural(number: int, noun: str, text: str) -> None:
    assert plural(number, noun) == text


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


RULEKIT = Path(inspect.getfile(registry)).parent


def fields(path: Path) -> set[str]:
    """The names that a file may give to templates: keyword arguments, keys, and placeholders that it replaces."""
    source = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    given = {k.arg or "" for n in nodes if isinstance(n, ast.Call) for k in n.keywords}
    given |= {k.value for n in nodes if isinstance(n, ast.Dict) for k in n.keys if isinstance(k, ast.Constant)}
    return given | set(re.findall(r'\.replace\("\{(\w+)\}"', source))


SHARED = set().union(*map(fields, RULEKIT.glob("*.py")))


@each("rule", registry.load(packs=False).rules, ids=lambda rule: rule.code)
def test_each_placeholder_of_a_template_is_a_field_or_an_inflected_word(rule):
    known = fields(Path(inspect.getfile(rule))) | SHARED | INFLECTED | {"still_train"}
    templates = {name: text for name, text in vars(rule).items() if name.isupper() and isinstance(text, str)}
    used = {name: {field for _, field, _, _ in string.Formatter().parse(text)} for name, text in templates.items()}
    assert {name: unknown for name, words in used.items() if (unknown := words - known - {None, ""})} == {}


def test_a_misspelt_placeholder_is_an_error():
    with pytest.raises(KeyError, match=r"\{paramters\} is neither a field nor one of"):
        Context.fill(Named(), "detach() cuts {paramters}", [Tensor("a")])


class Named:
    """A context, as far as its templates go."""

    def names(self, parameters):
        return ", ".join(p.fqn for p in parameters)


def test_many_names_are_folded_where_their_numbers_alone_differ() -> None:
    assert patterns_of(["layer.0.norm", "layer.1.norm"], limit=2) == "layer.0.norm, layer.1.norm"
    assert patterns_of([f"layer.{n}.norm" for n in range(3)] + ["head"], limit=2) == "layer.*.norm, head"
    assert patterns_of([f"layer.{n}.1" for n in range(3)], limit=2) == "layer.*.1"


def test_names_of_numbers_only_are_not_folded() -> None:
    assert patterns_of(["0.1", "1.1", "2.1"], limit=2) == "0.1, 1.1 and 1 more"
