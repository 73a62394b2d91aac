"""What the flow of small training setups says: operands that broadcast, terms that train nothing, factors of zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import each
from torch import nn
from torch.nn import functional

import gradlint
from gradlint.flow.broadcast import repeated_shape
from gradlint.flow.flow import Flow
from gradlint.flow.untrained_terms import find_untrained_terms


@each(
    ("first", "second", "shape"),
    [
        ((3, 1), (3,), (3, 3)),
        ((3,), (3, 1), (3, 3)),
        ((3, 1), (1, 3), (3, 3)),
        ((3, 1), (3, 1), None),
        ((3, 1), (3, 2), None),
        ((3, 1, 2), (3, 2), (3, 3, 2)),
        ((2, 3, 1), (2, 3), None),
        ((3, 1), (2,), None),
        ((3,), (1, 3), None),
        ((2, 3), (3, 2, 1), None),
        ((2, 1, 3), (2, 3), (2, 2, 3)),
        ((0, 1), (0,), None),
        ((), (), None),
    ],
)
def test_shape_that_broadcasting_repeats(
    first: tuple[int, ...], second: tuple[int, ...], shape: tuple[int, ...] | None
) -> None:
    assert repeated_shape(first, second) == shape


Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
WEIGHT, OTHER = torch.tensor(0.5), torch.tensor(0.25)


class Two(nn.Module):
    """A layer that trains, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(3, 2), nn.Linear(3, 2)
        self.teacher.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> tuple[Any, ...]:
        return self, x


def flow_of(loss: Loss, held: str = "") -> Flow:
    """Return the flow of a loss of the two layers; the optimizer holds those whose names begin so."""

    def build() -> dict[str, Any]:
        model = Two()
        parameters = [p for name, p in model.named_parameters() if name.startswith(held or "student")]
        optimizer = torch.optim.SGD(parameters, 0.1)
        y = torch.ones(4, 2)
        return dict(
            model=model, inputs=torch.ones(4, 3), optimizer=optimizer, loss=lambda given: loss(given[0], given[1], y)
        )

    return Flow(gradlint.trace(build))


def student(net: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(net.student(x), y)


def teacher(net: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(net.teacher(x), y)


TEACHER = ["teacher.bias", "teacher.weight"]


@each(
    ("title", "loss", "terms"),
    [
        ("added", lambda *a: student(*a) + teacher(*a), [TEACHER]),
        ("weighted", lambda *a: student(*a) + 0.5 * teacher(*a), [TEACHER]),
        ("weighted by a tensor", lambda *a: student(*a) + WEIGHT * teacher(*a), []),
        ("both weighted by it", lambda *a: WEIGHT * student(*a) + WEIGHT * teacher(*a), [TEACHER]),
        ("weighted by two tensors", lambda *a: OTHER * student(*a) + WEIGHT * teacher(*a), []),
        ("weighted by zero", lambda *a: student(*a) + 0.0 * teacher(*a), []),
        ("subtracted", lambda *a: student(*a) - teacher(*a), []),
        ("of data alone", lambda n, x, y: student(n, x, y) + functional.mse_loss(x[:, :2], y), [[]]),
        ("no criterion", lambda n, x, y: student(n, x, y) + n.teacher(x).mean(), []),
        ("alone", teacher, []),
    ],
)  # fmt: skip
def test_terms_that_train_nothing(title: str, loss: Loss, terms: list[list[str]]) -> None:
    found = find_untrained_terms(flow_of(loss))
    assert [sorted(p.fqn for p in term.parameters) for term in found] == terms


def test_term_of_parameters_that_an_optimizer_holds_may_train_later() -> None:
    assert find_untrained_terms(flow_of(lambda *a: student(*a) + teacher(*a), held="teacher")) == []


@each(
    ("title", "loss", "feeds"),
    [
        ("apart", lambda *a: student(*a) + teacher(*a), False),
        ("by the same line", lambda n, x, y: error(n.student(x), y) + error(n.teacher(x), y), True),
        ("before the student", lambda n, x, y: student(n, x + n.teacher(x).mean(), y) + teacher(n, x, y), True),
        ("of data", lambda n, x, y: student(n, x, y) + data(x, y), False),
    ],
)
def test_term_whose_parameters_feed_what_trains(title: str, loss: Loss, feeds: bool) -> None:
    [term] = find_untrained_terms(flow_of(loss))
    assert term.feeds_trained is feeds


def error(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(out, y)


def data(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(x[:, :2], y)


def idle(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.student(x).detach().pow(2).mean()


NAUGHT = float(len(""))


@each(
    ("title", "loss", "lost"),
    [
        ("written", lambda n, x, y: 0 * n.student(x).sum() + idle(n, x), True),
        ("written behind", lambda n, x, y: n.student(x).sum() * 0.0 + idle(n, x), True),
        ("computed", lambda n, x, y: NAUGHT * n.student(x).sum() + idle(n, x), False),
        ("not zero", lambda n, x, y: 2 * n.student(x).sum() + idle(n, x), False),
        ("nothing beside it", lambda n, x, y: 0 * n.student(x).sum(), False),
        ("another term trains", lambda n, x, y: 0 * n.student(x).sum() + n.student(x).mean(), False),
        ("a factor of the optimizer's", lambda n, x, y: n.student(x).sum().add(x.sum(), alpha=0), False),
    ],
)  # fmt: skip
def test_gradient_with_the_factor_zero(title: str, loss: Loss, lost: bool) -> None:
    assert bool(flow_of(loss).only_zero) is lost
