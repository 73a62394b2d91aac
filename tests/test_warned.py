"""Warnings of user code and of torch name the same lines under the recorder as without it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradlint


class Warns(nn.Module):
    """Warns of its own line and of those above it."""

    def forward(self, x):
        for level in range(1, 6):
            warnings.warn(f"level {level}", stacklevel=level)
        return x


def by_hand(level):
    warnings.warn("by hand", stacklevel=level)


CASES: dict[str, Callable[[], object]] = {
    "a function of torch in Python": lambda: nn.functional.mse_loss(torch.ones(3, 1), torch.ones(3)),
    "the same from a layer": lambda: nn.MSELoss()(torch.ones(3, 1), torch.ones(3)),
    "three levels up": lambda: nn.functional.softmax(torch.ones(3)),
    "a function of torch in C": lambda: torch.tensor(torch.ones(2)),
    "a module": lambda: Warns()(torch.ones(2)),
    "a function": lambda: [by_hand(level) for level in (1, 2)],
    "a scheduler before its optimizer": lambda: torch.optim.lr_scheduler.StepLR(
        torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1), 1
    ).step(),
}


def warned(function: Callable[[], object]) -> list[tuple[str, int, str]]:
    """Where a function warns, and of what."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        function()
    return [(w.filename, w.lineno, str(w.message)) for w in seen]


@pytest.mark.parametrize("name", CASES)
def test_warnings_keep_their_lines(name):
    case = CASES[name]
    plain = warned(case)
    model = nn.Linear(2, 2)
    with gradlint.record(model):
        model(torch.ones(1, 2)).sum().backward()
        recorded = warned(case)
    assert plain and recorded == plain


def test_every_line_is_warned_of_once():
    def twice() -> None:
        for _ in range(2):
            nn.functional.mse_loss(torch.ones(3, 1), torch.ones(3))
            nn.functional.mse_loss(torch.ones(3, 1), torch.ones(3))

    with gradlint.record(nn.Linear(2, 2)), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        twice()
    assert len({w.lineno for w in seen}) == len(seen) == 2


def test_filters_apply_to_the_module_of_the_user():
    with gradlint.record(nn.Linear(2, 2)), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module=__name__)
        nn.functional.mse_loss(torch.ones(3, 1), torch.ones(3))
    assert seen == []
