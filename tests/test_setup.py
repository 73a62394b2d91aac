"""Every accepted return shape of build() becomes one Setup; nonsense gives one sentence."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import each
from torch import nn

from gradlint.errors import TargetError
from gradlint.load.setup import Setup, modules_of, normalize, optimizers_of

M = nn.Linear(2, 2)
M2 = nn.Linear(2, 2)
X = torch.ones(2, 2)
O = torch.optim.SGD(M.parameters(), lr=0.1)  # noqa: E741
O2 = torch.optim.SGD(M2.parameters(), lr=0.1)
S = torch.optim.lr_scheduler.StepLR(O, 1)
CE = nn.CrossEntropyLoss()
PACKED = nn.utils.rnn.pack_sequence([X])


class Wrapper:
    """As accelerate's: no torch optimizer, but it holds one."""

    optimizer = O
    param_groups = O.param_groups


class Foreign:
    """An optimizer that does not subclass torch's."""

    param_groups = O.param_groups


FOREIGN = Foreign()


def loss(output: torch.Tensor) -> torch.Tensor:
    return output.sum()


SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "module": (M, {"model": M}),
    "pair": ((M, O), {"model": M, "optimizer": O}),
    "pair reversed": ((O, M), {"model": M, "optimizer": O}),
    "list": ([M, O], {"model": M, "optimizer": O}),
    "with criterion": ((M, O, CE), {"model": M, "optimizer": O, "loss": None}),
    "with loss": ((M, O, loss), {"loss": loss}),
    "with scheduler": ((M, O, S), {"optimizer": O}),
    "scheduler alone": ((M, S), {"optimizer": O}),
    "with None": ((M, O, None), {"optimizer": O}),
    "with a tensor": ((M, X), {"inputs": (X,)}),
    "several optimizers": ((M, [O, O2]), {"optimizer": {"0": O, "1": O2}}),
    "tuple of dicts": (({"a": M}, {"a": O}), {"model": {"a": M}, "optimizer": {"a": O}}),
    "dict": ({"model": M, "inputs": (X,), "train": False}, {"model": M, "inputs": (X,), "train": False}),
    "setup": (Setup(M, loss=loss), {"model": M, "loss": loss}),
    "step alone": ({"step": lambda: None}, {"model": None}),
    "tensor input": ({"model": M, "inputs": X}, {"inputs": (X,)}),
    "list input": ({"model": M, "inputs": [X, X]}, {"inputs": (X, X)}),
    "keyword input": ({"model": M, "inputs": collections.UserDict(x=X)}, {"inputs": {"x": X}}),
    "packed input": ({"model": M, "inputs": PACKED}, {"inputs": (PACKED,)}),
    "dict model": ({"model": {"a": M, "b": M2}, "inputs": {"a": X}}, {"inputs": {"a": (X,)}}),
    "wrapper": ((M, Wrapper()), {"optimizer": O}),
    "foreign": ((M, FOREIGN), {"optimizer": FOREIGN}),
    "one pattern": ({"model": M, "trains": "head.*"}, {"trains": ("head.*",)}),
    "patterns": ({"model": M, "frozen": ["a.*", "b"]}, {"frozen": ("a.*", "b")}),
}


@each("name", SHAPES)
def test_shape(name: str) -> None:
    result, expected = SHAPES[name]
    setup = normalize(result)
    assert all(_same(getattr(setup, key), value) for key, value in expected.items()), setup


def _same(left: Any, right: Any) -> bool:
    if isinstance(right, dict) and isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in right)
    if isinstance(right, tuple) and isinstance(left, tuple) and not hasattr(right, "_fields"):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return left is right or (isinstance(right, (str, bool)) and bool(left == right))


NONSENSE: dict[str, tuple[Any, str]] = {
    "None": (None, "returned None"),
    "int": (3, "returned int 3"),
    "class": (nn.Linear, "the class Linear"),
    "optimizer alone": (O, "returned a SGD"),
    "empty dict": ({}, "no model"),
    "model None": ({"model": None}, "no model"),
    "tuple without a model": ((O,), "without a model"),
    "two models": ((M, M2), "2 models"),
    "unknown key": ({"model": M, "optimiser": O}, "did you mean 'optimizer'"),
    "dict of modules": ({"g": M, "d": M2}, "{'model': {name: module"),
    "model is a class": ({"model": nn.Linear}, "write Linear()"),
    "model is a function": ({"model": loss}, "the function loss"),
    "model of non-modules": ({"model": {"a": 1}}, "model['a'] is int 1"),
    "optimizer is a class": ({"model": M, "optimizer": torch.optim.SGD}, "write SGD(...)"),
    "optimizer is a scheduler": ({"model": M, "optimizer": S}, "pass the SGD it schedules"),
    "inputs of no model": ({"model": {"gen": M}, "inputs": {"gn": X}}, "did you mean 'gen'"),
    "inputs not keyed": ({"model": {"gen": M}, "inputs": (X,)}, "keyed like 'model' (gen)"),
    "loss with a target": ({"model": M, "loss": CE}, "lambda output: criterion(output, target)"),
    "loss not callable": ({"model": M, "loss": 0.5}, "'loss' is float 0.5"),
    "step with arguments": ({"model": M, "step": loss}, "'step' needs arguments (output)"),
    "train not a bool": ({"model": M, "train": "yes"}, "'train' is str 'yes'"),
    "patterns not strings": ({"model": M, "trains": [1]}, "'trains' is a list"),
    "odd member": ((M, 1e-3), "member 1 is float 0.001"),
}


@each("name", NONSENSE)
def test_nonsense_is_told(name: str) -> None:
    result, expected = NONSENSE[name]
    with pytest.raises(TargetError) as caught:
        normalize(result)
    assert expected in str(caught.value)


@each("name", NONSENSE)
def test_nonsense_is_one_line_naming_the_function(name: str) -> None:
    with pytest.raises(TargetError) as caught:
        normalize(NONSENSE[name][0], "make()")
    assert str(caught.value).startswith("make()") and "\n" not in str(caught.value)


def test_unused_criterion_is_noted() -> None:
    assert "CrossEntropyLoss" in normalize((M, O, CE)).notes[0]


def test_setup_is_not_changed() -> None:
    setup = Setup(M, inputs=X)
    normalize(setup)
    assert setup.inputs is X


@each(
    ("helper", "setup", "expected"),
    [
        (modules_of, Setup(M), {"": M}),
        (modules_of, Setup({"a": M}), {"a": M}),
        (modules_of, Setup(None), {}),
        (optimizers_of, Setup(M), {}),
        (optimizers_of, Setup(M, optimizer=O), {"": O}),
        (optimizers_of, Setup(M, optimizer=[O, O2]), {"0": O, "1": O2}),
        (optimizers_of, Setup(M, optimizer={"a": O}), {"a": O}),
    ],
)
def test_helpers(helper: Callable[[Setup], Any], setup: Setup, expected: Any) -> None:
    assert helper(setup) == expected
