"""Whether two tensors hold the same values, which says if a step moved a parameter."""

from __future__ import annotations

import pytest
import torch

from gradlint.restore.tensors import same_values

NAN = float("nan")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [3.0, 2.0], False),
        ([1.0, 2.0], [1.0, 3.0], False),
        ([NAN, 2.0], [NAN, 2.0], True),
        ([1.0, NAN], [1.0, NAN], True),
        ([NAN, 2.0], [NAN, 3.0], False),
        ([NAN, 2.0], [1.0, 2.0], False),
        ([1.0, 2.0], [NAN, 2.0], False),
        ([], [], True),
    ],
)
def test_nan_equals_nan_wherever_it_stands(left, right, same):
    assert same_values(torch.tensor(left), torch.tensor(right)) is same


@pytest.mark.parametrize(("left", "right", "same"), [(1.0, 1.0, True), (1.0, 2.0, False), (NAN, NAN, True)])
def test_scalars_are_compared(left, right, same):
    assert same_values(torch.tensor(left), torch.tensor(right)) is same
